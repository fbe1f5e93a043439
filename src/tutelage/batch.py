"""What a training step receives: views of images, and targets that are always probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """One batch; every step reads the parts it declares and no others.

    Attributes:
        images: (B, 3, H, W) in [0, 1], the view that the student learns from.
        targets: (B, K) probabilities.
        weights: (B,) weight of each image's target; 0 where there is no target.
        teacher_images: (B, 3, H', W') the same view (same crop, colours and mixing) at the
            teacher's resolution; None where no teacher looks.
        weak: (B, 3, H, W) the weak view of the same images; None unless the step asks for it.
    """

    images: Tensor
    targets: Tensor
    weights: Tensor
    teacher_images: Tensor | None = None
    weak: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; images are channels-last there."""
        moved = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            if tensor is not None:
                moved[field.name] = tensor.to(
                    device,
                    non_blocking=True,
                    memory_format=torch.channels_last
                    if tensor.ndim == 4
                    else torch.preserve_format,
                )
        return replace(self, **moved)


Metrics = dict[str, Tensor]
Step = Callable[[nn.Module, Batch], tuple[Tensor, Metrics]]
