"""Data as other tools write it: each layout trains the right thing, or one line says what to do.

A case is a function that builds the data in a folder and returns DATA. ``read`` says what comes
out: by split, how many images there are of each class (None: unlabelled), and all warnings.
``refused`` says the error. In both, ROOT stands for the folder. To add a layout, add a function.
"""

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from catalogs import by_name, parquet, put
from PIL import Image
from tarred import write_tar

from tutelage.config import TableConfig
from tutelage.data.open import open_data
from tutelage.system.errors import TutelageError

Build = Callable[[Path], Path]
READ, REFUSED = [], []


def read(counts, *warnings, **asked) -> Callable[[Build], Build]:
    def added(build: Build) -> Build:
        READ.append(pytest.param(build, counts, list(warnings), asked, id=build.__name__))
        return build

    return added


def refused(message: str, **asked) -> Callable[[Build], Build]:
    def added(build: Build) -> Build:
        REFUSED.append(pytest.param(build, message, asked, id=build.__name__))
        return build

    return added


def photo() -> bytes:
    """An image of one pixel."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return file.getvalue()


PHOTO = photo()


def put_all(root: Path, *names: str) -> Path:
    for name in names:
        put(root / name, PHOTO)
    return root


def table(path: Path, *rows: str, encoding: str = "utf-8") -> Path:
    return put(path, "".join(row + "\n" for row in rows).encode(encoding))


ANTS_AND_BEES = {"train": {"ant": 2, "bee": 1}, "test": {"ant": 1, "bee": 1}}


def splits_of_classes(root: Path, train: str, test: str) -> Path:
    return put_all(
        root,
        *(f"{train}/ant/1.png", f"{train}/ant/2.png", f"{train}/bee/3.png"),
        *(f"{test}/ant/4.png", f"{test}/bee/5.png"),
    )


# --- folders


@read(ANTS_AND_BEES)
def as_the_documentation_says(root):
    return splits_of_classes(root, "train", "test")


@read(ANTS_AND_BEES)
def split_names_with_capitals(root):
    return splits_of_classes(root, "Train", "Test")


@read({**ANTS_AND_BEES, "train": {"ant": 2, "bee": 1, None: 2}, "val": {"ant": 1, "bee": 1}})
def all_other_split_names(root):
    put_all(root, "Validation/ant/6.png", "Validation/bee/7.png", "UNLABELED/8.png")
    put_all(root, "training/unlabelled/9.png")
    return splits_of_classes(root, "training", "testing")


@refused(
    "ROOT holds Train and training, which both mean train; move all their content into one of them"
)
def two_folders_for_one_split(root):
    return splits_of_classes(root, "Train", "training")


@read(
    {**ANTS_AND_BEES, "val": {"ant": 1}},
    "2 other files are ignored (first: ROOT/README.dataset.txt)",
)
def roboflow_folder(root):
    table(root / "README.dataset.txt", "ants > v1")
    table(root / "README.roboflow.txt", "ants - v1")
    put_all(root, "valid/ant/6_jpg.rf.0123.png")
    return splits_of_classes(root, "train", "test")


@read({**ANTS_AND_BEES, "val": {"ant": 1, "bee": 1}})
def ultralytics_classification(root):
    put_all(root, "val/ant/6.png", "val/bee/7.png")
    return splits_of_classes(root, "train", "test")


@read(
    ANTS_AND_BEES,
    "ROOT holds one folder, whose content is read; found: dataset/test, dataset/train",
)
def wrapper_folder(root):
    put_all(root, "__MACOSX/dataset/train/ant/1.png")
    for junk in ("Thumbs.db", "dataset/.DS_Store", "dataset/train/ant/desktop.ini"):
        put(root / junk)
    splits_of_classes(root / "dataset", "train", "test")
    return root


@read(
    {"train": {"ant": 1, "bee": 1}},
    (
        "ROOT holds one folder, whose content is read; found: archive/insects-v2/images/ant, "
        "archive/insects-v2/images/bee"
    ),
)
def several_wrapper_folders(root):
    return put_all(
        root, "archive/insects-v2/images/ant/1.png", "archive/insects-v2/images/bee/2.png"
    )


@read({"train": {"ant": 2}})
def one_class_with_one_folder_is_no_wrapper(root):
    return put_all(root, "ant/2021/1.png", "ant/2021/2.png")


@refused(
    "ROOT holds class folders and a folder Test; move the class folders into ROOT/train "
    "(a class must not be called Test)"
)
def classes_beside_test(root):
    return put_all(root, "ant/1.png", "bee/2.png", "Test/ant/3.png")


@read(
    {"train": {"ant": 2, "bee": 1}},
    (
        "the images in test have no class of train: 2 left out; classify them with tutelage "
        "predict, or move them into unlabeled to learn from them"
    ),
)
def kaggle_test_without_classes(root):
    put_all(root, "train/ant/1.png", "train/ant/2.png", "train/bee/3.png")
    return put_all(root, "test/4.png", "test/5.png")


@read(
    {"train": {"ant": 1, "bee": 1}},
    (
        "the images in test/unknown have no class of train: 1 left out; classify them with "
        "tutelage predict, or move them into unlabeled to learn from them"
    ),
)
def keras_test_in_one_folder_of_no_class(root):
    return put_all(root, "train/ant/1.png", "train/bee/3.png", "test/unknown/4.png")


@read(
    {"train": {"ant": 1, "bee": 1}},
    (
        "the images in test/test have no class of train: 1 left out; classify them with "
        "tutelage predict, or move them into unlabeled to learn from them"
    ),
)
def kaggle_folders_twice(root):
    return put_all(root, "train/train/ant/1.png", "train/train/bee/2.png", "test/test/3.png")


@refused(
    "ROOT holds seg_test and seg_train, which look like splits, not classes; call them "
    "train, val and test, with class folders in them, or give a table with the columns "
    "image and label"
)
def intel_image_classification(root):
    put_all(root, "seg_train/seg_train/ant/1.png", "seg_train/seg_train/bee/1.png")
    return put_all(root, "seg_test/seg_test/ant/1.png", "seg_pred/seg_pred/1.png")


@refused(
    "ROOT: the classes 'Cat' and 'cat' differ only in case or spaces; give both the same "
    "name, or one of them another"
)
def classes_that_differ_in_case(root):
    return put_all(root, "train/Cat/1.png", "train/dog/2.png", "test/cat/3.png")


@read({"train": {"A": 1, "a": 1, "b": 1}})
def letters_as_classes(root):
    return put_all(root, "train/A/1.png", "train/a/2.png", "train/b/3.png")


@refused(
    "ROOT/train holds images and labels, which look like boxes or masks of objects "
    "(YOLO, VOC, COCO); tutelage learns one class for each image. Put the images into "
    "class folders (train/<class>/*.jpg), or give a table with the columns image and "
    "label"
)
def yolo_boxes(root):
    table(root / "data.yaml", "names: [ant, bee]")
    table(root / "train/labels/1.txt", "0 0.5 0.5 0.1 0.1")
    return put_all(root, "train/images/1.png")


@refused(
    "ROOT holds images and labels, which look like boxes or masks of objects (YOLO, VOC, "
    "COCO); tutelage learns one class for each image. Put the images into class folders "
    "(train/<class>/*.jpg), or give a table with the columns image and label"
)
def ultralytics_boxes(root):
    table(root / "labels/train/1.txt", "0 0.5 0.5 0.1 0.1")
    return put_all(root, "images/train/1.png", "images/val/2.png")


@refused(
    "ROOT/VOC2012 holds JPEGImages and Annotations, which look like boxes or masks of "
    "objects (YOLO, VOC, COCO); tutelage learns one class for each image. Put the images "
    "into class folders (train/<class>/*.jpg), or give a table with the columns image "
    "and label"
)
def voc(root):
    table(root / "VOC2012/Annotations/1.xml", "<annotation/>")
    return put_all(root, "VOC2012/JPEGImages/1.png")


@refused(
    "ROOT holds images and masks, which look like boxes or masks of objects (YOLO, VOC, "
    "COCO); tutelage learns one class for each image. Put the images into class folders "
    "(train/<class>/*.jpg), or give a table with the columns image and label"
)
def masks(root):
    return put_all(root, "images/1.png", "masks/1.png")


@refused("ROOT/photos.zip is packed; unpack it first, and give the folder")
def zip_file(root):
    with zipfile.ZipFile(root / "photos.zip", "w") as file:
        file.writestr("train/ant/1.png", PHOTO)
    return root / "photos.zip"


@refused("ROOT/photos.tar.gz is packed; unpack it first, and give the folder")
def tar_gz(root):
    return put(root / "photos.tar.gz")


@refused("no images in ROOT, but ROOT/photos.zip; unpack it first")
def folder_of_a_zip(root):
    put(root / "photos.zip")
    return root


@read({"train": {"ant": 1, None: 1}, "test": {"bee": 1}})
def tars_with_capitals(root):
    write_tar(root / "Training-0.tar", [("1.png", PHOTO), ("1.cls", b"ant")])
    write_tar(root / "Test-0.tar", [("2.png", PHOTO), ("2.cls", b"bee")])
    write_tar(root / "Unlabeled-0.tar", [("3.png", PHOTO)])
    return root


@refused(
    "ROOT/train holds no class folders, but bus lies beside it; move the class folders "
    "into ROOT/train (a class must not be called train), or give a table with the "
    "columns image and label"
)
def a_class_called_train(root):
    return put_all(root, "bus/1.png", "car/2.png", "train/3.png")


@read({"train": {None: 2}})
def images_alone(root):
    return put_all(root, "1.png", "2.png")


@read(
    {"train": {None: 2}, "test": {"ant": 1, "bee": 1}},
    "2 images beside test (first: ROOT/1.png): taken as unlabelled images to learn from",
)
def photos_beside_test(root):
    put(root / "runs/1/report.html")  # of a run that was started in this folder
    return put_all(root, "1.png", "2.png", "test/ant/3.png", "test/bee/4.png")


@read(
    {"train": {None: 1}, "val": {"ant": 1}, "test": {"ant": 1}},
    "1 image beside test and val (first: ROOT/1.png): taken as unlabelled images to learn from",
    (
        "1 image outside a class folder (first: ROOT/test/5.png): left out; move such images into "
        "a class folder or into unlabeled"
    ),
)
def an_image_beside_the_classes_of_test_is_not_learned_from(root):
    return put_all(root, "1.png", "test/ant/3.png", "test/5.png", "val/ant/4.png")


@read(
    {"train": {None: 1}, "test": {"ant": 1}},
    (
        "1 image outside a class folder (first: ROOT/readme.png): left out; move such images into "
        "a class folder or into unlabeled"
    ),
)
def a_picture_for_the_reader_beside_unlabeled(root):
    return put_all(root, "readme.png", "unlabeled/1.png", "test/ant/3.png")


@read(
    {"train": {"ant": 1, "bee": 1}},
    "folder raw is left out: beside train only unlabeled, val and test are read",
    (
        "folder unlabled is left out: beside train only unlabeled, val and test are read; did you "
        "mean unlabeled by unlabled?"
    ),
)
def a_folder_beside_train_with_a_slip_in_its_name(root):
    put_all(root, "raw/3.png", "unlabled/4.png")
    return put_all(root, "train/ant/1.png", "train/bee/2.png")


@read(
    {"train": {"ant": 1, "tests": 1, "unlabled": 1}},
    "folder unlabled is taken for a class; did you mean unlabeled by unlabled?",
)
def a_slip_beside_classes(root):
    return put_all(root, "ant/1.png", "tests/2.png", "unlabled/3.png")


@refused(
    "ROOT holds class folders and a folder test; move the class folders into ROOT/train "
    "(a class must not be called test); did you mean unlabeled by unlabled?"
)
def a_slip_beside_test(root):
    return put_all(root, "unlabled/1.png", "test/ant/3.png")


# --- tables


@read({"train": {"ant": 2, "bee": 1}})
def csv_with_other_column_names(root):
    put_all(root, "1.png", "2.png", "3.png")
    return table(root / "x.csv", "Filename,Class", "1.png,ant", "2.png,ant", "3.png,bee")


@read(
    {
        "train": {"ant": 1},
        "val": {"bee": 1},
        "test": {"ant": 1},
    }
)
def kaggle_birds(root):
    put_all(root, "train/ANT/1.png", "valid/BEE/2.png", "test/ANT/3.png")
    return table(
        root / "birds.csv",
        "class id,filepaths,labels,data set,scientific name",
        *("0,train/ANT/1.png,ant,train,A", "1,valid/BEE/2.png,bee,valid,B"),
        "0,test/ANT/3.png,ant,test,A",
    )


@read({"train": {"ant": 1, "bee": 1, None: 1}})
def splits_in_a_column_with_other_names(root):
    put_all(root, "1.png", "2.png", "3.png")
    return table(
        root / "x.csv",
        "image,label,split",
        "1.png,ant,Training",
        "2.png,bee,",
        "3.png,bee,Unlabeled",
    )


@refused(
    "ROOT/x.csv has several columns that may hold what --label-column names: class, "
    "category; choose one, as in --label-column 'class'"
)
def two_label_columns(root):
    put_all(root, "1.png")
    return table(root / "x.csv", "file,class,category", "1.png,ant,insect")


@read({"train": {"insect": 1, "bird": 1}}, label_column="category")
def two_label_columns_and_the_option(root):
    put_all(root, "1.png", "2.png")
    return table(root / "x.csv", "file,class,category", "1.png,ant,insect", "2.png,owl,bird")


@read({"train": {"ant": 1, "bee": 1}}, image_column="foto", label_column="Art")
def columns_in_another_language(root):
    put_all(root, "1.png", "2.png")
    return table(root / "x.csv", "foto;art", "1.png;ant", "2.png;bee")


@refused("ROOT/x.csv has no column Art (--label-column); found: file, class", label_column="Art")
def an_option_that_names_no_column(root):
    put_all(root, "1.png")
    return table(root / "x.csv", "file,class", "1.png,ant")


@read(
    {"train": {"ant": 1, "bee": 1}},
    "ROOT/x.csv has no header; its columns are taken as image, label",
)
def no_header(root):
    put_all(root, "1.png", "2.png")
    return table(root / "x.csv", "1.png,ant", "2.png,bee")


@read({"train": {"ant": 1, "bee": 1}})
def utf_16_with_tabs(root):
    put_all(root, "1.png", "2.png")
    return table(root / "x.csv", "image\tlabel", "1.png\tant", "2.png\tbee", encoding="utf-16")


@read({"train": {"ant": 1, "bee": 1}})
def tsv_with_a_mark(root):
    put_all(root, "1.png", "2.png")
    return table(root / "x.tsv", "image\tlabel", "1.png\tant", "2.png\tbee", encoding="utf-8-sig")


@read(
    {"train": {"개미": 1, "꿀벌": 1}},
    (
        "ROOT/x.csv is not UTF-8 and is read as CP949 (Korean Windows), which gives '개미'; if "
        "that is wrong, save it as CSV UTF-8"
    ),
)
def cp949(root):
    put_all(root, "1.png", "2.png")
    return table(root / "x.csv", "image,label", "1.png,개미", "2.png,꿀벌", encoding="cp949")


@read(
    {"train": {"Käfer": 1, "Ölfliege": 1, "größer": 1}},
    (
        "ROOT/x.csv is not UTF-8 and is read as Windows-1252 (Western Europe), which gives "
        "'Käfer'; if that is wrong, save it as CSV UTF-8"
    ),
)
def windows_1252(root):
    put_all(root, "1.png", "2.png", "3.png")
    return table(
        root / "x.csv",
        "image,label",
        "1.png,Käfer",
        "2.png,Ölfliege",
        "3.png,größer",
        encoding="cp1252",
    )


@read({"train": {"ant": 1, "bee": 2}}, "the images of ROOT/x.csv were found in ROOT/ISIC_images")
def isic_ids_without_suffix(root):
    put_all(
        root, "ISIC_images/ISIC_0001.jpg", "ISIC_images/ISIC_0002.jpg", "ISIC_images/ISIC_0003.JPG"
    )
    return table(
        root / "x.csv", "image_id,diagnosis", "ISIC_0001,ant", "ISIC_0002,bee", "ISIC_0003,bee"
    )


@read({"train": {"ant": 1, "bee": 1}}, "the images of ROOT/train.csv were found in ROOT/train")
def ids_in_two_folders_go_by_the_tables_split(root):
    put_all(root, "train/1.png", "train/2.png", "test/1.png", "test/2.png")
    return table(root / "train.csv", "id,label", "1,ant", "2,bee")


@refused(
    "images that ROOT/labels.csv names lie in several folders: large, small; say which "
    "one with --image-root"
)
def ids_in_two_folders(root):
    put_all(root, "small/1.png", "large/1.png")
    return table(root / "labels.csv", "id,label", "1,ant")


@read({"train": {"ant": 1, "bee": 1}}, image_root="ROOT/large")
def ids_in_two_folders_and_the_option(root):
    put_all(root, "small/1.png", "small/2.png", "large/1.png", "large/2.png")
    return table(root / "labels.csv", "id,label", "1,ant", "2,bee")


@read({"train": {"ant": 1, "bee": 1}}, "the images of ROOT/x.csv were found in ROOT/train")
def paths_of_another_machine(root):
    put_all(root, "train/ant/1.png", "train/bee/1.png")
    prefix = "C:\\Users\\kim\\photos"
    return table(
        root / "x.csv", "image,label", f"{prefix}\\ant\\1.png,ant", f"{prefix}\\bee\\1.png,bee"
    )


@refused(
    "ROOT/x.csv: column target holds 12 different values, among them 1.5; tutelage "
    "learns classes, not amounts. If this is the wrong column, choose the column of the "
    "classes with --label-column; otherwise put the amounts into a few classes"
)
def a_regression_target(root):
    names = [f"{number}.png" for number in range(12)]
    put_all(root, *names)
    return table(root / "x.csv", "Id,target", *(f"{n},{i * 1.5}" for i, n in enumerate(names)))


@refused(
    "ROOT/x.csv: column label holds another value in each of its 12 rows (first: "
    "patient0), so these are no classes; choose the column of the classes with "
    "--label-column"
)
def a_label_that_is_an_id(root):
    names = [f"{number}.png" for number in range(12)]
    put_all(root, *names)
    return table(root / "x.csv", "file,label", *(f"{n},patient{i}" for i, n in enumerate(names)))


@refused(
    "ROOT/x.csv: column label holds 'NA' in 1 rows; if that means no label, leave these cells "
    "empty, and if it is a class, give it another name"
)
def a_label_that_may_mean_none(root):
    put_all(root, "1.png", "2.png", "3.png")
    return table(root / "x.csv", "image,label", "1.png,ant", "2.png,bee", "3.png,NA")


@refused(
    "ROOT/x.csv: the classes 'Ant' and 'ant' differ only in case or spaces; give both "
    "the same name, or one of them another"
)
def labels_that_differ_in_case(root):
    put_all(root, "1.png", "2.png")
    return table(root / "x.csv", "image,label", "1.png,Ant", "2.png,ant")


@read({"train": {"ant": 1, "bee": 1}})
def parquet_of_paths_with_other_names(root):
    put_all(root, "1.png", "2.png")
    return parquet(root / "x.parquet", {"File_Name": ["1.png", "2.png"], "Class": ["ant", "bee"]})


@read({"train": {"ant": 1, "bee": 1}})
def parquet_of_bytes_with_other_names(root):
    return parquet(root / "x.parquet", {"img": [PHOTO, PHOTO], "category": ["ant", "bee"]})


@refused("ROOT/labels.xlsx is a spreadsheet; save it as CSV UTF-8")
def a_spreadsheet(root):
    return put(root / "labels.xlsx")


# --- folders with tables


def kaggle(root: Path, train: str, test: str) -> Path:
    table(root / "train.csv", "image_id,label", "a1,ant", "a2,bee", "a3,bee")
    table(root / "sample_submission.csv", "image_id,label", "b1,ant")
    put_all(root, *(f"{train}/a{number}.jpg" for number in (1, 2, 3)), f"{test}/b1.jpg")
    return root


@read(
    {"train": {"ant": 1, "bee": 2}},
    "the classes are those in ROOT/train.csv",
    "the images of ROOT/train.csv were found in ROOT/train",
    (
        "1 image is in no table (first: ROOT/test/b1.jpg): left out; classify such images with "
        "tutelage predict, or move them into unlabeled to learn from them"
    ),
)
def kaggle_folder(root):
    return kaggle(root, "train", "test")


@read(
    {"train": {"ant": 1, "bee": 2, None: 1}},
    "the classes are those in ROOT/train.csv",
    "the images of ROOT/train.csv were found in ROOT/train_images",
    (
        "1 image is in no table (first: ROOT/test_images/b1.jpg): left out; classify such images "
        "with tutelage predict, or move them into unlabeled to learn from them"
    ),
)
def kaggle_folder_with_other_names_and_a_pool(root):
    put_all(root, "unlabeled/c1.jpg")
    return kaggle(root, "train_images", "test_images")


@read(
    {"train": {"ant": 1, "bee": 2}},
    "the classes are those in ROOT/cassava/train.csv",
    "the images of ROOT/cassava/train.csv were found in ROOT/cassava/train_images",
    (
        "1 image is in no table (first: ROOT/cassava/test_images/b1.jpg): left out; "
        "classify such images with tutelage predict, or move them into unlabeled to learn from them"
    ),
)
def kaggle_folder_in_a_wrapper(root):
    kaggle(root / "cassava", "train_images", "test_images")
    return root


@read(
    {"train": {"ant": 1, "bee": 1}, "test": {"ant": 1}},
    "the classes are those in ROOT/test.csv, ROOT/train.csv",
    "the images of ROOT/test.csv were found in ROOT/test",
    "the images of ROOT/train.csv were found in ROOT/train",
)
def a_table_for_each_split(root):
    put_all(root, "train/1.png", "train/2.png", "test/1.png")
    table(root / "train.csv", "file,label", "1.png,ant", "2.png,bee")
    table(root / "test.csv", "file,label", "1.png,ant")
    return root


@read(
    {"train": {"ant": 1, "bee": 1, None: 2}, "val": {"ant": 1}},
    "the classes are those in ROOT/labels.csv",
    "2 images beside those of the table are in no table: taken as unlabelled",
    (
        "1 image is in no table (first: ROOT/val_images/6.png): left out; classify such images "
        "with tutelage predict, or move them into unlabeled to learn from them"
    ),
)
def a_table_of_a_few_of_the_images(root):
    put_all(
        root,
        *(f"images/{number}.png" for number in range(4)),
        "val_images/5.png",
        "val_images/6.png",
    )
    rows = "images/0.png,ant,", "images/1.png,bee,train", "val_images/5.png,ant,val"
    table(root / "labels.csv", "file,label,split", *rows)
    return root


@refused(
    "ROOT/a.csv and ROOT/b.csv both list images of train with labels; give the one you "
    "mean instead of the folder, or move the other one away"
)
def two_tables_for_one_split(root):
    put_all(root, "images/1.png")
    table(root / "a.csv", "file,label", "1.png,ant")
    table(root / "b.csv", "file,label", "1.png,bee")
    return root


@read({"train": {"ant": 1, "bee": 1}}, "the classes are those in ROOT/metadata.csv")
def image_folder_with_metadata_csv(root):
    put_all(root, "1.png", "2.png")
    table(root / "metadata.csv", "file_name,label", "1.png,ant", "2.png,bee")
    return root


@read(
    {"train": {"0": 1, "1": 1}, "test": {"1": 1}},
    "the classes are those in ROOT/test/metadata.jsonl, ROOT/train/metadata.jsonl",
)
def image_folder_with_metadata_jsonl_in_its_splits(root):
    put_all(root, "train/1.png", "train/2.png", "test/1.png")
    for split, labels in (("train", [0, 1]), ("test", [1])):
        rows = [{"file_name": f"{i}.png", "label": of} for i, of in enumerate(labels, start=1)]
        table(root / split / "metadata.jsonl", *map(json.dumps, rows))
    return root


@read({"train": {"ant": 1, "bee": 1}}, "1 other file is ignored (first: ROOT/metadata.csv)")
def image_folder_with_captions(root):
    put_all(root, "ant/1.png", "bee/2.png")
    table(root / "metadata.csv", "file_name,text", "ant/1.png,an ant", "bee/2.png,a bee")
    return root


@read({"train": {"ant": 1, "bee": 1}}, "1 other file is ignored (first: ROOT/labels.csv)")
def a_table_that_says_what_the_folders_say(root):
    put_all(root, "ant/1.png", "bee/2.png")
    table(root / "labels.csv", "file,label", "ant/1.png,0", "bee/2.png,1")
    return root


@refused(
    "ROOT holds folders, such as ant, that seem to be classes, but ROOT/labels.csv gives "
    "their images other labels; give the table itself to use its labels, or move it away "
    "to use the folders"
)
def a_table_that_contradicts_the_folders(root):
    put_all(root, "ant/1.png", "bee/2.png", "bee/3.png")
    table(root / "labels.csv", "file,label", "ant/1.png,ant", "bee/2.png,bee", "bee/3.png,ant")
    return root


@read(
    {"train": {"ant": 2, "bee": 2}},
    "the classes are those in ROOT/metadata.csv",
    "the images of ROOT/metadata.csv were found in ROOT/part_1, ROOT/part_2",
)
def ham10000(root):
    put_all(root, "part_1/1.jpg", "part_1/2.jpg", "part_2/3.jpg", "part_2/4.jpg")
    table(
        root / "metadata.csv",
        "lesion_id,image_id,class",
        "x,1,ant",
        "x,2,bee",
        "y,3,ant",
        "z,4,bee",
    )
    return root


@read({"train": {"ant": 1, "bee": 1}}, "1 other file is ignored (first: ROOT/predictions.csv)")
def predictions_are_no_labels(root):
    put_all(root, "ant/1.png", "bee/2.png")
    table(
        root / "predictions.csv", "image,label,confidence", "ant/1.png,bee,0.5", "bee/2.png,ant,0.6"
    )
    return root


@read(
    {"train": {None: 2}},
    (
        "ROOT/train.csv has no columns that are called as images and labels are; found: id, "
        "breed; name them with --image-column and --label-column"
    ),
    "1 other file is ignored (first: ROOT/train.csv)",
)
def a_table_with_columns_that_are_not_known(root):
    put_all(root, "train/1.png", "train/2.png")
    table(root / "train.csv", "id,breed", "1,ant", "2,bee")
    return root


@read(
    {"train": {"ant": 1, "bee": 1}},
    "the classes are those in ROOT/train.csv",
    "the images of ROOT/train.csv were found in ROOT/train",
    label_column="breed",
)
def a_table_with_columns_that_the_options_name(root):
    put_all(root, "train/1.png", "train/2.png")
    table(root / "train.csv", "id,breed", "1,ant", "2,bee")
    return root


@refused(
    "ROOT/labels.csv: none of the 1 images exists (first: ROOT/7.png); paths are "
    "relative to the manifest, and --image-root names another folder"
)
def a_table_whose_images_are_not_there(root):
    put_all(root, "1.png", "2.png")
    table(root / "labels.csv", "image,label", "7.png,ant")
    return root


@read(
    {"train": {None: 2}},
    "ROOT/list.csv has no header; its columns are taken as image",
    (
        "ROOT/list.csv has no column label, so its images are unlabelled; found: image; "
        "--label-column can name another column"
    ),
)
def a_list_of_images(root):
    put_all(root, "1.png", "2.png")
    return table(root / "list.csv", "1.png", "2.png")


@refused("no table of images and labels in ROOT; take out --label-column", label_column="breed")
def an_option_without_a_table(root):
    return put_all(root, "train/ant/1.png", "train/bee/2.png")


@read({"train": {"ant": 1, "bee": 1}}, "1 other file is ignored (first: ROOT/insects.csv)")
def a_table_with_two_label_columns_beside_class_folders(root):
    put_all(root, "train/ant/1.png", "train/bee/2.png")
    table(root / "insects.csv", "file,class,category", "train/ant/1.png,a,b")
    return root


@read({"train": {"ant": 1, "bee": 1}}, "1 other file is ignored (first: ROOT/labels.csv)")
def a_table_of_other_images(root):
    put_all(root, "train/ant/1.png", "train/bee/2.png")
    table(root / "labels.csv", "file,label", "7.png,ant")
    return root


def counts_of(catalog):
    counts = {}
    for label, split in by_name(catalog).values():
        counts.setdefault(split, Counter())[label] += 1
    return counts


def options(asked, root):
    return TableConfig(**{name: text.replace("ROOT", str(root)) for name, text in asked.items()})


@pytest.mark.parametrize(("build", "counts", "warnings", "asked"), READ)
def test_a_layout_is_read(build, counts, warnings, asked, tmp_path):
    catalog, _ = open_data(build(tmp_path), table=options(asked, tmp_path))
    assert counts_of(catalog) == counts
    assert [text.replace(str(tmp_path), "ROOT") for text in catalog.warnings] == warnings
    assert {catalog.source.read(row) for row in range(len(catalog))} == {PHOTO}


@pytest.mark.parametrize(("build", "message", "asked"), REFUSED)
def test_a_layout_is_refused_in_one_line(build, message, asked, tmp_path):
    with pytest.raises(TutelageError) as error:
        open_data(build(tmp_path), table=options(asked, tmp_path))
    assert str(error.value).replace(str(tmp_path), "ROOT") == message
