"""Where the images lie that a table or another tool names."""

import unicodedata

import pytest
from catalogs import put

from tutelage.data.listing import Images, Listing, find_images, split_by_folder
from tutelage.system.errors import TutelageError


def found(root, images, table="labels.csv"):
    """Names and paths in a table's listing, and the first that lies elsewhere than it says."""
    listing = Listing([*images])
    find_images(listing, root / table, None)
    said = [text.rpartition(" ")[2].removesuffix(")") for text in listing.warnings]
    return listing.names, *(
        [path.replace(f"{root}/", "") for path in paths] for paths in (listing.paths, said)
    )


APART = unicodedata.normalize("NFD", "data/꿀벌/é.jpg")  # as macOS writes it


@pytest.mark.parametrize(
    ("files", "listed", "names", "table"),
    [
        ("a.jpg more/b.jpg", ["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], "x.csv"),
        ("all/a.jpg all/b.jpg", ["a", "b.jpg", "c"], ["all/a.jpg", "all/b.jpg", "c"], "x.csv"),
        ("in/cat/1.jpg in/dog/1.jpg", ["cat/1", "./dog\\1.jpg"], None, "x.csv"),
        (APART, ["꿀벌/é"], None, "x.csv"),
        ("7/other.txt images/7.jpg", ["7"], ["images/7.jpg"], "x.csv"),
        ("test/1.jpg train/1.jpg", ["1.jpg"], ["test/1.jpg"], "test.csv"),
        ("test/1.jpg train/1.jpg", ["1.jpg"], ["train/1.jpg"], "train_labels.csv"),
        ("test/1.jpg train/1.jpg", ["1.jpg"], ["train/1.jpg"], "x.csv"),
        ("in/1.jpg in/1.png in/2.jpg", ["2", "1.jpg"], ["in/2.jpg", "in/1.jpg"], "x.csv"),
        ("in/a.jpg in/a.jpg.png", ["a.jpg"], ["in/a.jpg"], "x.csv"),
        ("my/cat/1.jpg my/dog/1.jpg", ["/content/my/cat/1.jpg", "/content/my/dog/1.jpg"], None, ""),
        ("new/cat/1.jpg new/dog/1.jpg", ["C:\\a\\cat\\1.jpg", "C:\\a\\dog\\1.jpg"], None, "x.csv"),
    ],
)
def test_images_of_a_table_are_found_below_it(files, listed, names, table, tmp_path):
    for name in files.split():
        put(tmp_path / name)
    names = names or files.split()
    elsewhere = names[:1] if names[:1] != listed[:1] else []
    assert found(tmp_path, listed, table or "x.csv") == (names, names, elsewhere)


def test_an_id_that_fits_two_images_is_refused(tmp_path):
    for path in ("images/1.jpg", "masks/1.png", "images/2.jpg"):
        put(tmp_path / path)
    message = r"x\.csv: 1 may be images/1\.jpg or masks/1\.png in .*; give the folder"
    with pytest.raises(TutelageError, match=message):
        found(tmp_path, ["2", "1"], "x.csv")


@pytest.fixture
def images(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/1.jpg", "train/dog/2.jpg", "my 3.jpg"):
        put(tmp_path / name)
    return Images(tmp_path, None)


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("train/cat/1.jpg", "train/cat/1.jpg"),
        ("photos/train/cat/1.jpg", "train/cat/1.jpg"),
        ("dog/1.jpg", "train/dog/1.jpg"),
        ("2.jpg", "train/dog/2.jpg"),
        ("dog/2", "train/dog/2.jpg"),
        ("cat/2.jpg", None),  # another folder: perhaps another image
        ("photos/2.jpg", None),
        ("my_3.jpg", None),  # only an upload is renamed
        ("/data/upload/4/01234567-my_3.jpg", "my 3.jpg"),
        ("3.jpg", None),
        ("", None),
        ("x\0.jpg", None),
        ("x" * 5000 + ".jpg", None),
    ],
)
def test_a_path_fits_where_one_is_the_end_of_the_other(images, listed, found):
    got = images.find(listed)
    assert (got and got.name) == found


@pytest.mark.parametrize("listed", ["1.jpg", "/data/upload/4/01234567-1.jpg"])
def test_what_fits_several_images_is_refused(images, listed):
    with pytest.raises(TutelageError, match=r"may be train/cat/1.jpg or train/dog/1.jpg in"):
        images.find(listed)


def test_a_known_file_goes_first_and_may_lie_elsewhere(images, tmp_path_factory):
    far = put(tmp_path_factory.mktemp("far") / "x.jpg")
    assert images.find("2.jpg", str(far)).path == str(far)
    assert images.find("2.jpg", "/no/such.jpg").name == "train/dog/2.jpg"
    assert images.besides([str(far)]) == []


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train/a.jpg", "train"), ("Valid/a.jpg", "val"), ("test/x/a.jpg", "test")),
        *(("unlabeled/a.jpg", "train"), ("test", ""), ("b/test/a.jpg", "")),
    ],
)
def test_the_folder_of_a_split_is_told_by_its_name(name, split):
    assert split_by_folder(name) == split
