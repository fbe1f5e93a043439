"""Batches of views: which images, which views of them, and what they should be called."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
_CYCLE = 2  # number of the stream of batches; 0 and 1 are those of the images
_VIEWS = 9  # the same of the views
_COPIED = 4096  # images moved to a GPU at a time


def spaced(rows: Rows, most: int) -> Rows:
    """At most ``most`` of the rows (N,), evenly spaced."""
    return rows[:: max(1, -(-len(rows) // most))]


class Canvases:
    """The store's pixels for the views: on the GPU whole if they fit, else read row by row.

    Attributes:
        buffer: how many images are held decoded at a time; None if the store holds all.
    """

    def __init__(self, store: ImageStore, rows: Rows, device: torch.device) -> None:
        """Offer ``rows`` of the store; row numbers stay the store's."""
        self._images, self._aspect = store.images, store.aspect
        self._resident: Tensor | None = None
        self.buffer = store.images.buffer if isinstance(store.images, StreamedImages) else None
        if device.type == "cuda":
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
        """Yield before each of the batches is taken; what must be decoded is by then."""
        if self._resident is None and isinstance(self._images, StreamedImages):
            return self._images.ahead(batches)
        return itertools.repeat(None)

    def aspect(self, rows: Rows) -> Tensor:
        """Width / height (B,) alone: to plan a view takes no pixels."""
        return torch.from_numpy(self._aspect[rows])


@dataclass(frozen=True)
class Examples:
    """Images with their targets.

    Attributes:
        rows: (N,) store rows.
        targets: (N, K) probabilities.
        weights: (N,) weight of each target; 0 where there is none.
    """

    rows: Rows
    targets: Tensor
    weights: Tensor

    def __len__(self) -> int:
        """N."""
        return len(self.rows)


@dataclass(frozen=True)
class Views:
    """The views that a step declares.

    Attributes:
        policy: of the view the student learns from.
        size: side of that view in pixels.
        mix: "none", "cutmix" or "mixup", on ``mix_share`` of the batches.
        mix_share: fraction of batches that are mixed.
        teacher_sizes: side of the same view for each teacher.
        weak: policy of a second, weak view; None for none.
    """

    policy: Policy
    size: int
    mix: str = "none"
    mix_share: float = 0.5
    teacher_sizes: tuple[int, ...] = ()
    weak: Policy | None = None

    def __post_init__(self) -> None:
        """Refuse a mixing that the weak view would not share.

        Raises:
            ValueError: both are asked for.
        """
        if self.weak is not None and self.mix != "none":
            raise ValueError("a weak view is not mixed, so its targets may not be: use mix='none'")


