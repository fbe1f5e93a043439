"""Roboflow's one-hot tables are read, of one folder or of one for each split."""

import pytest
from catalogs import by_name, put

from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError


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
        (b"image,cat\na.jpg,1\n", "lacks the column filename; found: image, cat"),
        (b"Pixel Value, Class\n0, background\n", "lacks the column filename.*this is segmentation"),
        (b"filename,cat\n", "lists no images"),
        (b"", "lists no images"),
        (b"filename,cat\na.jpg," + b"1" * 200_000, "field larger than field limit"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_place(tmp_path, content, message):
    put(tmp_path / "a.jpg")
    with pytest.raises(TutelageError, match=message):
        read_catalog(put(tmp_path / "_classes.csv", content))
