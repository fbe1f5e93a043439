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


def photo_album(text: str, reviewed: str = "") -> tuple[Catalog, ImageStore]:
    """The images a, b, c, ... of "A test ant, a train -": letters are photos, small ones near ones.

    A pool of others tells how near others are.
    """
    rows = [row.split() for row in text.split(", ")]
    scenes = dict(zip("ABCDEFGH", photos(8), strict=True))
    images = [
        scenes[p.upper()] if p.isupper() else encoded(scenes[p.upper()], 90) for p, *_ in rows
    ]
    rows += [["", "train", "-"]] * len(OTHERS)
    names = [chr(ord("a") + i) if i < 20 else f"z{i}" for i in range(len(rows))]
    labels = [("ant", "bee", "-").index(label) for *_, label in rows]
    labels = [-1 if label == 2 else label for label in labels]
    catalog = of_arrays(names, labels, [split for _, split, _ in rows], ("ant", "bee"))
    catalog = dataclasses.replace(catalog, reviewed=frozenset(reviewed))
    return catalog, tiny.store(np.concatenate([np.stack(images), OTHERS]))


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


LEAKS = (
    "A test ant, A train ant, a train -, A val ant, B val bee, B train bee, C train ant, "
    "D train bee, E train -, F test bee"
)
TWO_LABELS = "A train ant, a train bee, B test ant, B test bee, C train ant, D train bee"
THREE = "A train ant, A train ant, A train bee"
ONCE = "A train -, A train -, a train -, B train ant, b train -"


@pytest.mark.parametrize(
    ("rows", "options", "gone", "said"),
    [
        (LEAKS, {}, "bcdf", ["3 images outside of test are copies of 1 test image (2 exact, 1 ne"]),
        (LEAKS, {"keep": True}, "", ["figures on test images are too good"]),
        # Test images stay what they are, and so does what a person decided.
        (TWO_LABELS, {}, "ab", ["2 pairs of copies under two labels (b is bee, a is ant; d is be"]),
        (TWO_LABELS, {"reviewed": "a"}, "b", []),
        (TWO_LABELS, {"reviewed": "b"}, "a", []),
        (TWO_LABELS, {"reviewed": "ab"}, "", []),
        (THREE, {}, "abc", []),
        (THREE, {"reviewed": "a"}, "bc", []),
        (THREE, {"reviewed": "b"}, "ac", []),
        (THREE, {"reviewed": "c"}, "ab", []),
        (THREE, {"reviewed": "bc"}, "a", []),
        (
            "A train -, A train ant, A train ant, A train -, B train bee, b train bee, C train -, "
            "C train -",
            {},
            "acd",
            [
                "took no part, so that each image counts once: 3 (first: a of b; duplicates.csv",
                "copies of other training images that took part: 1 (first: f of e;",
            ],
        ),
        (ONCE, {}, "", []),
        (ONCE, {"pool_once": True}, "bce", ["so that each image counts once: 3 (first: b of a;"]),
        (ONCE, {"pool_once": True, "keep": True}, "", []),
        ("A train ant, a train ant, B train -", {"pool_once": True}, "", []),
        ("A test -, A train ant, B train bee", {}, "", []),
    ],
)
def test_what_becomes_of_copies(rows, options, gone, said) -> None:
    flags = {name: value for name, value in options.items() if name != "reviewed"}
    found = find_duplicates(*photo_album(rows, options.get("reviewed", "")), **flags)
    assert found.left_out == {*gone}
    for text in said:
        assert text in " ".join(found.notes)


def test_each_side_of_a_leak_is_known_and_keeping_changes_nothing_else() -> None:
    found, kept = (find_duplicates(*photo_album(LEAKS), keep=keep) for keep in (False, True))
    assert (found.leaking("test"), found.leaking("val")) == ({"a"}, {"e"})
    assert [pair.image for pair in kept.found] == [pair.image for pair in found.found]


def test_the_file_says_it_again(tmp_path) -> None:
    found = find_duplicates(*photo_album("A test ant, A train ant, B train bee, B train ant"))
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


def test_unreadable_images_are_copies_of_nothing() -> None:
    catalog, plain = photo_album("A test ant, A train ant, B train bee")
    readable = plain.readable.copy()
    readable[0] = False
    store = ImageStore(plain.images, plain.aspect, readable, {"a": "broken"}, CANVAS, False)
    assert find_duplicates(catalog, store) == Duplicates()
