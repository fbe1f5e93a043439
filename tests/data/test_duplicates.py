import dataclasses
import io

import numpy as np
import pytest
import tiny
from catalogs import of_arrays
from PIL import Image

from tutelage.data import duplicates
from tutelage.data.catalog import Catalog
from tutelage.data.duplicates import (
    LABELED,
    NONE,
    TEST,
    UNLABELED,
    Duplicates,
    find_duplicates,
    find_pairs,
    read_duplicates,
    write_duplicates,
)
from tutelage.data.split import make_split
from tutelage.data.store import ImageStore

CANVAS = 64


def photos(n: int, seed: int = 0) -> np.ndarray:
    """Random scenes with detail at several scales, no two alike."""
    rng = np.random.default_rng(seed)
    out = np.zeros((n, CANVAS, CANVAS, 3))
    for side, colours in ((4, 3), (8, 1), (16, 1), (32, 1)):
        for image in out:
            coarse = rng.integers(0, 256, (side, side, colours), dtype=np.uint8).repeat(
                3 // colours, 2
            )
            image += np.asarray(Image.fromarray(coarse).resize((CANVAS, CANVAS))) / 4
    return out.astype(np.uint8)


OTHERS = photos(40, seed=1)


def encoded(image: np.ndarray, quality: int = 60) -> np.ndarray:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data))


def resized(image: np.ndarray, share: float) -> np.ndarray:
    side = round(CANVAS * share)
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((CANVAS, CANVAS), Image.Resampling.BILINEAR))


def brighter(image: np.ndarray, factor: float) -> np.ndarray:
    return (image * factor).clip(0, 255).astype(np.uint8)


def pairs_of(images: np.ndarray, rank: list[int] | None = None) -> set[tuple[int, int, bool]]:
    """(image, other, exact) of what was found."""
    return {*find_pairs(tiny.store(images), np.array(rank or [LABELED] * len(images)))}


def catalog_of(rows: list[tuple[str, str]]) -> Catalog:
    """Of (split, class or empty) rows, named a, b, c, ..."""
    classes = ("ant", "bee")
    labels = [classes.index(label) if label else -1 for _, label in rows]
    names = [chr(ord("a") + i) if i < 26 else f"z{i}" for i in range(len(rows))]
    return of_arrays(names, labels, [split for split, _ in rows], classes)


def decided(images: np.ndarray, rows: list[tuple[str, str]], **options: bool) -> Duplicates:
    """Of these images and a pool of others, which tell how near others are."""
    pool = [("train", "")] * len(OTHERS)
    store = tiny.store(np.concatenate([images, OTHERS]))
    return find_duplicates(catalog_of([*rows, *pool]), store, **options)


def test_exact_copies_are_found_and_different_images_are_not() -> None:
    images = photos(200)
    assert pairs_of(images) == set()
    images[150] = images[20]
    images[199] = images[20]
    assert pairs_of(images) == {(150, 20, True), (199, 20, True)}


@pytest.mark.parametrize(
    "copied",
    [
        lambda image: encoded(image, 90),
        lambda image: encoded(image, 60),
        lambda image: resized(image, 0.75),
        lambda image: brighter(image, 0.8),
    ],
)
def test_near_copies_are_found(copied) -> None:
    images = photos(120)
    images[100:] = [copied(image) for image in images[:20]]
    found = pairs_of(images)
    assert found <= {(100 + i, i, False) for i in range(20)}
    assert len(found) >= 19


def test_images_that_are_all_alike_are_copies_only_when_they_are_much_nearer() -> None:
    """As solar cells, or X-rays: one scene, and small differences that are what matters."""
    rng = np.random.default_rng(0)
    images = np.repeat(photos(1), 60, axis=0).astype(float)
    images += [
        resized(rng.integers(0, 24, (CANVAS, CANVAS, 3), dtype=np.uint8), 0.3) for _ in images
    ]
    images = images.clip(0, 255).astype(np.uint8)
    assert pairs_of(images) == set()
    images[59] = encoded(images[3], 98)
    images[58] = images[7]
    assert pairs_of(images) == {(58, 7, True), (59, 3, False)}


def test_another_shape_another_colour_and_flat_images_are_no_copies() -> None:
    images = photos(30)
    images[29] = images[0]
    store = tiny.store(images, np.array([1.0] * 29 + [1.5], dtype=np.float32))
    assert find_pairs(store, np.full(30, LABELED)) == []
    images[29] = images[0][:, :, ::-1]
    assert pairs_of(images) == set()
    images[28:] = 200
    images[28, 0, 0] = 199  # two white pages
    assert pairs_of(images) == set()
    images[28] = images[29]
    assert pairs_of(images) == {(29, 28, True)}


