"""The same image twice: in train and test, under two labels, or in the pool and among the labels.

Exact copies have equal canvases. Near copies (encoded again, resized, brightened) are proposed by
a perceptual hash and confirmed by the correlation of small pictures. Crops and mirrored copies are
not looked for.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage.data.catalog import Catalog
from tutelage.data.store import ImageStore
from tutelage.system.errors import TutelageError
from tutelage.system.files import csv_line, write_atomically
from tutelage.system.words import counted

DUPLICATES = "duplicates.csv"
NONE, TEST, VAL, REVIEWED, LABELED, POOL, UNLABELED = -1, 0, 1, 2, 3, 4, 5  # ranks
NAMED = 3  # pairs in a note
RADIUS = 7  # bits of 64; 98 of 100 photos stay within it after JPEG at quality 50, or halving
MOST_CANDIDATES = 500_000  # pairs that are compared by their pixels
MOST_COMPARISONS = 2_000_000_000  # of two hashes
SIDE = 32  # pixels, of the small pictures
FLAT = 3.0  # grey levels of deviation below which only equal pixels make a copy
ASPECT = 0.05  # relative difference of width / height
SHARE_OF_NEAREST = 0.1  # a copy is this much nearer than an image's nearest other
MOST_COPIES = 4  # of one image; they are skipped when measuring how near other images are
FEW = 0.05  # share of images that may have another one nearer than that
DISTANCES = (0.001, 0.02)  # least and greatest limit for a copy: 1 - correlation
SAMPLE = 2000  # images measured to learn how near the nearest other one usually is

_BANDS = 4
_CHUNK = 128  # canvases in memory
_PAIRS = 4096  # small pictures in memory, twice
_STEP = 1 << 21  # comparisons in memory
_FINEST = 64  # pixels of a canvas's side that are hashed; more would cost more than decoding
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_ONES = np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)

_Rows = NDArray[np.intp]
_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Duplicate:
    """One line of ``duplicates.csv``: ``image`` is a copy of ``other``."""

    image: str
    split: str
    label: str  # empty if it has none
    other: str
    other_split: str
    other_label: str
    kind: str  # "exact" or "near"
    left_out: str = ""  # which take no part: "image", "other", "both", or "" for neither

    @property
    def leaks(self) -> bool:
        """Whether training, or choosing by val, would see an image that is held out."""
        return self.split != self.other_split

    @property
    def contradicts(self) -> bool:
        """Whether the two have different labels."""
        return bool(self.label and self.other_label) and self.label != self.other_label


@dataclass(frozen=True)
class Duplicates:
    """The copies in a catalog, and whether they were kept all the same."""

    found: tuple[Duplicate, ...] = ()
    kept: bool = False

    @property
    def left_out(self) -> frozenset[str]:
        """Names of the images that take no part."""
        images = {p.image for p in self.found if p.left_out in ("image", "both")}
        others = {p.other for p in self.found if p.left_out in ("other", "both")}
        return frozenset(images | others)

    def leaking(self, split: str) -> frozenset[str]:
        """Names of the images of ``split``, "test" or "val", that have a copy in another split."""
        return frozenset(p.other for p in self.found if p.leaks and p.other_split == split)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user must know, and what to do about it."""
        notes = [self._leak(split) for split in ("test", "val") if self.leaking(split)]
        if two := [p for p in self.found if p.contradicts]:
            first = "; ".join(
                f"{p.image} is {p.label}, {p.other} is {p.other_label}" for p in two[:NAMED]
            )
            done = "they took part" if self.kept else "they took no part, except test images"
            notes.append(
                f"{counted(len(two), 'pair')} of copies under two labels ({first}): {done}; "
                f"correct the labels, or decide with tutelage review ({DUPLICATES} lists them)"
            )
        rest = [p for p in self.found if not p.leaks and not p.contradicts and p.split == "train"]
        for gone, done in (
            ([p for p in rest if p.left_out], "no part, so that each image counts once"),
            ([p for p in rest if not p.left_out], "part"),
        ):
            if gone:
                notes.append(
                    f"copies of other training images that took {done}: {len(gone)} (first: "
                    f"{gone[0].image} of {gone[0].other}; {DUPLICATES} lists them)"
                )
        return tuple(notes)

    def _leak(self, split: str) -> str:
        pairs = [p for p in self.found if p.leaks and p.other_split == split]
        copies = {p.image for p in pairs}
        exact = {p.image for p in pairs if p.kind == "exact"}
        done = (
            f"took part, as --duplicates keep asks: figures on {split} images are too good"
            if self.kept
            else f"took no part (--duplicates keep keeps them; {DUPLICATES} lists them)"
        )
        return (
            f"leakage: {counted(len(copies), 'image')} outside of {split} "
            f"{'is a copy' if len(copies) == 1 else 'are copies'} of "
            f"{counted(len(self.leaking(split)), f'{split} image')} "
            f"({len(exact)} exact, {len(copies - exact)} near; first: {pairs[0].image} of "
            f"{pairs[0].other}) and {done}"
        )


