"""COCO's JSON, where each image has one category, and Roboflow's table."""

import json

import pytest
from catalogs import by_name, put

from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError

CATEGORIES = [{"id": 7, "name": "cat", "supercategory": "animal"}, {"id": 3, "name": "dog"}]


def coco(*found, boxes=False):
    """Images with the categories of their annotations."""
    images = [
        {"id": number, "file_name": name, "height": 3, "width": 3}
        for number, (name, *_) in enumerate(found)
    ]
    pairs = [(number, each) for number, (_, *of) in enumerate(found) for each in of]
    box = {"bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0} if boxes else {}
    annotations = [
        {"id": i, "image_id": number, "category_id": category, **box}
        for i, (number, category) in enumerate(pairs)
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES}


def saved(path, content):
    return put(path, json.dumps(content).encode())


def test_the_one_category_of_an_image_is_its_label(tmp_path):
    for name in ("images/a.jpg", "images/b.jpg", "images/c.jpg"):
        put(tmp_path / name)
    content = coco(("a.jpg", 7), ("b.jpg", 3, 3), ("c.jpg",))
    catalog = read_catalog(saved(tmp_path / "coco.json", content))
    assert by_name(catalog) == {
        "images/a.jpg": ("cat", "train"),
        "images/b.jpg": ("dog", "train"),
        "images/c.jpg": (None, "train"),
    }
    assert catalog.warnings == ()


def test_boxes_are_not_used_and_detection_is_explained(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        put(tmp_path / name)
    path = saved(tmp_path / "c.json", coco(("a.jpg", 7, 3), ("b.jpg", 3), ("c.jpg", 7), boxes=True))
    catalog = read_catalog(path)
    assert catalog.labels.tolist() == [-1, 1, 0]
    assert catalog.warnings == (
        f"{path}: the boxes are not used: whole images are classified",
        "1 image with several labels (first: a.jpg: cat, dog): taken as unlabelled; give each "
        "one label",
    )
    saved(path, coco(("a.jpg", 7, 3), ("b.jpg", 3, 7), ("c.jpg", 7), boxes=True))
    with pytest.raises(TutelageError, match=r"2 of 3 images hold objects of several.*detection"):
        read_catalog(path)


def test_roboflow_has_one_file_for_each_split(tmp_path):
    for split in ("train", "valid", "test"):
        put(tmp_path / split / "a.jpg", split.encode())
        saved(tmp_path / split / "_annotations.coco.json", coco(("a.jpg", 7)))
    catalog = read_catalog(tmp_path)
    assert by_name(catalog) == {
        "test/a.jpg": ("cat", "test"),
        "train/a.jpg": ("cat", "train"),
        "valid/a.jpg": ("cat", "val"),
    }


@pytest.mark.parametrize(
    ("key", "again", "message"),
    [
        ("categories", {"id": 7, "name": "horse"}, r"categories\[2\], horse, .* id 7 of cat;"),
        ("images", {"id": 1, "file_name": "c"}, r"images\[2\], c, .* id 1 of b;"),
    ],
)
def test_an_id_that_two_entries_have_is_refused(tmp_path, key, again, message):
    content = coco(("a", 7), ("b", 3))
    content[key] = [*content[key], again]
    with pytest.raises(TutelageError, match=f"{message} number .* anew"):
        read_catalog(saved(tmp_path / "c.json", content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, r"images is \{\}; expected a list"),
        ({"images": ["a.jpg"]}, r'images\[0\] is "a.jpg"; expected an object'),
        ({"images": [{"id": 0}]}, r"images\[0\], file_name is null; expected a text"),
        ({"images": [{"file_name": "a.jpg"}]}, r"images\[0\], id is null; expected a whole number"),
        ({"images": []}, r"1 image with annotations is not listed \(first: id 0\)"),
        ({"images": [], "annotations": []}, "lists no images"),
        ({"categories": [{"id": 1, "name": 3}]}, r"categories\[0\], name is 3; expected a text"),
        ({"categories": []}, r"annotations\[0\] has the category 7, which is not listed"),
        ({"annotations": [{"category_id": 7}]}, "image_id is null; expected a whole number"),
    ],
)
def test_wrong_shapes_are_said_with_their_place(tmp_path, change, message):
    put(tmp_path / "a.jpg")
    with pytest.raises(TutelageError, match=message):
        read_catalog(saved(tmp_path / "c.json", coco(("a.jpg", 7)) | change))


# --- Roboflow


def test_a_table_in_the_folder_of_each_split(tmp_path):
    for split in ("train", "valid", "test"):
        put(tmp_path / split / "a_jpg.rf.1.jpg")
        put(tmp_path / split / "b.jpg")
        put(
            tmp_path / split / "_classes.csv",
            b"filename, cat, dog\na_jpg.rf.1.jpg, 0, 1\nb.jpg, 0, 0\n",
        )
    catalog = read_catalog(tmp_path)
    assert by_name(catalog) == {
        f"{folder}/{name}": (label, split)
        for folder, split in (("train", "train"), ("valid", "val"), ("test", "test"))
        for name, label in (("a_jpg.rf.1.jpg", "dog"), ("b.jpg", None))
    }
    alone = read_catalog(tmp_path / "test/_classes.csv")
    assert by_name(alone)["a_jpg.rf.1.jpg"] == ("dog", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"filename,cat,dog\na.jpg,1,1\n", r"1 image with several labels \(first: a.jpg: cat, do"),
        (b"filename,cat,dog\na.jpg,2,0\n", "data row 1, cat is '2'; expected 0 or 1"),
        (b"filename,cat,dog\na.jpg,1\n", "data row 1, dog is ''; expected 0 or 1"),
        (b"filename,cat,dog\n,1,0\n", "data row 1 has no filename"),
        (b"image,cat\na.jpg,1\n", "lacks the column filename, .*segmented.*; found: image, cat"),
        (b"filename,cat\n", "lists no images"),
        (b"", "lists no images"),
        (b"filename,cat\na.jpg," + b"1" * 200_000, "field larger than field limit"),
    ],
)
def test_what_is_wrong_with_classes_csv_is_said_with_its_place(tmp_path, content, message):
    put(tmp_path / "a.jpg")
    with pytest.raises(TutelageError, match=message):
        read_catalog(put(tmp_path / "_classes.csv", content))
