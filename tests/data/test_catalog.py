"""A catalog's classes, rows and selections."""

import numpy as np
import pytest
from catalogs import by_name, put

from tutelage.data.catalog import catalog_from_arrays
from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError


def test_class_names_of_thousands_of_digits_are_sorted(tmp_path):
    for name in "abc":
        put(tmp_path / f"{name}.jpg")
    rows = f"image,label\na.jpg,{'9' * 5000}\nb.jpg,10\nc.jpg,9\n"
    catalog = read_catalog(put(tmp_path / "m.csv", rows.encode()))
    assert catalog.classes == ("10", "9", "9" * 5000)


def test_whole_number_classes_are_in_numeric_order(tmp_path):
    for name in ["10", "9", "2"]:
        put(tmp_path / name / "a.jpg")
    assert read_catalog(tmp_path).classes == ("2", "9", "10")


def test_catalog_from_arrays_and_select(tmp_path):
    paths = [put(tmp_path / f"{i}.jpg", bytes([i])) for i in range(4)]
    names, splits = ["d", "c", "b", "a"], ["train", "train", "val", "test"]
    catalog = catalog_from_arrays(names, [1, -1, 0, 1], splits, ["no", "yes"], paths)
    assert by_name(catalog)["d"] == ("yes", "train")
    some = catalog.select([3, 1])
    assert by_name(some) == {"a": ("yes", "test"), "c": (None, "train")}
    assert some.classes == ("no", "yes")
    assert [some.source.read(i) for i in range(2)] == [b"\3", b"\1"]
    assert len(catalog.select([])) == 0
    assert catalog.select(np.array([2])).names == ("b",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a", "a"]}, "more than once"),
        ({"names": ["a"]}, "different lengths"),
        ({"labels": [0, 2]}, "labels go from 0 to 2; expected -1"),
        ({"labels": [-2, 0]}, "labels go from -2"),
        ({"splits": ["train", "pool"]}, "unknown split 'pool'"),
    ],
)
def test_catalog_from_arrays_refuses(change, message):
    good = {"names": ["a", "b"], "labels": [0, 1], "splits": ["train"] * 2}
    arguments = good | {"classes": ["x", "y"], "paths": ["a", "b"]} | change
    with pytest.raises(TutelageError, match=message):
        catalog_from_arrays(**arguments)
