"""Every image decoded once, squashed to a square canvas, memory-mapped and cached by content.

Where the canvases would take more than the disk has, only what is known of the images is cached,
and they are decoded whenever they are needed.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from tutelage.data.catalog import Catalog
from tutelage.data.decode import DECODER_VERSION, UnreadableImage, decode, read_size, why_skipped
from tutelage.data.sources import Source, content_digest
from tutelage.data.stream import StreamedImages
from tutelage.system.errors import TutelageError
from tutelage.system.files import cache_folder, digest_of, new_folder, write_atomically
from tutelage.system.process import cores

CANVASES = (32, 48, 64, 96, 128, 192, 256)
LEAST = 16  # the smallest that may be asked for
_SAMPLE = 200  # images whose size decides the canvas
_CHUNK = 128  # images in memory while building
_DAY = 86_400.0  # seconds
_INDEX, _PIXELS = "index.json", "pixels.npy"  # the index alone where there is no room for both
_DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)  # of a cache
_FREE_SHARE = 0.9  # of the free disk is for a store: runs and other programs write, too

_Keep = Callable[[NDArray[np.uint8]], object]
_DecodeAll = Callable[[int, _Keep], dict[str, Any]]  # see ``_decode_all``
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class ImageStore:
    """The pixels of a catalog, in its order."""

    # Read-only memory map (N, C, C, 3), C = ``canvas``; unreadable images are zeros. Where it would
    # not fit, something that is indexed alike and decodes.
    images: NDArray[np.uint8] | StreamedImages
    aspect: NDArray[np.float32]  # (N,) width / height of the upright original; unreadable: 1
    readable: NDArray[np.bool_]  # (N,)
    reasons: dict[str, str]  # name -> why it is unreadable; an image that fails later is added
    canvas: int  # side of the square in pixels
    reused: bool  # the pixels, or what is known of the images, came from the cache
    note: str = ""  # why the pixels are not on the disk and what that costs; empty if they are


def open_store(
    catalog: Catalog,
    *,
    canvas: int | None = None,
    cache: Path | None = None,
    budget: float | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> ImageStore:
    """The catalog's pixels, from the cache when these bytes were decoded before.

    The cache is keyed by content. A memo beside it remembers the files' sizes and times, so a
    second run reads no image; a copied or touched folder is read and hashed, but not decoded.

    ``canvas`` is the side of the square in pixels; None takes the smallest of ``CANVASES`` that
    holds the median short side, or that of images that are all smaller squares of one size.

    Pixels that would take more than ``budget`` bytes are not kept: every image is decoded once to
    learn its shape and whether it is readable, and again whenever it is looked at. None means nine
    tenths of the disk's free space, or whatever the cache holds already.
    """
    if not len(catalog):
        raise TutelageError("the catalog has no images")
    root = (cache or cache_folder()) / "stores"
    version = f"{DECODER_VERSION}/{PIL.__version__}"
    signatures = (catalog.source.signature(i) for i in range(len(catalog)))
    # Taken before any byte is read: a file that changes meanwhile will not match next time.
    memo = root / "memo" / digest_of([version, str(canvas), *signatures])
    store = None
    with contextlib.suppress(OSError, ValueError):
        store = _load(root / memo.read_text(encoding="utf-8"), catalog, budget)
    if store is None:
        threads = ThreadPoolExecutor(cores(), thread_name_prefix="decode")
        with _writable(root), threads as pool:
            memo.parent.mkdir(parents=True, exist_ok=True)
            hashes = list(_in_order(pool, partial(content_digest, catalog.source), len(catalog)))
            side = canvas or _choose_canvas(catalog.source, len(catalog))
            folder = root / digest_of([version, str(side), *hashes])
            store = _load(folder, catalog, budget)
            if store is None:
                build = _build if _room(len(catalog), side, root, budget) else _survey
                decode_all = partial(_decode_all, catalog, hashes, pool, progress)
                store = build(catalog, side, folder, decode_all)
            if not any(text.startswith("!") for text in hashes):  # a failed read may work next time
                write_atomically(memo, folder.name)
    if not store.readable.any():
        name, reason = next(iter(store.reasons.items()))
        raise TutelageError(f"none of the {len(catalog)} images is readable; {name}: {reason}")
    return store


def _room(count: int, canvas: int, root: Path, budget: float | None) -> bool:
    """Whether the pixels fit into the budget, or by default onto the disk."""
    if budget is None:
        budget = _FREE_SHARE * shutil.disk_usage(root).free
    return _size(count, canvas) <= budget


def _size(count: int, canvas: int) -> int:
    return count * canvas * canvas * 3


def _build(catalog: Catalog, canvas: int, folder: Path, decode_all: _DecodeAll) -> ImageStore:
    """Decode into a new folder."""
    count = len(catalog)
    _remove_leftovers(folder.parent)
    try:
        with new_folder(folder) as building:
            # Plain writes, not a writable memory map: on a full disk that one dies of SIGBUS.
            with open(building / _PIXELS, "wb") as file:
                shape = (count, canvas, canvas, 3)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                index = decode_all(canvas, lambda pixels: file.write(pixels.tobytes()))
            write_atomically(building / _INDEX, json.dumps(index))
            if _load(folder, catalog, math.inf) is None:  # what is there is broken
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        if _load(folder, catalog, math.inf) is None:  # else another process has put it there
            raise
    store = _load(folder, catalog, math.inf, reused=False)
    if store is None:
        raise TutelageError(f"the cache {folder} was changed while it was written; try again")
    return store


def _survey(catalog: Catalog, canvas: int, folder: Path, decode_all: _DecodeAll) -> ImageStore:
    """Decode to learn what is readable and of what shape; no pixels are kept."""
    index = decode_all(canvas, lambda pixels: None)
    folder.mkdir(exist_ok=True)
    (folder / _PIXELS).unlink(missing_ok=True)  # of a run that could not read all of them
    write_atomically(folder / _INDEX, json.dumps(index))
    return _known(index, catalog, None, reused=False)


def _decode_all(
    catalog: Catalog,
    hashes: Sequence[str],
    pool: ThreadPoolExecutor,
    progress: Callable[[int], None],
    canvas: int,
    keep: _Keep,
) -> dict[str, Any]:
    """Give the pixels of every image to ``keep``; return what is known of them."""
    began, count = time.monotonic(), len(catalog)
    aspects, reasons, passing = [], {}, False
    squash = partial(_squash, catalog.source, canvas)
    for i, (pixels, aspect, reason) in enumerate(_in_order(pool, squash, count)):
        keep(pixels)
        aspects.append(aspect)
        if reason:
            reasons[str(i)] = reason
            passing |= isinstance(reason, _Passing) and not hashes[i].startswith("!")
        progress(i + 1)
    seconds = round(time.monotonic() - began, 1)
    known = {"canvas": canvas, "aspect": aspects, "reasons": reasons}
    return {**known, "seconds": seconds, "passing": passing}


def _load(
    folder: Path, catalog: Catalog, budget: float | None, *, reused: bool = True
) -> ImageStore | None:
    """What the cache holds and the budget allows; None when it is half-written or of others."""
    count = len(catalog)
    with contextlib.suppress(*_DAMAGED):
        index: dict[str, Any] = json.loads((folder / _INDEX).read_text())
        side = int(index["canvas"])
        if reused and index.get("passing"):  # it is of that run alone
            return None
        if budget is None or _size(count, side) <= budget:
            with contextlib.suppress(*_DAMAGED):
                pixels = np.load(folder / _PIXELS, mmap_mode="r", allow_pickle=False)
                if pixels.shape == (count, side, side, 3) and pixels.dtype == np.uint8:
                    return _known(index, catalog, pixels, reused=reused)
        if not _room(count, side, folder, budget):
            return _known(index, catalog, None, reused=reused)
    return None


class _Passing(str):
    """A reason that may not hold another time: the disk did not give what it had given before."""


def _known(
    index: dict[str, Any], catalog: Catalog, pixels: NDArray[np.uint8] | None, *, reused: bool
) -> ImageStore:
    """The store; without pixels they are streamed. One of ``_DAMAGED`` if it is of other images."""
    count, canvas, note = len(catalog), int(index["canvas"]), ""
    aspect = np.array(index["aspect"], dtype=np.float32)
    failed = {int(i): str(reason) for i, reason in index["reasons"].items()}
    readable = np.ones(count, dtype=bool)
    readable[list(failed)] = False
    if aspect.shape != readable.shape:
        raise ValueError("an index of another catalog")
    reasons = {catalog.names[i]: reason for i, reason in failed.items()}
    images: NDArray[np.uint8] | StreamedImages
    if pixels is not None:
        images = pixels
    else:

        def lost(row: int, reason: str) -> None:
            reasons.setdefault(catalog.names[row], f"{reason} (it was readable before)")

        images = StreamedImages(partial(_squash, catalog.source, canvas), count, canvas, lost)
        seconds = float(index["seconds"])
        took = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
        note = (
            f"the {count:,} images would take {_size(count, canvas) / 1e9:.3g} GB of disk as "
            f"squares of {canvas} px, more than there is room for (--store-gb): they are decoded "
            f"from DATA whenever they are looked at (the first pass over all of them took {took}) "
            "and dealt in shuffled blocks"
        )
    return ImageStore(images, aspect, readable, reasons, canvas, reused, note)


def _squash(source: Source, canvas: int, index: int) -> tuple[NDArray[np.uint8], float, str]:
    """Return pixels (canvas, canvas, 3), width / height, and why it failed (empty if not)."""
    try:
        rgb = decode(source.read(index))
    except (UnreadableImage, OSError) as error:
        kind = _Passing if isinstance(error, OSError) else str
        return np.zeros((canvas, canvas, 3), dtype=np.uint8), 1.0, kind(why_skipped(error))
    height, width, _ = rgb.shape
    if (height, width) != (canvas, canvas):
        size = (canvas, canvas)
        rgb = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))
    return rgb, width / height, ""


def _choose_canvas(source: Source, count: int) -> int:
    sizes = []
    for index in np.unique(np.linspace(0, count - 1, _SAMPLE).astype(int)):
        with contextlib.suppress(UnreadableImage, OSError):
            sizes.append(read_size(source.read(int(index))))
    median = float(np.median([min(size) for size in sizes])) if sizes else CANVASES[0]
    if LEAST <= median < CANVASES[0] and {*sizes} == {(median, median)}:
        return int(median)  # as they are: enlarging would differ a little from the exported graph's
    return next((side for side in CANVASES if side >= median), CANVASES[-1])


def _in_order(pool: ThreadPoolExecutor, of: Callable[[int], _T], count: int) -> Iterator[_T]:
    """``of`` each of ``count`` images in threads, in order, with few results in memory at once."""
    for start in range(0, count, _CHUNK):
        yield from pool.map(of, range(start, min(start + _CHUNK, count)))


@contextlib.contextmanager
def _writable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TutelageError(
            f"cannot write the image cache {root}: {error.strerror or error}; free some space "
            "there, or set TUTELAGE_CACHE to a folder on another disk"
        ) from error


def _remove_leftovers(root: Path) -> None:
    """Delete what killed builds left behind, once they are too old to be running."""
    for folder in root.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _DAY:
                shutil.rmtree(folder)
