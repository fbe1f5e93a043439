"""Data as other tools write it: each layout trains the right thing, or one line says what to do."""

import re
from collections import Counter

import pytest
from catalogs import by_name, parquet, put
from PIL import Image
from tarred import write_tar

from tutelage.config import TableConfig
from tutelage.data.memory import encoded
from tutelage.data.open import open_data
from tutelage.system.errors import TutelageError

# A case is its name and what lies in a folder: images, and files of the rows behind a colon, with |
# between them. Then < DATA, if it is not the folder, and options; = the images of each split and
# class (- has none); every warning behind a -; or ! the error. A line goes on where it is indented
# deeper. ROOT is the folder. To add a layout, add a case.
CASES = r"""
as the documentation says
    train/ant/1.png train/ant/2.png train/bee/3.png test/ant/4.png test/bee/5.png
    = train: 2 ant, 1 bee; test: 1 ant, 1 bee

all other split names
    Validation/ant/6.png Validation/bee/7.png UNLABELED/8.png training/unlabelled/9.png
    training/ant/1.png training/ant/2.png training/bee/3.png testing/ant/4.png testing/bee/5.png
    = train: 2 ant, 1 bee, 2 -; val: 1 ant, 1 bee; test: 1 ant, 1 bee

a bare tree with a pool
    ants/a.png bees/b.png unlabelled/c.png
    = train: 1 ants, 1 bees, 1 -

what runs write beside images makes no class
    a.png
    chosen/suggested.html:
    runs/first/report.html:
    = train: 1 -
    - class folder chosen holds no images: left out; add some or delete it
    - class folder runs holds no images: left out; add some or delete it
    - 2 other files are ignored (first: ROOT/chosen/suggested.html)

what is left out is counted
    train/ant/1.png train/loose.png extra/x.png
    train/ant/notes.txt:
    readme.md:
    = train: 1 ant
    - folder extra is left out: beside train only unlabeled, val and test are read
    - 1 image outside a class folder (first: ROOT/train/loose.png): left out; move such images
      into a class folder or into unlabeled
    - 2 other files are ignored (first: ROOT/readme.md)

hidden files and folders are not seen, but what cannot be decoded is
    train/ant/1.png train/ant/phone.HEIC train/ant/.a.jpg train/ant/._a.jpg train/.thumbs/a.jpg
    train/ant/.thumbs/a.jpg .git/x.jpg
    = train: 2 ant

two folders for one split
    Train/ant/1.png Train/ant/2.png Train/bee/3.png training/ant/4.png training/bee/5.png
    ! ROOT holds Train and training, which both mean train; move all their content into one of
      them

roboflow folder
    valid/ant/6_jpg.rf.0123.png train/ant/1.png train/ant/2.png train/bee/3.png test/ant/4.png
    test/bee/5.png
    README.dataset.txt: ants > v1
    README.roboflow.txt: ants - v1
    = train: 2 ant, 1 bee; val: 1 ant; test: 1 ant, 1 bee
    - 2 other files are ignored (first: ROOT/README.dataset.txt)

wrapper folder
    __MACOSX/dataset/train/ant/1.png dataset/train/ant/1.png dataset/train/ant/2.png
    dataset/train/bee/3.png dataset/test/ant/4.png dataset/test/bee/5.png
    Thumbs.db:
    dataset/.DS_Store:
    dataset/train/ant/desktop.ini:
    = train: 2 ant, 1 bee; test: 1 ant, 1 bee
    - ROOT holds one folder, whose content is read; found: dataset/test, dataset/train

several wrapper folders
    archive/insects-v2/images/ant/1.png archive/insects-v2/images/bee/2.png
    = train: 1 ant, 1 bee
    - ROOT holds one folder, whose content is read; found: archive/insects-v2/images/ant,
      archive/insects-v2/images/bee

one class with one folder is no wrapper
    ant/2021/1.png ant/2021/2.png
    = train: 2 ant

classes beside test
    ant/1.png bee/2.png Test/ant/3.png
    ! ROOT holds class folders and a folder Test; move the class folders into ROOT/train (a
      class must not be called Test)

kaggle test without classes
    train/ant/1.png train/ant/2.png train/bee/3.png test/4.png test/5.png
    = train: 2 ant, 1 bee
    - the images in test have no class of train: 2 left out; classify such images with tutelage
      predict, or move them into unlabeled to learn from them

keras test in one folder of no class
    train/ant/1.png train/bee/3.png test/unknown/4.png
    = train: 1 ant, 1 bee
    - the images in test/unknown have no class of train: 1 left out; classify such images with
      tutelage predict, or move them into unlabeled to learn from them

kaggle folders twice
    train/train/ant/1.png train/train/bee/2.png test/test/3.png
    = train: 1 ant, 1 bee
    - the images in test/test have no class of train: 1 left out; classify such images with tutelage
      predict, or move them into unlabeled to learn from them

intel image classification
    seg_train/seg_train/ant/1.png seg_train/seg_train/bee/1.png seg_test/seg_test/ant/1.png
    seg_pred/seg_pred/1.png
    ! ROOT holds seg_test and seg_train, which look like splits, not classes; call them train,
      val and test, with class folders in them, or give a table with the columns image and label

classes that differ in case
    train/Cat/1.png train/dog/2.png test/cat/3.png
    ! ROOT: the classes 'Cat' and 'cat' differ only in case or spaces; give both the same name,
      or one of them another

letters as classes
    train/A/1.png train/a/2.png train/b/3.png
    = train: 1 A, 1 a, 1 b

yolo boxes
    train/images/1.png
    data.yaml: names: [ant, bee]
    train/labels/1.txt: 0 0.5 0.5 0.1 0.1
    ! ROOT/train holds images and labels, which look like boxes or masks of objects (YOLO, VOC,
      COCO); tutelage learns one class for each image. Put the images into class folders
      (train/<class>/*.jpg), or give a table with the columns image and label

masks
    images/1.png masks/1.png
    ! ROOT holds images and masks, which look like boxes or masks of objects (YOLO, VOC, COCO);
      tutelage learns one class for each image. Put the images into class folders
      (train/<class>/*.jpg), or give a table with the columns image and label

zip file
    photos.zip:
    < photos.zip
    ! ROOT/photos.zip is packed; unpack it first, and give the folder

folder of a zip
    photos.zip:
    ! no images in ROOT, but ROOT/photos.zip; unpack it first

a class called train
    bus/1.png car/2.png train/3.png
    = train: 1 -
    - folder bus is left out: beside train only unlabeled, val and test are read
    - folder car is left out: beside train only unlabeled, val and test are read

images alone
    1.png 2.png
    = train: 2 -

photos beside test
    1.png 2.png test/ant/3.png test/bee/4.png
    runs/1/report.html:
    = train: 2 -; test: 1 ant, 1 bee
    - 2 images beside test (first: ROOT/1.png): taken as unlabelled images to learn from

an image beside the classes of test is not learned from
    1.png test/ant/3.png test/5.png val/ant/4.png
    = train: 1 -; val: 1 ant; test: 1 ant
    - 1 image beside test and val (first: ROOT/1.png): taken as unlabelled images to learn from
    - 1 image outside a class folder (first: ROOT/test/5.png): left out; move such images into a
      class folder or into unlabeled

a picture for the reader beside unlabeled
    readme.png unlabeled/1.png test/ant/3.png
    = train: 1 -; test: 1 ant
    - 1 image outside a class folder (first: ROOT/readme.png): left out; move such images into a
      class folder or into unlabeled

a folder beside train with a slip in its name
    raw/3.png unlabled/4.png train/ant/1.png train/bee/2.png
    = train: 1 ant, 1 bee
    - folder raw is left out: beside train only unlabeled, val and test are read
    - folder unlabled is left out: beside train only unlabeled, val and test are read; did you
      mean unlabeled by unlabled?

a slip beside classes
    ant/1.png tests/2.png unlabled/3.png
    = train: 1 ant, 1 tests, 1 unlabled
    - folder unlabled is taken for a class; did you mean unlabeled by unlabled?

a slip beside test
    unlabled/1.png test/ant/3.png
    ! ROOT holds class folders and a folder test; move the class folders into ROOT/train (a
      class must not be called test); did you mean unlabeled by unlabled?

kaggle birds
    train/ANT/1.png valid/BEE/2.png test/ANT/3.png
    birds.csv: class id,filepaths,labels,data set,scientific name |
      0,train/ANT/1.png,ant,train,A | 1,valid/BEE/2.png,bee,valid,B |
      0,test/ANT/3.png,ant,test,A
    < birds.csv
    = train: 1 ant; val: 1 bee; test: 1 ant

two label columns and the option
    1.png 2.png
    x.csv: file,class,category | 1.png,ant,insect | 2.png,owl,bird
    < x.csv label_column=category
    = train: 1 bird, 1 insect

columns in another language
    1.png 2.png
    x.csv: foto;art | 1.png;ant | 2.png;bee
    < x.csv image_column=foto label_column=Art
    = train: 1 ant, 1 bee

no header
    1.png 2.png
    x.csv: 1.png,ant | 2.png,bee
    < x.csv
    = train: 1 ant, 1 bee
    - ROOT/x.csv has no header; its columns are taken as image, label

utf 16 with tabs
    1.png 2.png
    x.csv [utf-16]: image<tab>label | 1.png<tab>ant | 2.png<tab>bee
    < x.csv
    = train: 1 ant, 1 bee

cp949
    1.png 2.png
    x.csv [cp949]: image,label | 1.png,개미 | 2.png,꿀벌
    < x.csv
    = train: 1 개미, 1 꿀벌
    - ROOT/x.csv is not UTF-8 and is read as CP949 (Korean Windows); if names look wrong, save it
      as CSV UTF-8

isic ids without suffix
    ISIC_images/ISIC_0001.jpg ISIC_images/ISIC_0002.jpg ISIC_images/ISIC_0003.JPG
    x.csv: image_id,diagnosis | ISIC_0001,ant | ISIC_0002,bee | ISIC_0003,bee
    < x.csv
    = train: 1 ant, 2 bee
    - the images of ROOT/x.csv lie elsewhere, and were found (first:
      ROOT/ISIC_images/ISIC_0001.jpg)

ids in two folders
    small/1.png large/1.png
    labels.csv: id,label | 1,ant
    < labels.csv
    ! ROOT/labels.csv: 1 may be large/1.png or small/1.png in ROOT; give the folder that the
      listed paths start from with --image-root, or list its suffix, too

ids in two folders and the option
    small/1.png small/2.png large/1.png large/2.png
    labels.csv: id,label | 1,ant | 2,bee
    < labels.csv image_root=ROOT/large
    = train: 1 ant, 1 bee

paths of another machine
    train/ant/1.png train/bee/1.png
    x.csv: image,label | C:\Users\kim\photos\ant\1.png,ant | C:\Users\kim\photos\bee\1.png,bee
    < x.csv
    = train: 1 ant, 1 bee
    - the images of ROOT/x.csv lie elsewhere, and were found (first: ROOT/train/ant/1.png)

a regression target
    0.png 1.png 2.png 3.png 4.png 5.png 6.png 7.png 8.png 9.png 10.png 11.png
    x.csv: Id,target | 0.png,0.0 | 1.png,1.5 | 2.png,3.0 | 3.png,4.5 | 4.png,6.0 | 5.png,7.5 |
      6.png,9.0 | 7.png,10.5 | 8.png,12.0 | 9.png,13.5 | 10.png,15.0 | 11.png,16.5
    < x.csv
    ! ROOT/x.csv: column target holds 12 different values, among them 1.5; tutelage learns
      classes, not amounts. If this is the wrong column, choose the column of the classes with
      --label-column; otherwise put the amounts into a few classes

a label that is an id
    0.png 1.png 2.png 3.png 4.png 5.png 6.png 7.png 8.png 9.png 10.png 11.png
    x.csv: file,label | 0.png,patient0 | 1.png,patient1 | 2.png,patient2 | 3.png,patient3 |
      4.png,patient4 | 5.png,patient5 | 6.png,patient6 | 7.png,patient7 | 8.png,patient8 |
      9.png,patient9 | 10.png,patient10 | 11.png,patient11
    < x.csv
    ! ROOT/x.csv: column label holds another value in each of its 12 rows (first: patient0), so
      these are no classes; choose the column of the classes with --label-column

a spreadsheet
    labels.xlsx:
    < labels.xlsx
    ! ROOT/labels.xlsx is a spreadsheet; save it as CSV UTF-8

kaggle folder
    train/a1.jpg train/a2.jpg train/a3.jpg test/b1.jpg
    train.csv: image_id,label | a1,ant | a2,bee | a3,bee
    sample_submission.csv: image_id,label | b1,ant
    = train: 1 ant, 2 bee
    - the classes are those in ROOT/train.csv
    - the images of ROOT/train.csv lie elsewhere, and were found (first: ROOT/train/a1.jpg)
    - 1 image in ROOT is not listed (first: test/b1.jpg): left out; classify such images with
      tutelage predict, or move them into unlabeled to learn from them

kaggle folder with other names and a pool
    unlabeled/c1.jpg train_images/a1.jpg train_images/a2.jpg train_images/a3.jpg
    test_images/b1.jpg
    train.csv: image_id,label | a1,ant | a2,bee | a3,bee
    sample_submission.csv: image_id,label | b1,ant
    = train: 1 ant, 2 bee, 1 -
    - the classes are those in ROOT/train.csv
    - the images of ROOT/train.csv lie elsewhere, and were found (first:
      ROOT/train_images/a1.jpg)
    - 1 image in ROOT is not listed (first: unlabeled/c1.jpg): taken as unlabelled
    - 1 image in ROOT is not listed (first: test_images/b1.jpg): left out; classify such images
      with tutelage predict, or move them into unlabeled to learn from them

kaggle folder in a wrapper
    cassava/train_images/a1.jpg cassava/train_images/a2.jpg cassava/train_images/a3.jpg
    cassava/test_images/b1.jpg
    cassava/train.csv: image_id,label | a1,ant | a2,bee | a3,bee
    cassava/sample_submission.csv: image_id,label | b1,ant
    = train: 1 ant, 2 bee
    - the classes are those in ROOT/cassava/train.csv
    - the images of ROOT/cassava/train.csv lie elsewhere, and were found (first:
      ROOT/cassava/train_images/a1.jpg)
    - 1 image in ROOT is not listed (first: cassava/test_images/b1.jpg): left out; classify such
      images with tutelage predict, or move them into unlabeled to learn from them

a table for each split
    train/1.png train/2.png test/1.png
    train.csv: file,label | 1.png,ant | 2.png,bee
    test.csv: file,label | 1.png,ant
    = train: 1 ant, 1 bee; test: 1 ant
    - the classes are those in ROOT/test.csv, ROOT/train.csv
    - the images of ROOT/test.csv lie elsewhere, and were found (first: ROOT/test/1.png)
    - the images of ROOT/train.csv lie elsewhere, and were found (first: ROOT/train/1.png)

a table of a few of the images
    images/0.png images/1.png images/2.png images/3.png val_images/5.png val_images/6.png
    labels.csv: file,label,split | images/0.png,ant, | images/1.png,bee,train |
      val_images/5.png,ant,val
    = train: 1 ant, 1 bee, 2 -; val: 1 ant
    - the classes are those in ROOT/labels.csv
    - 2 images in ROOT are not listed (first: images/2.png): taken as unlabelled
    - 1 image in ROOT is not listed (first: val_images/6.png): left out; classify such images
      with tutelage predict, or move them into unlabeled to learn from them

two tables for one split
    images/1.png
    a.csv: file,label | 1.png,ant
    b.csv: file,label | 1.png,bee
    ! ROOT/a.csv and ROOT/b.csv both list images of train with labels; give the one you mean
      instead of the folder, or move the other one away

image folder with metadata csv
    1.png 2.png
    metadata.csv: file_name,label | 1.png,ant | 2.png,bee
    = train: 1 ant, 1 bee
    - the classes are those in ROOT/metadata.csv

image folder with metadata jsonl in its splits
    train/1.png train/2.png test/1.png
    train/metadata.jsonl: {"file_name": "1.png", "label": 0} | {"file_name": "2.png", "label":
      1}
    test/metadata.jsonl: {"file_name": "1.png", "label": 1}
    = train: 1 0, 1 1; test: 1 1
    - the classes are those in ROOT/test/metadata.jsonl, ROOT/train/metadata.jsonl

image folder with captions
    ant/1.png bee/2.png
    metadata.csv: file_name,text | ant/1.png,an ant | bee/2.png,a bee
    = train: 1 ant, 1 bee
    - 1 other file is ignored (first: ROOT/metadata.csv)

a table that says what the folders say
    ant/1.png bee/2.png
    labels.csv: file,label | ant/1.png,0 | bee/2.png,1
    = train: 1 ant, 1 bee
    - 1 other file is ignored (first: ROOT/labels.csv)

a table that contradicts the folders
    ant/1.png bee/2.png bee/3.png
    labels.csv: file,label | ant/1.png,ant | bee/2.png,bee | bee/3.png,ant
    ! ROOT holds folders, such as ant, that seem to be classes, but ROOT/labels.csv gives their
      images other labels; give the table itself to use its labels, or move it away to use the
      folders

ham10000
    part_1/1.jpg part_1/2.jpg part_2/3.jpg part_2/4.jpg
    metadata.csv: lesion_id,image_id,class | x,1,ant | x,2,bee | y,3,ant | z,4,bee
    = train: 2 ant, 2 bee
    - the classes are those in ROOT/metadata.csv
    - the images of ROOT/metadata.csv lie elsewhere, and were found (first: ROOT/part_1/1.jpg)

predictions are no labels
    ant/1.png bee/2.png
    predictions.csv: image,label,confidence | ant/1.png,bee,0.5 | bee/2.png,ant,0.6
    = train: 1 ant, 1 bee
    - 1 other file is ignored (first: ROOT/predictions.csv)

a table with columns that are not known
    train/1.png train/2.png
    train.csv: id,breed | 1,ant | 2,bee
    = train: 2 -
    - ROOT/train.csv has no columns that are called as images and labels are; found: id, breed;
      name them with --image-column and --label-column
    - 1 other file is ignored (first: ROOT/train.csv)

a table with columns that the options name
    train/1.png train/2.png
    train.csv: id,breed | 1,ant | 2,bee
    < label_column=breed
    = train: 1 ant, 1 bee
    - the classes are those in ROOT/train.csv
    - the images of ROOT/train.csv lie elsewhere, and were found (first: ROOT/train/1.png)

a table whose images are not there
    1.png 2.png
    labels.csv: image,label | 7.png,ant
    ! ROOT/labels.csv: none of the 1 images is found in ROOT (first: 7.png); give the folder that
      the paths start from with --image-root

a list of images
    1.png 2.png
    list.csv: 1.png | 2.png
    < list.csv
    = train: 2 -
    - ROOT/list.csv has no header; its columns are taken as image
    - ROOT/list.csv has no column label, so its images are unlabelled; found: image;
      --label-column can name another column

an option without a table
    train/ant/1.png train/bee/2.png
    < label_column=breed
    ! no table of images and labels in ROOT; take out --label-column

a table with two label columns beside class folders
    train/ant/1.png train/bee/2.png
    insects.csv: file,class,category | train/ant/1.png,a,b
    = train: 1 ant, 1 bee
    - 1 other file is ignored (first: ROOT/insects.csv)

a table of other images
    train/ant/1.png train/bee/2.png
    labels.csv: file,label | 7.png,ant
    = train: 1 ant, 1 bee
    - 1 other file is ignored (first: ROOT/labels.csv)
"""
PHOTO = encoded(Image.new("RGB", (1, 1)))


