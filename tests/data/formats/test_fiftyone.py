"""FiftyOne's image classification data sets are read, as a file and as a folder."""

import json

import pytest
from catalogs import by_name, put

from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError


def saved(folder, labels, classes=None):
    content = {"labels": labels} | ({} if classes is None else {"classes": classes})
    return put(folder / "labels.json", json.dumps(content).encode())


def test_targets_are_numbers_of_classes_or_class_names(tmp_path):
    for name in ("a.jpg", "in/b.c.png", "d.jpg"):
        put(tmp_path / "data" / name)
    want = {"data/a.jpg": ("dog", "train"), "data/in/b.c.png": ("cat", "train"),
            "data/d.jpg": (None, "train")}  # fmt: skip
    path = saved(tmp_path, {"a": 1, "in/b.c": 0, "d": None}, ["cat", "dog"])
    assert by_name(read_catalog(path)) == by_name(read_catalog(tmp_path)) == want
    sure = {"label": "cat", "confidence": 0.9}
    assert by_name(read_catalog(saved(tmp_path, {"a": "dog", "in/b.c": sure, "d": None}))) == want


def test_an_id_that_fits_two_images_is_refused(tmp_path):
    put(tmp_path / "data/a.jpg")
    put(tmp_path / "data/a.png")
    with pytest.raises(TutelageError, match=r"data/a may be data/a.jpg or data/a.png"):
        read_catalog(saved(tmp_path, {"a": "dog"}))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ({"a": 2}, ["cat", "dog"], "label of a is 2; expected 0 to 1"),
        ({"a": -1}, ["cat", "dog"], "label of a is -1; expected 0 to 1"),
        ({"a": 2}, None, "label of a is 2; expected a text"),
        ({"a": 0}, "cat", "classes is .cat.; expected a list"),
        ({"a": 0}, [1], r"classes\[0\] is 1; expected a text"),
        ({"a": ["x", "y"]}, None, r"several labels \(first: data/a.jpg: x, y\)"),
        ({"a": [{"label": "x", "bounding_box": [0, 0, 1, 1]}]}, None, "bounding_box: this is dete"),
        ({}, None, "lists no images"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(tmp_path, labels, classes, message):
    put(tmp_path / "data/a.jpg")
    with pytest.raises(TutelageError, match=message):
        read_catalog(saved(tmp_path, labels, classes))
