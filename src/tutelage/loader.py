"""Batches of views: which images, which views of them, and what they should be called."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.augment import Policy, apply
from tutelage.augment.mix import Mix, draw_cutmix, draw_mixup
from tutelage.batch import Batch
from tutelage.data.store import ImageStore
from tutelage.errors import TutelageError
from tutelage.ranks import current

Rows = NDArray[np.intp]
_CYCLE = 2  # number of the stream of batches; 0 and 1 are those of the images
_VIEWS = 9  # the same of the views


def spaced(rows: Rows, most: int) -> Rows:
    """At most ``most`` of the rows (N,), evenly spaced."""
    return rows[:: max(1, -(-len(rows) // most))]


class Canvases:
    """The store's pixels for the views: on the GPU whole if they fit, else read row by row."""

    def __init__(self, store: ImageStore, rows: Rows, device: torch.device) -> None:
        """Offer ``rows`` of the store; row numbers stay the store's."""
        self._images, self._aspect, self._resident = store.images, store.aspect, None
        if device.type == "cuda":
            size = len(rows) * store.canvas * store.canvas * 3
            free, _ = torch.cuda.mem_get_info(device)
            if size < 0.4 * free:
                self._position = np.full(len(store.images), -1)
                self._position[rows] = np.arange(len(rows))
                self._resident = torch.from_numpy(store.images[rows]).to(device)

    def take(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Canvases (B, C, C, 3) uint8 of store rows (B,), and on the CPU their aspects (B,)."""
        aspect = self.aspect(rows)
        if self._resident is None:
            return torch.from_numpy(self._images[rows]), aspect
        at = torch.from_numpy(self._position[rows]).to(self._resident.device)
        return self._resident[at], aspect

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
    of a batch simply comes round again: few labels are repeated, never dropped.

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
        """Batches from the first step on, without the first ``steps`` of them."""
        return map(self.batch, itertools.count(self.first + steps))

    def batch(self, step: int) -> Batch:
        """The batch of one step; of its views this rank's share."""
        if not self.cycle:
            return self._batch(step)
        return self._batch(int(deal(self.cycle, 1, step, (self.seed, _CYCLE))[0]))

    def _batch(self, step: int) -> Batch:
        """The batch that a stream without a cycle has at ``step``."""
        parts = [
            (examples, deal(len(examples), count, step, (self.seed, number)))
            for number, (examples, count) in enumerate(self.streams)
        ]
        rows = np.concatenate([examples.rows[at] for examples, at in parts])
        targets = torch.cat([examples.targets[at] for examples, at in parts])
        weights = torch.cat([examples.weights[at] for examples, at in parts])
        ids = torch.from_numpy(
            np.concatenate([np.full(len(parts[0][1]), -1), *(at for _, at in parts[1:])])
        )
        generator = torch.Generator().manual_seed(_mixed_seed(self.seed, _VIEWS, step))
        # All ranks plan the whole batch, so that an image's view is the same on any of them.
        aspect = self.canvases.aspect(rows)
        views = self.views
        plan = views.policy.plan(aspect, generator)
        weak_plan = None if views.weak is None else views.weak.plan(aspect, generator)
        mix = self._mix(len(rows), generator)
        at = own = torch.arange(len(rows))[current().share(len(rows))]
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


def deal(n: int, count: int, step: int, seed: tuple[int, int]) -> Rows:
    """Positions (count,) that ``step`` takes from endless shuffled passes over ``n`` images."""
    wanted = np.arange(step * count, (step + 1) * count)
    out = np.empty(count, dtype=np.intp)
    for epoch in np.unique(wanted // n):
        order = np.random.default_rng([*seed, int(epoch)]).permutation(n)
        here = wanted // n == epoch
        out[here] = order[wanted[here] % n]
    return out


def _mixed_seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