def parsed():
    blocks = re.sub(r"\n {5,}", " ", CASES.strip()).split("\n\n")
    return [
        pytest.param(list(map(str.strip, lines)), id=name)
        for name, *lines in map(str.splitlines, blocks)
    ]


def built(root, lines):
    """What a case says to lie in the folder; the lines that say what comes of it."""
    said = []
    for line in lines:
        path, colon, rows = line.partition(":")
        if line[0] in "<=-!":
            said.append(line)
        elif colon:
            path, _, encoding = path.rstrip("]").partition(" [")
            text = "".join(f"{row}\n" for row in rows.strip().replace("<tab>", "\t").split(" | "))
            put(root / path, text.encode(encoding or "utf-8"))
        else:
            for name in line.split():
                put(root / name, PHOTO)
    return said


def counts_of(catalog):
    counts = Counter((split, label or "-") for label, split in by_name(catalog).values())
    of = {split: [] for split in ("train", "val", "test")}
    for (split, label), count in sorted(counts.items(), key=lambda item: (item[0][1] == "-", item)):
        of[split].append(f"{count} {label}")
    return "; ".join(f"{split}: {', '.join(found)}" for split, found in of.items() if found)


@pytest.mark.parametrize("lines", parsed())
def test_a_layout_is_read_or_refused_in_one_line(lines, tmp_path):
    said = built(tmp_path, lines)
    data, asked = tmp_path, {}
    if said[0].startswith("<"):
        words = said.pop(0)[1:].replace("ROOT", str(tmp_path)).split()
        asked = dict(word.split("=") for word in words if "=" in word)
        data = tmp_path.joinpath(*(word for word in words if "=" not in word))
    try:
        catalog, _ = open_data(data, table=TableConfig(**asked))
    except TutelageError as error:
        found = [f"! {error}"]
    else:
        found = [f"= {counts_of(catalog)}", *(f"- {text}" for text in catalog.warnings)]
        assert {catalog.source.read(row) for row in range(len(catalog))} == {PHOTO}
    assert [text.replace(str(tmp_path), "ROOT") for text in found] == said


def test_tars_with_capitals(tmp_path):
    write_tar(tmp_path / "Training-0.tar", [("1.png", PHOTO), ("1.cls", b"ant")])
    write_tar(tmp_path / "Test-0.tar", [("2.png", PHOTO), ("2.cls", b"bee")])
    write_tar(tmp_path / "Unlabeled-0.tar", [("3.png", PHOTO)])
    catalog, _ = open_data(tmp_path)
    assert counts_of(catalog) == "train: 1 ant, 1 -; test: 1 bee"


def test_parquet_of_paths_or_bytes_with_other_names(tmp_path):
    put(tmp_path / "1.png")
    put(tmp_path / "2.png")
    paths = {"File_Name": ["1.png", "2.png"], "Class": ["ant", "bee"]}
    content = {"img": [PHOTO, PHOTO], "category": ["ant", "bee"]}
    for columns in (paths, content):
        catalog, _ = open_data(parquet(tmp_path / "x.parquet", columns))
        assert counts_of(catalog) == "train: 1 ant, 1 bee"
