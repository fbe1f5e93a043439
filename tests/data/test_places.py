"""Where the images lie that a table names."""

import unicodedata

import pytest
from catalogs import put

from tutelage.data.places import find_images
from tutelage.system.errors import TutelageError


def found(root, images, name="labels.csv", **asked):
    places = find_images(root / name, images, **asked)
    said = [text.replace(str(root), "ROOT") for text in places.warnings]
    return places.names, [path.replace(str(root), "ROOT") for path in places.paths], said


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


def test_whole_paths_of_another_machine_are_found_by_their_ends(tmp_path):
    put(tmp_path / "photos/cat/1.jpg")
    put(tmp_path / "photos/dog/1.jpg")
    for prefix in ("/content/drive/photos", "C:\\Users\\kim\\photos"):
        names, paths, _ = found(tmp_path, [f"{prefix}/cat/1.jpg", f"{prefix}/dog/1.jpg"])
        assert names == ["cat/1.jpg", "dog/1.jpg"]
        assert paths == ["ROOT/photos/cat/1.jpg", "ROOT/photos/dog/1.jpg"]


@pytest.mark.parametrize(
    ("table", "home"), [("test.csv", "test"), ("train_labels.csv", "train"), ("x.csv", "train")]
)
def test_a_tables_name_decides_between_splits(table, home, tmp_path):
    for split in ("train", "test"):
        put(tmp_path / split / "1.jpg")
    assert found(tmp_path, ["1.jpg"], table)[1] == [f"ROOT/{home}/1.jpg"]


def test_two_folders_of_the_same_names_are_refused(tmp_path):
    put(tmp_path / "small/1.jpg")
    put(tmp_path / "large/1.jpg")
    with pytest.raises(TutelageError, match=r"several folders: large, small; .* --image-root"):
        find_images(tmp_path / "x.csv", ["1.jpg"])
    root = str(tmp_path / "small")
    assert find_images(tmp_path / "x.csv", ["1"], root).paths == [f"{root}/1.jpg"]


def test_a_name_without_suffix_that_fits_two_images_is_refused(tmp_path):
    for path in ("images/1.jpg", "images/1.png", "images/2.jpg"):
        put(tmp_path / path)
    message = r"x\.csv: 1 may be 1\.jpg or 1\.png in .*images; write the suffix"
    with pytest.raises(TutelageError, match=message):
        find_images(tmp_path / "x.csv", ["2", "1"])
    assert found(tmp_path, ["2", "1.jpg"])[0] == ["2.jpg", "1.jpg"]


def test_two_images_of_one_name_in_a_folder_that_is_not_used_are_no_matter(tmp_path):
    for path in ("photos/1.jpg", "photos/2.jpg", "masks/1.png", "masks/1.bmp"):
        put(tmp_path / path)
    assert found(tmp_path, ["1", "2"])[1] == ["ROOT/photos/1.jpg", "ROOT/photos/2.jpg"]


def test_a_whole_name_counts_before_one_without_its_suffix(tmp_path):
    for path in ("images/a.jpg", "images/a.jpg.png", "images/b.jpg"):
        put(tmp_path / path)
    assert found(tmp_path, ["a.jpg", "b"])[0] == ["a.jpg", "b.jpg"]


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(TutelageError, match=r"--image-root .*no is not a folder"):
        find_images(tmp_path / "x.csv", ["1"], str(tmp_path / "no"))