class Loader:
    """An endless stream of batches; batch ``step`` is a pure function of the seed and the step.

    A batch takes ``labeled_per_batch`` images from the labelled examples and the rest from the
    pool. Each stream is dealt from its own shuffled passes, and a stream shorter than its share
    of a batch simply comes round again: few labels are repeated, never dropped. Images that no
    store holds are shuffled within windows, as many as their share of what is held decoded.

    With ``cycle`` there are only that many different batches, the same in every pass over them
    and in another order each time: what a teacher says of one need be worked out only once.
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
        cycle: int = 0,
        first: int = 0,
    ) -> None:
        """Without a pool every image of a batch is a labelled one, without labels none is.

        Without a cycle no batch repeats.

        ``first`` is the step to begin with, for a training that goes on from another.

        Raises:
            TutelageError: there are more ranks than images in a batch.
        """
        if batch_size < current().world:
            raise TutelageError(
                f"{current().world} ranks share batches of {batch_size} images; start no more "
                "ranks than images in a batch"
            )
        self.canvases, self.views, self.seed, self.cycle = canvases, views, seed, cycle
        self.first = first
        self.streams = [(labeled, batch_size)]
        if len(labeled) == 0:
            labeled_per_batch = 0
        if pool is not None and len(pool) > 0:
            self.streams = [(labeled, labeled_per_batch), (pool, batch_size - labeled_per_batch)]

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the first step on."""
        return self.after(0)

    def after(self, steps: int) -> Iterator[Batch]:
        """Batches from the first step on, without the first ``steps`` of them.

        Images that must be decoded are, ahead of the batches.
        """
        first = self.first + steps
        ready = self.canvases.ahead(map(self._rows, itertools.count(first)))
        for step, _ in zip(itertools.count(first), ready, strict=False):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """The batch of one step; of its views this rank's share."""
        return self._batch(self._uncycled(step))

    def _uncycled(self, step: int) -> int:
        """The step that has this step's batch in a stream without a cycle."""
        return int(deal(self.cycle, 1, step, (self.seed, _CYCLE))[0]) if self.cycle else step

    def _dealt(self, step: int) -> list[tuple[Examples, Rows]]:
        """Of each stream the positions that ``step`` takes, in a stream without a cycle."""
        return [
            (examples, deal(len(examples), count, step, (self.seed, number), self._window(count)))
            for number, (examples, count) in enumerate(self.streams)
        ]

    def _rows(self, step: int) -> Rows:
        """Store rows of the images that this rank looks at for a step's batch."""
        _, rows, _, _, mix, own = self._draw(self._uncycled(step))
        at = own if mix is None else mix.part(own)[0]
        taken: Rows = rows[at.numpy()]
        return taken

    def _window(self, count: int) -> int | None:
        """The part of the images held decoded for a stream that fills ``count`` of a batch."""
        if self.canvases.buffer is None:
            return None
        return max(1, self.canvases.buffer * count // sum(count for _, count in self.streams))

    def _draw(
        self, step: int
    ) -> tuple[list[tuple[Examples, Rows]], Rows, Plan, Plan | None, Mix | None, Tensor]:
        """All of a batch but its pixels, and the positions that are this rank's share."""
        parts = self._dealt(step)
        rows = np.concatenate([examples.rows[at] for examples, at in parts])
        generator = torch.Generator().manual_seed(_mixed_seed(self.seed, _VIEWS, step))
        # All ranks plan the whole batch, so that an image's view is the same on any of them.
        aspect = self.canvases.aspect(rows)
        plan, weak = self.views.policy.plan(aspect, generator), self.views.weak
        weak_plan = None if weak is None else weak.plan(aspect, generator)
        mix = self._mix(len(rows), generator)
        own = torch.arange(len(rows))[current().share(len(rows))]
        return parts, rows, plan, weak_plan, mix, own

    def _batch(self, step: int) -> Batch:
        """The batch that a stream without a cycle has at ``step``."""
        parts, rows, plan, weak_plan, mix, own = self._draw(step)
        targets = torch.cat([examples.targets[at] for examples, at in parts])
        weights = torch.cat([examples.weights[at] for examples, at in parts])
        ids = torch.from_numpy(
            np.concatenate([np.full(len(parts[0][1]), -1), *(at for _, at in parts[1:])])
        )
        views, at = self.views, own
        if mix is not None:
            targets, weights = mix.weighted(targets, weights)
            at, mix = mix.part(own)
        images, _ = self.canvases.take(rows[at.numpy()])
        sizes = {views.size, *views.teacher_sizes}
        seen = {size: apply(images, plan[at], size) for size in sizes}
        if mix is not None:
            seen = {size: mix.images(view) for size, view in seen.items()}
        weak = None if weak_plan is None else apply(images, weak_plan[own], views.size)
        return Batch(
            seen[views.size],
            targets,
            weights,
            teacher_images=tuple(seen[size] for size in views.teacher_sizes),
            weak=weak,
            ids=ids,
            key=(self.seed, step, views),
        )

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
    for epoch in np.unique(wanted // n):
        here = wanted // n == epoch
        if window is not None and window < n:
            out[here] = windowed(n, window, (*seed, int(epoch)), wanted[here] % n)
        else:
            order = np.random.default_rng([*seed, int(epoch)]).permutation(n)
            out[here] = order[wanted[here] % n]
    return out


def _mixed_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
