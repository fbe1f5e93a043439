"""Canvases that would not fit on the disk: decoded ahead of their use, each time anew."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.system.process import cores

# Bytes of canvases in a buffer, of which two are in memory: 14,563 images of 96 x 96 pixels are
# much to shuffle, and twice half a GiB is little beside a network in training.
BUFFER = 2**29
# A window mixes about so many places of the data. Its blocks are then about a megabyte of files
# each, whatever the canvas, so that a disk reads more than it seeks.
_BLOCKS = 128
_CHUNK = 128  # images decoded before a thread asks whether they are still wanted

Rows = NDArray[np.intp]
Squash = Callable[[int], tuple[NDArray[np.uint8], float, str]]
_Buffer = tuple[Rows, NDArray[np.uint8]]  # n rows, ascending, and their canvases (n, C, C, 3)


class StreamedImages:
    """Stands in for a store's memory map: uint8 (N, C, C, 3), indexed by row, rows or slice.

    Only what ``ahead`` holds is kept; everything else is decoded anew, by all cores. ``squash``
    turns a row into its canvas (C, C, 3), its aspect, and why it failed (empty if not); then the
    canvas is black, and ``lost`` is called with row and reason.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, squash: Squash, count: int, canvas: int, lost: Callable[[int, str], None]
    ) -> None:
        self.shape = (count, canvas, canvas, 3)
        self._squash, self._lost = squash, lost
        self._held: _Buffer | None = None
        self._busy = threading.Lock()  # held while an ``ahead`` runs
        self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="stream")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """The canvases of a row, a slice, or rows as an array, a list or a mask, as a new array.

        Slices of the canvases may follow. IndexError if there is no such row.
        """
        if isinstance(key, tuple):
            return self[np.asarray(key[0])][:, *key[1:]]
        if isinstance(key, slice):
            return self._take(np.array(range(len(self))[key], dtype=np.intp))
        if np.ndim(key) == 0:
            (canvas,) = self._take(np.array([range(len(self))[key]]))
            return np.asarray(canvas)
        rows = np.asarray(key)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.intp)
        if len(rows) and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} images")
        return self._take(rows % len(self))

    @property
    def buffer(self) -> int:
        """How many images a buffer holds."""
        return max(1, BUFFER // int(np.prod(self.shape[1:])))

    def ahead(self, batches: Iterable[Rows], *, meanwhile: bool) -> Iterator[None]:
        """Yield before each batch is taken, once its images are in memory.

        They are decoded a buffer at a time, in the order of the data. Images that are in the
        present buffer are not decoded again, so a small data set is decoded once. The first buffers
        are short, each twice as long as the one before, so that work begins at once. There are at
        most two buffers: an ``ahead`` within another one holds nothing.

        With ``meanwhile`` a thread asks for the coming batches and fills the next buffer while the
        present one is used; closing the iterator ends it. That is for work on a GPU. On the cores
        that decode it gains nothing, and costs much: OpenMP's threads wait for each other, so all
        of them wait for the one whose core a decoder has taken.
        """
        if not self._busy.acquire(blocking=False):
            yield from itertools.repeat(None)
        try:
            plan = self._plan(batches)
            yield from self._meanwhile(plan) if meanwhile else self._in_turn(plan)
        finally:
            self._held = None
            self._busy.release()

    def _in_turn(self, plan: Iterator[tuple[int, Rows]]) -> Iterator[None]:
        while (found := self._fill(plan, None)) is not None:
            count, self._held = found
            yield from itertools.repeat(None, count)

    def _meanwhile(self, plan: Iterator[tuple[int, Rows]]) -> Iterator[None]:
        stop = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="ahead") as filler:
            try:
                filling = filler.submit(self._fill, plan, stop)
                while (found := filling.result()) is not None:
                    count, self._held = found
                    # Forgotten at once: they would keep a third buffer while the next is filled.
                    del found, filling
                    filling = filler.submit(self._fill, plan, stop)
                    yield from itertools.repeat(None, count)
            finally:
                stop.set()

    def _plan(self, batches: Iterable[Rows]) -> Iterator[tuple[int, Rows]]:
        """Number of batches and distinct rows, ascending, of each buffer."""
        group: list[Rows] = []
        count = most = 0
        for rows in batches:
            if group and count + len(rows) > most:
                yield len(group), np.unique(np.concatenate(group))
                most = min(self.buffer, 2 * count)
                group, count = [], 0
            group.append(rows)
            count += len(rows)
        if group:
            yield len(group), np.unique(np.concatenate(group))

    def _fill(
        self, plan: Iterator[tuple[int, Rows]], stop: threading.Event | None
    ) -> tuple[int, _Buffer] | None:
        """The next buffer and how many batches it has; None after the last."""
        if (coming := next(plan, None)) is None:
            return None
        count, rows = coming
        return count, (rows, self._take(rows, stop))

    def _take(self, rows: Rows, stop: threading.Event | None = None) -> NDArray[np.uint8]:
        """Canvases (n, C, C, 3); of no use once ``stop`` is set."""
        out = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        missing = np.arange(len(rows))
        if (held := self._held) is not None and len(held[0]):
            at = np.searchsorted(held[0], rows).clip(max=len(held[0]) - 1)
            here = held[0][at] == rows
            out[here] = held[1][at[here]]
            missing = np.flatnonzero(~here)

        def work(place: int) -> None:
            row = int(rows[place])
            out[place], _, reason = self._squash(row)
            if reason:
                self._lost(row, reason)

        for start in range(0, len(missing), _CHUNK):
            if stop is not None and stop.is_set():
                break
            list(self._pool.map(work, missing[start : start + _CHUNK].tolist()))
        return out


