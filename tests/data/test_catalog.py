"""A catalog's classes, rows and selections."""

import unicodedata

import numpy as np
import pytest
from catalogs import by_name, put

from tutelage.data.catalog import make_catalog, why_no_class
from tutelage.data.open import read_catalog
from tutelage.data.sources import FileSource
from tutelage.system.errors import TutelageError


def test_class_names_of_thousands_of_digits_are_sorted(tmp_path):
    for name in "abc":
        put(tmp_path / f"{name}.jpg")
    rows = f"image,label\na.jpg,{'9' * 5000}\nb.jpg,10\nc.jpg,9\n"
    catalog = read_catalog(put(tmp_path / "m.csv", rows.encode()))
    assert catalog.classes == ("10", "9", "9" * 5000)


def test_select(tmp_path):
    paths = tuple(str(put(tmp_path / f"{i}.jpg", bytes([i]))) for i in range(4))
    names, splits = ["d", "c", "b", "a"], ["train", "train", "val", "test"]
    catalog = make_catalog("arrays", names, ["yes", "", "no", "yes"], splits, FileSource(paths))
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
        ({"names": []}, "the table lists no images"),
        ({"names": ["a", "a"]}, "more than once"),
        ({"labels": ["x", "y\n"]}, "control character"),
        ({"splits": ["train", "pool"]}, "unknown split 'pool'"),
    ],
)
def test_make_catalog_refuses(change, message):
    good = {"names": ["a", "b"], "labels": ["x", "y"], "splits": ["train"] * 2}
    with pytest.raises(TutelageError, match=message):
        make_catalog("the table", source=FileSource(("a", "b")), **good | change)


def test_one_class_that_macos_and_others_write_differently(tmp_path):
    for split, form in (("train", "NFC"), ("test", "NFD")):
        put(tmp_path / split / unicodedata.normalize(form, "꿀벌") / "a.jpg")
        put(tmp_path / split / "ant" / "a.jpg")
    assert read_catalog(tmp_path).classes == ("ant", "꿀벌")


@pytest.mark.parametrize(
    ("names", "refused"),
    [(["Ant", "ant"], True), (["red ant", "red  ant"], True), (["A", "a"], False)],
)
def test_classes_that_differ_only_in_case_or_spaces_are_refused(names, refused):
    columns = ["1", "2"], names, ["", ""]
    if not refused:
        assert make_catalog("t", *columns, FileSource(("1", "2"))).classes == tuple(names)
        return
    with pytest.raises(TutelageError, match="differ only in case or spaces; give both the same"):
        make_catalog("t", *columns, FileSource(("1", "2")))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ant", ""),
        ("wasp", ""),
        ("蜂", ""),
        ("Ant", "the classes 'Ant' and 'ant' differ only in case or spaces; give"),
        ("red  ant", "the classes 'Red ant' and 'red  ant'"),
        ("\uff41nt", "the classes 'ant' and '\uff41nt'"),  # a wide a
        (" ant", "without spaces around them"),
        ("", "1 to 100 characters"),
        ("a\tb", "control character"),
        ("\udcff", "control character"),
    ],
)
def test_why_a_name_cannot_become_a_class(name, said):
    problem = why_no_class(name, ["ant", "Red ant"])
    assert problem.startswith(said) if said.startswith("there") else said in problem
    assert bool(problem) == bool(said)
