"""The feature bank: a frozen trunk's features of a few views of every image, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tutelage.augment import Center, Policy, Weak, apply
from tutelage.augment.plan import Plan
from tutelage.system.ranks import current
from tutelage.training.loader import Canvases, Rows
from tutelage.training.together import concatenated

Look = Callable[[Tensor], Tensor]
BATCH = 32  # images in a forward
_SPAN = 1024  # images; a whole number of batches, so that spans change no batch
CLEAN_VIEWS = 2  # the centre view and its mirror image; the rest are noise for the student


@dataclass(frozen=True)
class Bank:
    """Features (N, D) of each view of the same N images; the first two views have no noise."""

    views: tuple[Tensor, ...]

    def clean(self) -> tuple[Tensor, ...]:
        """The views a teacher looks at."""
        return self.views[:CLEAN_VIEWS]

    def clean_mean(self) -> Tensor:
        """The mean (N, D) of those views' features."""
        return torch.stack(self.clean()).mean(dim=0)

    def take(self, positions: Rows) -> Bank:
        """The bank of some of the images."""
        at = torch.from_numpy(np.ascontiguousarray(positions))
        return Bank(tuple(view[at] for view in self.views))


def bank_plans(
    views: int, crop_pct: float, strong: Policy, crop_scale: float
) -> list[tuple[Policy, bool]]:
    """Policy of each view, and whether it is mirrored.

    After the two clean views come cropped and strong ones in turn.
    """
    weak = strong if isinstance(strong, Center) else Weak(scale=(crop_scale, 1.0))
    noise: list[Policy] = [weak, strong]
    plans: list[tuple[Policy, bool]] = [(Center(crop_pct), False), (Center(crop_pct), True)]
    plans += [(noise[number % 2], False) for number in range(max(0, views - CLEAN_VIEWS))]
    return plans[:views]


def look(
    canvases: Canvases,
    rows: Rows,
    policy: Policy,
    forward: Look,
    size: int,
    *,
    mirrored: bool = False,
    generator: torch.Generator | None = None,
    progress: Callable[[int], None] | None = None,
    batch: int = BATCH,
) -> Tensor:
    """Outputs (N, D) of ``forward`` on one view of each row, on the CPU.

    Each of several ranks works on a share of the batches, and all get all outputs.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    starts, own = _starts(rows, batch)
    outputs = []
    ready = canvases.ahead(rows[start : start + batch] for start in own)
    for start in starts:
        part = rows[start : start + batch]
        # Planned for every batch, also those of other ranks: all draw from one generator.
        plan: Plan = policy.plan(canvases.aspect(part), generator)
        if start in own:
            next(ready)
            view = apply(canvases.take(part)[0], plan, size)
            if mirrored:
                view = view.flip(3)
            outputs.append(forward(view).float().cpu())
        if progress is not None:
            progress(min(start + batch, len(rows)))
    if not outputs:
        outputs = [forward(torch.zeros(0, 3, size, size)).float().cpu()]
    return concatenated(torch.cat(outputs))


def make_bank(
    canvases: Canvases,
    rows: Rows,
    forward: Look,
    size: int,
    plans: Sequence[tuple[Policy, bool]],
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Bank:
    """Features of every planned view; each view draws from a generator of its own.

    Images that no store holds are looked at in all views before the next ones are decoded.
    """
    generators = [torch.Generator().manual_seed(seed * 1000 + v) for v in range(len(plans))]
    span = max(1, len(rows)) if canvases.buffer is None else _SPAN
    spans = [rows[start : start + span] for start in range(0, len(rows), span)] or [rows]
    found: list[list[Tensor]] = [[] for _ in plans]
    done = 0
    for part, _ in zip(spans, canvases.ahead(map(_own, spans)), strict=False):
        for (policy, mirrored), generator, outputs in zip(plans, generators, found, strict=True):
            outputs.append(
                look(canvases, part, policy, forward, size, mirrored=mirrored, generator=generator)
            )
            done += len(part)
            if progress is not None:
                progress(done)
    return Bank(tuple(torch.cat(outputs) for outputs in found))


def _own(rows: Rows) -> Rows:
    starts = _starts(rows, BATCH)[1]
    return rows[starts.start : starts.stop]


def _starts(rows: Rows, batch: int) -> tuple[range, range]:
    """Where the batches of rows start: all of them, and this rank's share."""
    starts = range(0, len(rows), batch)
    return starts, starts[current().share(len(starts))]