def windowed(n: int, window: int, seed: tuple[int, ...], at: Rows) -> Rows:
    """Entries ``at`` of a permutation of ``n`` positions that reads them in long runs.

    The positions are cut into blocks, the blocks are permuted and joined into windows of at most
    ``window`` positions, and the positions are permuted within each window. The permutation is a
    function of the seed, without state: any entry can be computed without those before it, while
    a shuffle buffer would have to be filled again. It follows the block shuffles of MosaicML
    Streaming (py1b, docs.mosaicml.com/projects/streaming, "Shuffling"), whose blocks are our
    windows. Entries ``at`` (m,) go from 0 to n - 1; every pass needs a seed of its own.
    """
    _, ends = _windows(n, window, seed)
    out = np.empty(len(at), dtype=np.intp)
    of = np.searchsorted(ends, at, side="right")
    for number in np.unique(of):
        here = of == number
        first = ends[number - 1] if number else 0
        order = _shuffled(n, window, seed, int(number))
        out[here] = order[at[here] - first]
    return out


def _block(window: int) -> int:
    return max(1, window // _BLOCKS)


@lru_cache(maxsize=8)
def _windows(n: int, window: int, seed: tuple[int, ...]) -> tuple[list[Rows], Rows]:
    """The blocks of each window, and the entry of the permutation at which it ends."""
    block = _block(window)
    blocks = np.random.default_rng(seed).permutation(-(-n // block))
    parts = np.array_split(blocks, -(-len(blocks) // max(1, window // block)))
    sizes = [np.minimum(block, n - part * block).sum() for part in parts]
    return parts, np.cumsum(sizes)


@lru_cache(maxsize=16)  # windows in use and windows planned, of two streams
def _shuffled(n: int, window: int, seed: tuple[int, ...], number: int) -> Rows:
    block = _block(window)
    starts = _windows(n, window, seed)[0][number] * block
    positions = (starts[:, None] + np.arange(block)).ravel()
    # Numbered from 1: a seed with a 0 behind it is the same seed, which the blocks have.
    return np.random.default_rng((*seed, number + 1)).permutation(positions[positions < n])
