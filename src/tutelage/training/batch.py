"""What a training step receives: views of images, and targets that are always probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One batch; every step reads the parts it declares and no others.

    Of each view a rank has only its share (``tutelage.system.ranks``): b of the B images, which
    in a single process are all of them. ``tutelage.training.together.whole`` puts together what
    the ranks compute from their shares.
    """

    images: Tensor  # (b, 3, H, W) in [0, 1], the view whose targets are learned
    targets: Tensor  # (B, K) probabilities
    weights: Tensor  # (B,) weight of each image's target; 0 where there is no target
    # (b, 3, H', W') the same view (same crop, colours and mixing) at each teacher's resolution.
    teacher_images: tuple[Tensor, ...] = ()
    # What follows is None unless the step asks for it.
    weak: Tensor | None = None  # (b, 3, H, W) a weak view of the same images
    # (p, 3, H, W) a strong view of images of the pool alone, this rank's share of those P.
    strong: Tensor | None = None
    # (P,) int64 positions in the pool of the batch's P images of the pool, which come last.
    ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def view_sizes(self) -> list[int]:
        """Images of each view that a forward in training sees: B, and P of strong views."""
        if self.strong is None or self.ids is None:
            return [len(self)]
        return [len(self), len(self.ids)]

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; images are channels-last there."""
        moved = {f.name: _moved(getattr(self, f.name), device) for f in fields(self)}
        return replace(self, **moved)


def _moved(part: Any, device: torch.device) -> Any:
    """A tensor, several of them or None, on ``device``."""
    if part is None:
        return None
    if isinstance(part, tuple):
        return tuple(_moved(each, device) for each in part)
    layout = torch.channels_last if part.ndim == 4 else torch.preserve_format
    return part.to(device, non_blocking=True, memory_format=layout)


Metrics = dict[str, Tensor]
Step = Callable[[nn.Module, Batch], tuple[Tensor, Metrics]]
