"""What a file is shows in its content, and what is nobody's is refused in one line."""

import pytest
from catalogs import by_name, put

from tutelage.config import TableConfig
from tutelage.data.formats.annotations import Annotated, Annotations, catalog_of
from tutelage.data.listing import Given
from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not readable JSON"),
        (b"[" * 100_000, "is not readable JSON"),
        (b"\xff\xfe{}", "is not readable JSON"),
        (b"3", "holds int; expected an export of Label Studio .a list of tasks. or COCO"),
        (b"{}", "holds nothing; expected"),
        (b'{"a": 1, "labels": []}', "holds a, labels; expected"),
        (b"1" * 10_000, "is not readable JSON"),
    ],
)
def test_json_of_nobody_is_refused(tmp_path, content, message):
    with pytest.raises(TutelageError, match=message) as caught:
        read_catalog(put(tmp_path / "x.json", content))
    assert len(str(caught.value)) < 600


def test_a_file_of_a_common_name_does_not_make_a_folder_an_export(tmp_path):
    put(tmp_path / "ants/a.jpg")
    put(tmp_path / "bees/b.jpg")
    put(tmp_path / "labels.json", b'{"0": "ants"}')
    assert read_catalog(tmp_path).classes == ("ants", "bees")


def test_the_root_of_the_images_must_be_there(tmp_path):
    path = put(tmp_path / "x.json", b'[{"data": {"image": "a.jpg"}}]')
    with pytest.raises(TutelageError, match=r"--image-root .*/no is not a folder"):
        read_catalog(path, TableConfig(image_root=str(tmp_path / "no")))


CAT, DOG = frozenset(["cat"]), frozenset(["dog"])


def catalog(root, *listed, pool=False):
    given = Given(root / "x.json", TableConfig(image_root=str(root) if pool else None))
    return catalog_of(given, Annotations([*listed]))


def test_missing_images_stay_listed_and_are_counted(tmp_path):
    put(tmp_path / "a.jpg")
    found = catalog(
        tmp_path, Annotated("a.jpg", CAT), Annotated("x/b.jpg", DOG), Annotated("c.jpg")
    )
    assert by_name(found)["x/b.jpg"] == ("dog", "train")
    assert found.warnings == (
        f"2 of the 3 images that {tmp_path}/x.json lists are missing (first: x/b.jpg); restore "
        "them, or give their folder with --image-root",
    )
    with pytest.raises(FileNotFoundError):
        found.source.read(1)


def test_images_that_are_not_listed_are_a_pool_only_where_asked_for(tmp_path):
    for name in ("a.jpg", "b.jpg", "sub/c.jpg", "test/d.jpg", "sub/note.txt"):
        put(tmp_path / name)
    alone = catalog(tmp_path, Annotated("a.jpg", CAT))
    assert alone.names == ("a.jpg",)
    assert alone.warnings == (
        f"3 images in {tmp_path} are not listed (first: b.jpg): left out; --image-root "
        f"{tmp_path} takes them as unlabelled",
    )
    pooled = catalog(tmp_path, Annotated("a.jpg", CAT), pool=True)
    assert by_name(pooled) == {
        "a.jpg": ("cat", "train"),
        "b.jpg": (None, "train"),
        "sub/c.jpg": (None, "train"),
    }
    assert pooled.warnings == (
        f"2 images in {tmp_path} are not listed (first: b.jpg): taken as unlabelled",
        f"1 image in {tmp_path} is not listed (first: test/d.jpg): left out; classify such images "
        "with tutelage predict, or move them into unlabeled to learn from them",
    )


def test_an_image_that_is_listed_twice_has_all_its_labels(tmp_path):
    put(tmp_path / "a.jpg")
    put(tmp_path / "b.jpg")
    found = catalog(
        tmp_path,
        *(Annotated("a.jpg", CAT), Annotated("a.jpg")),
        *(Annotated("b.jpg", CAT), Annotated("b.jpg", DOG)),
    )
    assert by_name(found) == {"a.jpg": ("cat", "train"), "b.jpg": (None, "train")}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (
            [Annotated("b.jpg", CAT), Annotated("c.jpg")],
            "none of the 2 images is found.*: b.jpg",
        ),
        (
            [Annotated("1.jpg"), Annotated("1.jpg", split="test")],
            r"more than once \(first: 1.jpg\)",
        ),
        (
            [Annotated("photos/cat/1.jpg", CAT), Annotated("photos/dog/1.jpg", CAT)],
            "1 image is listed more than once .first: 1.jpg",
        ),
        ([Annotated("1.jpg", CAT, "Part 2")], "unknown split 'Part 2'"),
    ],
)
def test_a_listing_that_cannot_be_used_is_refused(tmp_path, listed, message):
    put(tmp_path / "1.jpg")
    with pytest.raises(TutelageError, match=message):
        catalog(tmp_path, *listed)


def test_an_image_of_an_unlabelled_split_is_in_train_wherever_it_lies(tmp_path):
    put(tmp_path / "test/a.jpg")
    assert by_name(catalog(tmp_path, Annotated("a.jpg", split="unlabeled"))) == {
        "test/a.jpg": (None, "train")
    }
