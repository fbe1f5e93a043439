"""What lies at a path decides how it is read."""

import os

import pytest
from catalogs import parquet, put
from tarred import write_tar

from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError


@pytest.mark.parametrize("name", ["m.csv", "m.json", "m.xml", "m.parquet", "m"])
def test_a_pipe_is_no_manifest(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(TutelageError, match="is not a file but a folder, a pipe"):
        read_catalog(tmp_path / name)


def test_nothing_to_read(tmp_path):
    with pytest.raises(TutelageError, match="does not exist"):
        read_catalog(tmp_path / "no")
    with pytest.raises(TutelageError, match=rf"does not exist.*; did you mean {tmp_path}\?$"):
        read_catalog(tmp_path.with_name(f"{tmp_path.name}s"))
    with pytest.raises(TutelageError, match=r"no images.*expected train/<class>"):
        read_catalog(tmp_path)
    (tmp_path / "train/ants").mkdir(parents=True)
    with pytest.raises(TutelageError, match="class folder train/ants holds no images"):
        read_catalog(tmp_path)
    with pytest.raises(TutelageError, match=r"xlsx is a spreadsheet; save it as CSV UTF-8"):
        read_catalog(put(tmp_path / "a.xlsx"))


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_one_image_makes_it_a_folder_of_images(tmp_path, kind):
    if kind == "tar":
        path = write_tar(tmp_path / "train/a/x.tar", [("1.png", b"1"), ("2.png", b"2")])
    else:
        columns = {"image": [b"1", b"2"], "label": ["x", "y"]}
        path = parquet(tmp_path / "train/a/train.parquet", columns)
    assert len(read_catalog(path)) == len(read_catalog(tmp_path)) == 2
    put(tmp_path / "train/a/1.png")
    assert read_catalog(tmp_path).names == ("train/a/1.png",)


def test_hidden_tars_are_not_seen(tmp_path):
    write_tar(tmp_path / ".cache/x.tar", [("1.png", b"1")])
    with pytest.raises(TutelageError, match="expected train/<class>"):
        read_catalog(tmp_path)


def test_parquet_files_count_before_tars(tmp_path):
    write_tar(tmp_path / "train.tar", [("1.png", b"1")])
    parquet(tmp_path / "test.parquet", {"image": [b"1"], "label": ["x"]})
    assert read_catalog(tmp_path).names == ("test/0",)