def find_duplicates(
    catalog: Catalog,
    store: ImageStore,
    *,
    keep: bool = False,
    pool_once: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Duplicates:
    """Find copies and decide what becomes of them.

    docs/howto.md has the rules in a table. Unlabelled images are not compared with each other;
    with ``pool_once`` they are, and none that is a copy of another training image takes part, near
    copies included. With ``keep`` copies are only reported.
    """
    known = catalog.labels >= 0
    # Exact copies are compared with the first of them alone, and so a reviewed one comes first.
    reviewed = np.array([name in catalog.reviewed for name in catalog.names], dtype=bool)
    rank = np.where(known, LABELED, POOL if pool_once else UNLABELED)
    rank[known & reviewed] = REVIEWED
    rank[known & (catalog.splits == "val")] = VAL
    rank[known & (catalog.splits == "test")] = TEST
    rank[~store.readable | (~known & (catalog.splits != "train"))] = NONE
    names, labels = catalog.names, [*catalog.classes, ""]
    found = []
    for image, other, exact in find_pairs(store, rank, progress=progress):
        pair = Duplicate(
            image=names[image],
            split=str(catalog.splits[image]),
            label=labels[catalog.labels[image]],
            other=names[other],
            other_split=str(catalog.splits[other]),
            other_label=labels[catalog.labels[other]],
            kind="exact" if exact else "near",
        )
        left_out = "" if keep else _left_out(pair, catalog.reviewed)
        if pool_once and not keep and not pair.label:
            left_out = "image"
        found.append(replace(pair, left_out=left_out))
    return Duplicates(tuple(found), keep)


def _left_out(pair: Duplicate, reviewed: frozenset[str]) -> str:
    if pair.leaks:
        return "image"
    if pair.split == "test":
        return ""
    if pair.contradicts:
        gone = (pair.image not in reviewed, pair.other not in reviewed)
        return {(True, True): "both", (True, False): "image", (False, True): "other"}.get(gone, "")
    return "image" if pair.kind == "exact" and pair.split == "train" else ""


def write_duplicates(duplicates: Duplicates, path: Path) -> None:
    """Write ``duplicates.csv`` atomically."""
    rows = [[item.name for item in fields(Duplicate)], *map(astuple, duplicates.found)]
    text = "".join(map(csv_line, rows))
    write_atomically(path, text.encode("utf-8", "backslashreplace"))


def read_duplicates(path: Path, *, keep: bool = False) -> Duplicates:
    """Read back what ``write_duplicates`` wrote; without a file, no copies were looked for."""
    if not path.exists():
        return Duplicates(kept=keep)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            found = tuple(Duplicate(**row) for row in csv.DictReader(file))
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise TutelageError(
            f"{path} is damaged ({error}); start anew with another --out"
        ) from error
    return Duplicates(found, keep)


def find_pairs(
    store: ImageStore,
    rank: NDArray[np.intp],
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> list[tuple[int, int, bool]]:
    """Find the pairs of images that show the same picture, and whether pixels and shape are equal.

    The second image has the lower rank, or an equal one and comes first. Each of three or more
    exact copies is paired with the one of lowest rank, and all of them with the near copies of that
    one. By their ranks, int (N,), ``UNLABELED`` images are not compared with each other, and
    ``NONE`` with no image; those of the ``POOL`` are compared with all.
    """
    rows = np.flatnonzero(rank != NONE)
    rows = rows[np.argsort(rank[rows], kind="stable")]  # by rank: the first of copies is kept
    hashes, flat = _hashes(store, rows, progress)
    leader = _leaders(store, rows, hashes)
    copies = np.flatnonzero(leader != np.arange(len(rows)))
    leaders = np.flatnonzero((leader == np.arange(len(rows))) & ~flat)
    asked = int((rank[rows[leaders]] != UNLABELED).sum())
    near = leaders[_similar(hashes[leaders], asked)]
    if len(near):
        allowed = _allowed(store, rows[leaders], hashes[leaders])
        near = near[_confirmed(store, rows[near], allowed)]
    # No training image is forgotten because another one has the same pixels.
    same = defaultdict(list)
    for copy in copies:
        same[leader[copy]].append(copy)
    at = rows.tolist()
    found = [(at[i], at[leader[i]], True) for i in copies if rank[at[leader[i]]] != UNLABELED]
    found += [(at[i], at[first], False) for first, of in near for i in (of, *same[of])]
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def _hashes(
    store: ImageStore, rows: _Rows, progress: Callable[[int], None]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """A perceptual hash of each image, and whether it is too flat to have one.

    The 64 bits are the signs of the lowest frequencies of the discrete cosine transform of a
    32x32 grey picture, against their median, without the constant rows (Zauner 2010,
    "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1).
    """
    frequency, place = np.arange(1, 9)[:, None], np.arange(SIDE)[None]
    cosine = np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE)).astype(np.float32)
    hashes = np.zeros(len(rows), dtype=np.uint64)
    flat = np.zeros(len(rows), dtype=bool)
    step = max(1, store.canvas // _FINEST)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        grey = store.images[rows[part]][:, step // 2 :: step, step // 2 :: step] @ _LUMA
        small = _shrunk(grey[..., None])[..., 0]
        waves = (cosine @ small @ cosine.T).reshape(len(small), -1)
        bits = np.packbits(waves > np.median(waves, axis=1, keepdims=True), axis=1)
        hashes[part] = bits.view(np.uint64)[:, 0]
        flat[part] = small.std(axis=(1, 2)) < FLAT
        progress(min(start + _CHUNK, len(rows)))
    return hashes, flat


def _shrunk(images: _Floats) -> _Floats:
    """Images (B, C, C, D) as area means (B, 32, 32, D)."""
    count, side, _, depth = images.shape
    if side == SIDE:
        return images
    edges, pixel = np.linspace(0, side, SIDE + 1), np.arange(side)
    share = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = (share.clip(min=0) * SIDE / side).astype(np.float32)
    rows = weights @ images.reshape(count, side, side * depth)
    return np.asarray(weights @ rows.reshape(count, SIDE, side, depth))


def _leaders(store: ImageStore, rows: _Rows, hashes: NDArray[np.uint64]) -> _Rows:
    """For each image the first one with the same pixels and shape, often itself."""
    leader = np.arange(len(rows))
    _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    seen: dict[tuple[bytes, float], int] = {}
    for i in np.flatnonzero(sizes[group] > 1):  # others have no equal
        digest = hashlib.blake2b(store.images[rows[i]].tobytes(), digest_size=16).digest()
        leader[i] = seen.setdefault((digest, float(store.aspect[rows[i]])), int(i))
    return leader


def _similar(hashes: NDArray[np.uint64], asked: int) -> NDArray[np.intp]:
    """Pairs (P, 2), the lower first, of hashes that differ in at most ``RADIUS`` bits.

    By multi-index hashing (Norouzi, Punjani and Fleet 2012): one of four bands of 16 bits differs
    in at most one bit. Memory is bounded, and so is time: bands that very many images share are
    skipped, and of too many pairs the nearest stay. At least one of each pair is among the first
    ``asked`` of the hashes, uint64 (M,).
    """
    count = len(hashes)
    pairs, distances = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(16 * band)).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        sizes = np.bincount(keys, minlength=1 << 16)
        starts = np.cumsum(sizes) - sizes
        flips = np.array([0, *(1 << bit for bit in range(16))], dtype=np.uint16)
        most = _largest_bucket(sizes, np.bincount(keys[:asked], minlength=1 << 16), flips)
        for flip in flips:
            bucket = keys[:asked] ^ flip
            found = np.where(sizes[bucket] <= most, sizes[bucket], 0)
            for part in _parts(found):
                left = np.repeat(np.arange(part.start, part.stop), found[part])
                begins = np.repeat(starts[bucket[part]], found[part])
                before = np.repeat(np.cumsum(found[part]) - found[part], found[part])
                right = order[begins + np.arange(len(left)) - before]
                distance = _bits(hashes[left] ^ hashes[right])
                # Of two that are both asked about, each finds the other.
                near = (distance <= RADIUS) & ((left < right) | (right >= asked))
                pairs = np.concatenate([pairs, left[near] * count + right[near]])
                distances = np.concatenate([distances, distance[near]])
                if len(pairs) > MOST_CANDIDATES:
                    pairs, first = np.unique(pairs, return_index=True)
                    nearest = np.argsort(distances[first], kind="stable")[:MOST_CANDIDATES]
                    pairs, distances = pairs[nearest], distances[first][nearest]
    return np.stack(np.divmod(np.unique(pairs), max(count, 1)), axis=1)


def _largest_bucket(
    sizes: NDArray[np.intp], asked: NDArray[np.intp], flips: NDArray[np.uint16]
) -> int:
    """How many images may share a band's bits and still be compared in the time there is."""
    keys = np.arange(1 << 16, dtype=np.uint16)
    most = int(sizes.max(initial=0))
    while most > 1:
        looked = np.where(sizes <= most, sizes, 0)
        if sum(int(asked @ looked[keys ^ flip]) for flip in flips) <= MOST_COMPARISONS // _BANDS:
            break
        most //= 2
    return most


def _parts(counts: NDArray[np.intp]) -> Iterator[slice]:
    """Slices whose counts sum to little more than ``_STEP``."""
    part = np.cumsum(counts) // _STEP
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(counts)]
    yield from (slice(start, stop) for start, stop in pairwise(edges))


