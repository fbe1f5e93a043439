"""Images are found below a folder by what a file calls them, or not at all: never another one."""

import pytest
from catalogs import put

from tutelage.data.formats.images import Images, split_by_folder
from tutelage.system.errors import TutelageError


@pytest.fixture
def images(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/1.jpg", "train/dog/2.jpg", "my 3.jpg"):
        put(tmp_path / name)
    return Images(tmp_path)


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


def test_what_fits_several_images_is_refused(images):
    with pytest.raises(TutelageError, match=r"1.jpg may be train/cat/1.jpg or train/dog/1.jpg in"):
        images.find("1.jpg")
    with pytest.raises(TutelageError, match=r"may be train/cat/1.jpg or train/dog/1.jpg"):
        images.find("/data/upload/4/01234567-1.jpg")


def test_a_known_file_goes_first_and_may_lie_elsewhere(images, tmp_path_factory):
    far = put(tmp_path_factory.mktemp("far") / "x.jpg")
    assert images.find("2.jpg", str(far)).path == str(far)
    assert images.find("2.jpg", "/no/such.jpg").name == "train/dog/2.jpg"
    assert images.besides([str(far)]) == []


def test_the_folder_of_a_split_is_told_by_its_name():
    names = (
        "train/a.jpg",
        "Valid/a.jpg",
        "test/x/a.jpg",
        "unlabeled/a.jpg",
        "test",
        "b/test/a.jpg",
    )
    splits = ["train", "val", "test", "train", "train", "train"]
    assert [split_by_folder(name) for name in names] == splits
