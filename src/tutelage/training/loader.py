"""Batches of views: which images, which views of them, and what they should be called."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.augment import Policy, apply
from tutelage.augment.mix import Mix, draw_cutmix, draw_mixup
from tutelage.augment.plan import Plan
from tutelage.data.store import ImageStore
from tutelage.data.stream import StreamedImages, windowed
from tutelage.system.errors import TutelageError
from tutelage.system.ranks import current
from tutelage.training.batch import Batch

Rows = NDArray[np.intp]
_VIEWS = 9  # number of the random stream that draws views; 0 and 1 choose the images
_COPIED = 4096  # images moved to a GPU at a time


def spaced(rows: Rows, most: int) -> Rows:
    """At most ``most`` of the rows (N,), evenly spaced."""
    return rows[:: max(1, -(-len(rows) // most))]


class Canvases:
    """The store's pixels for the views: on the GPU whole if they fit, else read row by row.

    ``buffer`` is how many images are held decoded at a time; None if the store holds all.
    """

    def __init__(self, store: ImageStore, rows: Rows, device: torch.device) -> None:
        """Offer ``rows`` of the store, under the store's own row numbers."""
        self._images, self._aspect = store.images, store.aspect
        self._on_gpu = device.type == "cuda"
        self._resident: Tensor | None = None
        self.buffer = store.images.buffer if isinstance(store.images, StreamedImages) else None
        if self._on_gpu:
            size = len(rows) * store.canvas * store.canvas * 3
            free, _ = torch.cuda.mem_get_info(device)
            if size < 0.4 * free:
                self._position = np.full(len(store.images), -1)
                self._position[rows] = np.arange(len(rows))
                shape = (len(rows), store.canvas, store.canvas, 3)
                self._resident = torch.empty(shape, dtype=torch.uint8, device=device)
                for start in range(0, len(rows), _COPIED):  # all at once may not fit beside it
                    part = store.images[rows[start : start + _COPIED]]
                    self._resident[start : start + _COPIED] = torch.from_numpy(part)

    def take(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Canvases (B, C, C, 3) uint8 of store rows (B,), and on the CPU their aspects (B,)."""
        aspect = self.aspect(rows)
        if self._resident is None:
            return torch.from_numpy(self._images[rows]), aspect
        at = torch.from_numpy(self._position[rows]).to(self._resident.device)
        return self._resident[at], aspect

    def ahead(self, batches: Iterable[Rows]) -> Iterator[None]:
        """Yield before each batch is taken, once the images that it needs are decoded."""
        if self._resident is None and isinstance(self._images, StreamedImages):
            return self._images.ahead(batches, meanwhile=self._on_gpu)
        return itertools.repeat(None)

    def aspect(self, rows: Rows) -> Tensor:
        """Width / height (B,) alone, as planning a view needs no pixels."""
        return torch.from_numpy(self._aspect[rows])


@dataclass(frozen=True)
class Examples:
    """Images with their targets."""

    rows: Rows  # (N,) store rows
    targets: Tensor  # (N, K) probabilities
    weights: Tensor  # (N,) of each target; 0 where there is none

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Views:
    """The views that a step declares."""

    policy: Policy  # samples the view whose targets are learned
    size: int  # side of that view in pixels
    mix: str = "none"  # or "cutmix" or "mixup", which a weak or strong view does not share
    mix_share: float = 0.5  # fraction of batches that are mixed
    teacher_sizes: tuple[int, ...] = ()  # side of the same view for each teacher
    weak: Policy | None = None  # for a second view of the same images
    strong: Policy | None = None  # for a second view of the pool's images alone

    def __post_init__(self) -> None:
        if (self.weak is not None or self.strong is not None) and self.mix != "none":
            raise ValueError("a weak or strong view is not mixed, so no target may be: mix='none'")


@dataclass(frozen=True)
class _Drawn:
    """All of a batch of B images except their pixels, the same on every rank.

    All ranks plan the whole batch, so that an image's view is the same on any of them.
    """

    parts: list[tuple[Examples, Rows]]  # of each stream: its examples, and which are taken
    rows: Rows  # (B,) store rows
    plan: Plan  # for the first view, which ``mix`` mixes
    weak: Plan | None
    strong: Plan | None  # for the last P images, those of the pool
    mix: Mix | None

    @property
    def ids(self) -> Tensor:
        """(P,) as in ``Batch``."""
        return torch.from_numpy(self.parts[1][1] if len(self.parts) > 1 else np.arange(0))

    def share(self) -> slice:
        """The images of the first view that this rank looks at."""
        return current().share(len(self.rows))

    def strong_share(self) -> slice:
        """The images that this rank looks at in a strong view, as positions in the batch."""
        pool = len(self.ids)
        share, labeled = current().share(pool), len(self.rows) - pool
        return slice(labeled + share.start, labeled + share.stop)

    def needed(self) -> tuple[Tensor, Mix | None]:
        """Positions (n,) of the images that this rank needs, and the mixing of the first b.

        Its share comes first, then the share's partners or what only strong views show.
        """
        own = self.share()
        if self.mix is not None:
            return self.mix.part(torch.arange(own.start, own.stop))
        stop = own.stop if self.strong is None else max(own.stop, self.strong_share().stop)
        return torch.arange(own.start, stop), None


class Loader:
    """An endless stream of batches; batch ``step`` is a pure function of the seed and the step.

    A batch takes ``labeled_per_batch`` images from the labelled examples and then the rest from
    the pool. Each stream is dealt from its own shuffled passes, and a stream shorter than its
    share of a batch simply comes round again: few labels are repeated, never dropped. Images that
    no store holds are shuffled within windows, as many as their share of what is held decoded.
    """

    def __init__(
        self,
        canvases: Canvases,
        labeled: Examples,
        pool: Examples | None,
        views: Views,
        *,
        batch_size: int,
        labeled_per_batch: int,
        seed: int,
        first: int = 0,
    ) -> None:
        """Without a pool every image of a batch is a labelled one, without labels none is.

        ``first`` is the step to begin with, for a training that goes on from another.
        """
        if batch_size < current().world:
            raise TutelageError(
                f"{current().world} ranks share batches of {batch_size} images; start no more "
                "ranks than images in a batch"
            )
        self.canvases, self.views, self.seed, self.first = canvases, views, seed, first
        self.streams = [(labeled, batch_size)]
        if len(labeled) == 0:
            labeled_per_batch = 0
        if pool is not None and len(pool) > 0:
            self.streams = [(labeled, labeled_per_batch), (pool, batch_size - labeled_per_batch)]

    def showing(self, views: Views) -> Loader:
        """The same images in the same order, in other views."""
        other = copy.copy(self)
        other.views = views
        return other

    def __iter__(self) -> Iterator[Batch]:
        return self.after(0)

    def after(self, steps: int) -> Iterator[Batch]:
        """Batches from the first step on, without the first ``steps`` of them."""
        first = self.first + steps
        ready = self.canvases.ahead(map(self._rows, itertools.count(first)))
        for step, _ in zip(itertools.count(first), ready, strict=False):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """The batch of one step, with this rank's share of its views."""
        drawn, views = self._draw(step), self.views
        targets = torch.cat([examples.targets[at] for examples, at in drawn.parts])
        weights = torch.cat([examples.weights[at] for examples, at in drawn.parts])
        if drawn.mix is not None:
            targets, weights = drawn.mix.weighted(targets, weights)
        own = drawn.share()
        at, mix = drawn.needed()
        images, _ = self.canvases.take(drawn.rows[at.numpy()])
        looked_at = at if mix is not None else at[: own.stop - own.start]
        seen = {
            size: apply(images[: len(looked_at)], drawn.plan[looked_at], size)
            for size in {views.size, *views.teacher_sizes}
        }
        if mix is not None:
            seen = {size: mix.images(view) for size, view in seen.items()}
        weak = strong = None
        if drawn.weak is not None:
            weak = apply(images[: own.stop - own.start], drawn.weak[own], views.size)
        if drawn.strong is not None:
            shown = drawn.strong_share()
            canvases = images[shown.start - own.start : shown.stop - own.start]
            strong = apply(canvases, drawn.strong[current().share(len(drawn.ids))], views.size)
        return Batch(
            seen[views.size],
            targets,
            weights,
            teacher_images=tuple(seen[size] for size in views.teacher_sizes),
            weak=weak,
            strong=strong,
            ids=drawn.ids,
        )

    def _draw(self, step: int) -> _Drawn:
        """Choose a step's images, and draw their views and their mixing."""
        parts = [
            (examples, deal(len(examples), count, step, (self.seed, number), self._window(count)))
            for number, (examples, count) in enumerate(self.streams)
        ]
        rows = np.concatenate([examples.rows[at] for examples, at in parts])
        labeled = len(parts[0][1])
        generator = torch.Generator().manual_seed(_mixed_seed(self.seed, _VIEWS, step))
        aspect, views = self.canvases.aspect(rows), self.views
        return _Drawn(
            parts,
            rows,
            plan=views.policy.plan(aspect, generator),
            weak=None if views.weak is None else views.weak.plan(aspect, generator),
            strong=None if views.strong is None else views.strong.plan(aspect[labeled:], generator),
            mix=self._mix(len(rows), generator),
        )

    def _rows(self, step: int) -> Rows:
        """Store rows of the images that this rank needs for a step's batch."""
        drawn = self._draw(step)
        needed: Rows = drawn.rows[drawn.needed()[0].numpy()]
        return needed

    def _window(self, count: int) -> int | None:
        """A stream's share of the images held decoded, if it fills ``count`` of a batch."""
        if self.canvases.buffer is None:
            return None
        return max(1, self.canvases.buffer * count // sum(count for _, count in self.streams))

    def _mix(self, count: int, generator: torch.Generator) -> Mix | None:
        draw = float(torch.rand((), generator=generator))
        if self.views.mix == "none" or draw >= self.views.mix_share:
            return None
        return (draw_cutmix if self.views.mix == "cutmix" else draw_mixup)(count, generator)


def deal(n: int, count: int, step: int, seed: tuple[int, int], window: int | None = None) -> Rows:
    """Positions (count,) that ``step`` takes from endless shuffled passes over ``n`` images.

    With a ``window`` of fewer images each pass is shuffled in windows, see ``stream.windowed``.
    """
    wanted = np.arange(step * count, (step + 1) * count)
    out = np.empty(count, dtype=np.intp)
    # A batch of a large stream spans two passes at most; the many of a small one are not kept.
    shuffled = _kept if n > count else _shuffled
    for epoch in np.unique(wanted // n):
        here = wanted // n == epoch
        if window is not None and window < n:
            out[here] = windowed(n, window, (*seed, int(epoch)), wanted[here] % n)
        else:
            out[here] = shuffled(n, seed, int(epoch))[wanted[here] % n]
    return out


def _shuffled(n: int, seed: tuple[int, int], epoch: int) -> Rows:
    return np.random.default_rng([*seed, epoch]).permutation(n)


_kept = lru_cache(maxsize=4)(_shuffled)  # two passes of each of two streams


def _mixed_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