def test_ranks_say_who_is_compared_and_which_is_the_original() -> None:
    images = photos(48)
    images[1:6] = images[0]
    near = encoded(images[0], 90)
    images[6:8] = near
    # A pool image comes first in the catalog, a test image last; one has no part in it.
    ranks = [
        UNLABELED,
        LABELED,
        UNLABELED,
        NONE,
        LABELED,
        TEST,
        LABELED,
        UNLABELED,
        *[UNLABELED] * 40,
    ]
    assert pairs_of(images, ranks) == {
        *((i, 5, True) for i in (0, 1, 2, 4)),
        (7, 6, True),
        *((i, 5, False) for i in (6, 7)),  # also the exact copy of a near copy
    }
    assert pairs_of(images, [UNLABELED] * 48) == set()


def test_every_hash_within_the_radius_is_found_whatever_bits_differ() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 300, dtype=np.uint64)
    for i in range(150):
        bits = rng.permutation(64)[: i % 10]
        hashes[150 + i] = hashes[i] ^ np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64))
    apart = np.array([[bin(int(a ^ b)).count("1") for b in hashes] for a in hashes])
    for asked in (300, 200, 10, 0):
        near = np.argwhere(np.triu(apart <= duplicates.RADIUS, k=1))
        expected = near[near[:, 0] < asked]
        np.testing.assert_array_equal(duplicates._similar(hashes, asked), expected)


def test_many_alike_hashes_are_bounded_and_the_nearest_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duplicates, "MOST_CANDIDATES", 50)
    monkeypatch.setattr(duplicates, "_STEP", 100)
    hashes = np.uint64(1) << np.arange(60, dtype=np.uint64)  # two bits apart, 1770 pairs
    hashes = np.concatenate([hashes, hashes[:5]])
    pairs = duplicates._similar(hashes, len(hashes))
    assert len(pairs) == 50
    assert {(i, 60 + i) for i in range(5)} < set(map(tuple, pairs.tolist()))
    monkeypatch.setattr(duplicates, "MOST_COMPARISONS", 1000)
    assert len(duplicates._similar(np.zeros(500, dtype=np.uint64), 500)) == 0


def test_copies_of_test_and_val_take_no_part_in_training() -> None:
    images = photos(10)
    images[1], images[2], images[3] = images[0], encoded(images[0], 90), images[0]
    images[5] = images[4]
    rows = [
        ("test", "ant"), ("train", "ant"), ("train", ""), ("val", "ant"),
        ("val", "bee"), ("train", "bee"), ("train", "ant"), ("train", "bee"),
        ("train", ""), ("test", "bee"),
    ]  # fmt: skip
    found = decided(images, rows)
    assert found.left_out == {"b", "c", "d", "f"}
    assert found.leaking("test") == {"a"}
    assert found.leaking("val") == {"e"}
    assert "3 images outside of test are copies of 1 test image (" in found.notes[0]
    assert "(2 exact, 1 near; first: b of a)" in found.notes[0]
    catalog = catalog_of(rows)
    used = np.array([name not in found.left_out for name in catalog.names])
    split = make_split(catalog, used, labels_per_class=None, limit=None, seed=0)
    assert split.roles.tolist() == [
        *("test", "unused", "unused", "unused", "val"),
        *("unused", "labeled", "labeled", "unlabeled", "test"),
    ]
    kept = decided(images, rows, keep=True)
    assert kept.left_out == set()
    assert [pair.image for pair in kept.found] == [pair.image for pair in found.found]
    assert "figures on test images are too good" in kept.notes[0]


def test_two_labels_take_no_part_unless_a_person_decided() -> None:
    images = photos(8)
    images[1] = encoded(images[0], 90)
    images[3] = images[2]
    rows = [
        ("train", "ant"), ("train", "bee"), ("test", "ant"), ("test", "bee"),
        ("train", "ant"), ("train", "bee"), ("train", "ant"), ("train", ""),
    ]  # fmt: skip
    found = decided(images, rows)
    assert found.left_out == {"a", "b"}  # test images stay what they are
    assert len(found.found) == 2
    assert (
        "2 pairs of copies under two labels (b is bee, a is ant; d is bee, c is ant)"
        in " ".join(found.notes)
    )
    for reviewed, gone in (({"a"}, {"b"}), ({"b"}, {"a"}), ({"a", "b"}, set())):
        catalog = dataclasses.replace(
            catalog_of([*rows, *[("train", "")] * 40]), reviewed=frozenset(reviewed)
        )
        store = tiny.store(np.concatenate([images, OTHERS]))
        assert find_duplicates(catalog, store).left_out == gone