def _bits(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits are set."""
    parts = _ONES[values.view(np.uint16).reshape(*values.shape, 4)]
    return np.asarray(parts[..., 0] + parts[..., 1] + parts[..., 2] + parts[..., 3])


def _allowed(store: ImageStore, rows: _Rows, hashes: NDArray[np.uint64]) -> float:
    """The most that 1 - r of two copies may be, r the correlation of their small pictures.

    It depends on the images: photos of arbitrary things at 0.01 are copies, but a solar cell has
    other cells that near. So a copy must be much nearer than the nearest other image is for nearly
    all images of a sample. Others are images with another hash, and those beyond the nearest four,
    which may be copies themselves.
    """
    sample = np.sort(np.random.default_rng(0).permutation(len(rows))[:SAMPLE])
    pictures = _standardized(store, rows[sample])
    distance = 1 - pictures @ pictures.T
    np.fill_diagonal(distance, 2.0)
    beyond = np.partition(distance, min(MOST_COPIES, len(sample) - 1), axis=1)[:, MOST_COPIES:]
    distance[_bits(hashes[sample][:, None] ^ hashes[sample]) <= RADIUS] = 2.0
    nearest = np.minimum(distance.min(axis=1), beyond.min(axis=1, initial=2.0))
    return float(np.clip(SHARE_OF_NEAREST * np.quantile(nearest, FEW), *DISTANCES))


def _confirmed(store: ImageStore, pairs: _Rows, allowed: float) -> NDArray[np.bool_]:
    """Whether pairs (P, 2) of images have one shape and are at most ``allowed`` apart."""
    same = np.zeros(len(pairs), dtype=bool)
    shape = np.log(store.aspect[pairs])
    alike = np.abs(shape[:, 0] - shape[:, 1]) <= ASPECT
    for start in range(0, len(pairs), _PAIRS):
        part = slice(start, start + _PAIRS)
        rows, place = np.unique(pairs[part], return_inverse=True)
        left, right = _standardized(store, rows)[place.reshape(-1, 2).T]
        same[part] = 1 - np.einsum("nd,nd->n", left, right) <= allowed
    return np.asarray(same & alike)


def _standardized(store: ImageStore, rows: _Rows) -> _Floats:
    """Small colour pictures (B, D) of mean 0 and length 1: their products are correlations."""
    small = np.empty((len(rows), SIDE * SIDE * 3), dtype=np.float32)
    factor = max(1, store.canvas // SIDE)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        # Whole numbers first: five times as fast as in floating point.
        coarse = [np.asarray(Image.fromarray(c).reduce(factor)) for c in store.images[part]]
        shrunk = _shrunk(np.stack(coarse).astype(np.float32))
        small[start : start + _CHUNK] = shrunk.reshape(len(part), -1)
    small -= small.mean(axis=1, keepdims=True)
    return np.asarray(small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6))
