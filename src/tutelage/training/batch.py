"""What a training step receives: views of images, and targets that are always probabilities."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One batch; every step reads the parts it declares and no others.

    Of the views a rank has its share alone (``tutelage.system.ranks``): b of the B images, all of
    them in a single process. What is computed from them is made whole again with
    ``tutelage.training.together.whole``.

    Attributes:
        images: (b, 3, H, W) in [0, 1], the view that the student learns from.
        targets: (B, K) probabilities.
        weights: (B,) weight of each image's target; 0 where there is no target.
        teacher_images: (b, 3, H', W') the same view (same crop, colours and mixing) at the
            resolution of each teacher; empty where no teacher looks.
        weak: (b, 3, H, W) the weak view of the same images; None unless the step asks for it.
        key: equal for two batches of a data set only where they hold the same views and mixing;
            None where nobody keeps what was worked out of a batch.
        ids: (B,) int64, each image's position in the pool, -1 for a labelled one; None where no
            step asks which image it sees.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    teacher_images: tuple[Tensor, ...] = ()
    weak: Tensor | None = None
    key: Hashable = None
    ids: Tensor | None = None

    def __len__(self) -> int:
        """B."""
        return len(self.targets)

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; images are channels-last there."""
        moved = {f.name: _moved(getattr(self, f.name), device) for f in fields(self)}
        return replace(self, **moved)


def _moved(part: Any, device: torch.device) -> Any:
    """A batch's tensor, or each of several, on ``device``; what is no tensor as it is."""
    if isinstance(part, tuple):
        return tuple(_moved(each, device) for each in part)
    if not isinstance(part, Tensor):
        return part
    layout = torch.channels_last if part.ndim == 4 else torch.preserve_format
    return part.to(device, non_blocking=True, memory_format=layout)


Metrics = dict[str, Tensor]
Step = Callable[[nn.Module, Batch], tuple[Tensor, Metrics]]
