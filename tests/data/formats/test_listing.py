"""What is listed becomes a catalog: missing, doubled and unlisted images are all accounted for."""

import pytest
from catalogs import by_name, put

from tutelage.data.formats.listing import Listed, Listing, catalog_of
from tutelage.system.errors import TutelageError

CAT, DOG = frozenset(["cat"]), frozenset(["dog"])


def test_missing_images_stay_listed_and_are_counted(tmp_path):
    put(tmp_path / "a.jpg")
    listing = Listing([Listed("a.jpg", CAT), Listed("x/b.jpg", DOG), Listed("c.jpg")])
    catalog = catalog_of("x.json", listing, tmp_path, pool=False)
    assert by_name(catalog)["x/b.jpg"] == ("dog", "train")
    assert catalog.warnings == (
        "2 of the 3 images that x.json lists are missing (first: x/b.jpg); restore them, or give "
        "their folder with --image-root",
    )
    with pytest.raises(FileNotFoundError):
        catalog.source.read(1)


def test_none_of_the_images_is_one_line(tmp_path):
    put(tmp_path / "z.jpg")
    listing = Listing([Listed("a.jpg", CAT), Listed("b.jpg", DOG)])
    with pytest.raises(TutelageError, match=r"none of the 2 images is found in .*first: a.jpg"):
        catalog_of("x.json", listing, tmp_path, pool=False)


def test_images_that_are_not_listed_are_a_pool_only_where_asked_for(tmp_path):
    for name in ("a.jpg", "b.jpg", "sub/c.jpg", "test/d.jpg", "sub/note.txt"):
        put(tmp_path / name)
    listing = Listing([Listed("a.jpg", CAT)])
    alone = catalog_of("x.json", listing, tmp_path, pool=False)
    assert alone.names == ("a.jpg",)
    assert alone.warnings == (
        f"3 images in {tmp_path} are not listed (first: b.jpg) and left out; --image-root "
        f"{tmp_path} takes them as unlabelled",
    )
    pooled = catalog_of("x.json", listing, tmp_path, pool=True)
    assert by_name(pooled) == {
        "a.jpg": ("cat", "train"),
        "b.jpg": (None, "train"),
        "sub/c.jpg": (None, "train"),
    }
    assert pooled.warnings == (
        "2 images are not listed: taken as unlabelled",
        "1 image of val or test is not listed (first: test/d.jpg) and left out",
    )


def test_an_image_that_is_listed_twice_has_all_its_labels(tmp_path):
    put(tmp_path / "a.jpg")
    put(tmp_path / "b.jpg")
    twice = [Listed("a.jpg", CAT), Listed("a.jpg"), Listed("b.jpg", CAT), Listed("b.jpg", DOG)]
    catalog = catalog_of("x.json", Listing(twice), tmp_path, pool=False)
    assert by_name(catalog) == {"a.jpg": ("cat", "train"), "b.jpg": (None, "train")}
    with pytest.raises(TutelageError, match=r"lists a.jpg in train and in test; keep one"):
        catalog_of(
            "x.json",
            Listing([Listed("a.jpg"), Listed("a.jpg", split="test")]),
            tmp_path,
            pool=False,
        )


def test_two_images_never_become_one(tmp_path):
    put(tmp_path / "1.jpg")
    listing = Listing([Listed("photos/cat/1.jpg", CAT), Listed("photos/dog/1.jpg", CAT)])
    with pytest.raises(
        TutelageError, match=r"cat/1.jpg and photos/dog/1.jpg would both be .*1.jpg"
    ):
        catalog_of("x.json", listing, tmp_path, pool=False)


def test_an_unknown_split_is_refused(tmp_path):
    put(tmp_path / "a.jpg")
    with pytest.raises(TutelageError, match="unknown split 'Part 2'"):
        catalog_of("x", Listing([Listed("a.jpg", CAT, "Part 2")]), tmp_path, pool=False)