@pytest.mark.parametrize(
    ("reviewed", "gone"),
    [("a", {"b", "c"}), ("b", {"a", "c"}), ("c", {"a", "b"}), ("bc", {"a"}), ("", {"a", "b", "c"})],
)
def test_of_exact_copies_under_two_labels_a_reviewed_one_stays(
    reviewed: str, gone: set[str]
) -> None:
    images = photos(8)
    images[1:3] = images[0]
    rows = [("train", "ant"), ("train", "ant"), ("train", "bee"), *[("train", "")] * 45]
    catalog = dataclasses.replace(catalog_of(rows), reviewed=frozenset(reviewed))
    store = tiny.store(np.concatenate([images, OTHERS]))
    assert find_duplicates(catalog, store).left_out == gone


def test_exact_copies_in_train_count_once_and_near_ones_stay() -> None:
    images = photos(8)
    images[[0, 2, 3]] = images[1]
    images[5] = encoded(images[4], 90)
    images[7] = images[6]
    rows = [("train", ""), ("train", "ant"), ("train", "ant"), ("train", "")]
    rows += [("train", "bee"), ("train", "bee"), ("train", ""), ("train", "")]
    found = decided(images, rows)
    assert found.left_out == {"a", "c", "d"}
    said = " ".join(found.notes)
    of = "copies of other training images that took"
    assert f"{of} no part, so that each image counts once: 3 (first: a of b; dupl" in said
    assert f"{of} part: 1 (first: f of e;" in said


def test_the_file_says_it_again(tmp_path) -> None:
    images = photos(6)
    images[1], images[3] = images[0], images[2]
    rows = [("test", "ant"), ("train", "ant"), ("train", "bee"), ("train", "ant")]
    rows += [("train", "bee"), ("train", "")]
    found = decided(images, rows)
    write_duplicates(found, tmp_path / "duplicates.csv")
    assert (tmp_path / "duplicates.csv").read_text().splitlines() == [
        "image,split,label,other,other_split,other_label,kind,left_out",
        "b,train,ant,a,test,ant,exact,image",
        "d,train,ant,c,train,bee,exact,both",
    ]
    assert read_duplicates(tmp_path / "duplicates.csv") == found
    assert read_duplicates(tmp_path / "none.csv") == Duplicates()
    (tmp_path / "bad.csv").write_text("image,other\na,b\n")
    with pytest.raises(duplicates.TutelageError, match=r"bad.csv is damaged"):
        read_duplicates(tmp_path / "bad.csv")


def test_unreadable_images_and_test_images_without_a_label_are_copies_of_nothing() -> None:
    images = photos(6)
    images[1] = images[0]
    images[3] = images[2]
    rows = [("test", "ant"), ("train", "ant"), ("test", ""), ("train", "ant")]
    rows += [("train", "bee"), ("train", "")]
    plain = tiny.store(images)
    readable = np.array([False, *[True] * 5])
    store = ImageStore(images, plain.aspect, readable, {"a": "broken"}, CANVAS, False)
    assert find_duplicates(catalog_of(rows), store) == Duplicates()


# --- a pool in which each image counts once


def test_copies_within_the_pool_take_no_part_where_each_image_counts_once() -> None:
    images = photos(6)
    images[1] = images[0]
    images[2] = encoded(images[0])
    images[4] = encoded(images[3])
    rows = [("train", "")] * 3 + [("train", "ant")] + [("train", "")] * 2
    assert decided(images, rows).left_out == frozenset()
    found = decided(images, rows, pool_once=True)
    assert found.left_out == {"b", "c", "e"}
    (note,) = found.notes
    assert "took no part, so that each image counts once: 3 (first: b of a; dupl" in note
    kept = decided(images, rows, pool_once=True, keep=True)
    assert kept.left_out == frozenset()
    assert len(kept.found) >= 3


def test_labelled_near_copies_stay_where_each_image_of_the_pool_counts_once() -> None:
    images = photos(3)
    images[1] = encoded(images[0])
    rows = [("train", "ant"), ("train", "ant"), ("train", "")]
    assert decided(images, rows, pool_once=True).left_out == frozenset()
