"""Where the images lie that a table names."""

import unicodedata

import pytest
from catalogs import put

from tutelage.data.images import Images, find_images, split_by_folder
from tutelage.data.listing import Listing
from tutelage.system.errors import TutelageError


def found(root, images, name="labels.csv", asked=None):
    listing = Listing([*images])
    find_images(listing, root / name, asked)
    said = [text.replace(str(root), "ROOT") for text in listing.warnings]
    return listing.names, [path.replace(str(root), "ROOT") for path in listing.paths], said


def test_images_beside_the_table_are_not_looked_for_elsewhere(tmp_path):
    put(tmp_path / "a.jpg")
    put(tmp_path / "more/b.jpg")
    assert found(tmp_path, ["a.jpg", "b.jpg"]) == (
        ["a.jpg", "b.jpg"],
        ["ROOT/a.jpg", "ROOT/b.jpg"],
        [],
    )


def test_the_folder_that_holds_all_is_taken(tmp_path):
    for path in ("all/a.jpg", "all/b.jpg", "part/a.jpg"):
        put(tmp_path / path)
    said = ["the images of ROOT/labels.csv were found in ROOT/all"]
    expected = ["a.jpg", "b.jpg", "c"], ["ROOT/all/a.jpg", "ROOT/all/b.jpg", "ROOT/all/c"], said
    assert found(tmp_path, ["a", "b.jpg", "c"]) == expected


def test_folders_in_the_names_stay(tmp_path):
    put(tmp_path / "data/cat/1.jpg")
    put(tmp_path / "data/dog/1.jpg")
    names, paths, _ = found(tmp_path, ["cat/1", "./dog\\1.jpg"])
    assert names == ["cat/1.jpg", "dog/1.jpg"]
    assert paths == ["ROOT/data/cat/1.jpg", "ROOT/data/dog/1.jpg"]


def test_names_as_macos_writes_them_are_found(tmp_path):
    apart = unicodedata.normalize("NFD", "꿀벌/é.jpg")
    put(tmp_path / "data" / apart)
    names, paths, _ = found(tmp_path, ["꿀벌/é"])
    assert (names, paths) == ([apart], [f"ROOT/data/{apart}"])


def test_a_folder_called_like_an_id_is_no_image(tmp_path):
    put(tmp_path / "7/other.txt")
    put(tmp_path / "images/7.jpg")
    assert found(tmp_path, ["7"])[1] == ["ROOT/images/7.jpg"]


@pytest.mark.parametrize(
    ("table", "home"), [("test.csv", "test"), ("train_labels.csv", "train"), ("x.csv", "train")]
)
def test_a_tables_name_decides_between_splits(table, home, tmp_path):
    for split in ("train", "test"):
        put(tmp_path / split / "1.jpg")
    assert found(tmp_path, ["1.jpg"], table)[1] == [f"ROOT/{home}/1.jpg"]


def test_a_name_without_suffix_that_fits_two_images_is_refused(tmp_path):
    for path in ("images/1.jpg", "images/1.png", "images/2.jpg"):
        put(tmp_path / path)
    message = r"x\.csv: 1 may be 1\.jpg or 1\.png in .*images; write the suffix"
    with pytest.raises(TutelageError, match=message):
        found(tmp_path, ["2", "1"], "x.csv")
    assert found(tmp_path, ["2", "1.jpg"])[0] == ["2.jpg", "1.jpg"]


def test_two_images_of_one_name_in_a_folder_that_is_not_used_are_no_matter(tmp_path):
    for path in ("photos/1.jpg", "photos/2.jpg", "masks/1.png", "masks/1.bmp"):
        put(tmp_path / path)
    assert found(tmp_path, ["1", "2"])[1] == ["ROOT/photos/1.jpg", "ROOT/photos/2.jpg"]


def test_a_whole_name_counts_before_one_without_its_suffix(tmp_path):
    for path in ("images/a.jpg", "images/a.jpg.png", "images/b.jpg"):
        put(tmp_path / path)
    assert found(tmp_path, ["a.jpg", "b"])[0] == ["a.jpg", "b.jpg"]


@pytest.fixture
def images(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/1.jpg", "train/dog/2.jpg", "my 3.jpg"):
        put(tmp_path / name)
    return Images(None, tmp_path)


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
    splits = ["train", "val", "test", "train", "", ""]
    assert [split_by_folder(name) for name in names] == splits


def test_whole_paths_of_another_machine_are_found_by_their_ends(tmp_path):
    put(tmp_path / "photos/cat/1.jpg")
    put(tmp_path / "photos/dog/1.jpg")
    listed = [f"/content/drive/photos/{kind}/1.jpg" for kind in ("cat", "dog")]
    names, paths, _ = found(tmp_path, listed)
    assert names == ["cat/1.jpg", "dog/1.jpg"]
    assert paths == ["ROOT/photos/cat/1.jpg", "ROOT/photos/dog/1.jpg"]
