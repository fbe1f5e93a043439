"""Cross-entropy against probabilities: one loss for labels, mixed labels and pseudo-labels."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the batch of ``weight * H(target, softmax(logits))``.

    The sum is divided by the batch size, not by the sum of the weights, so that an image of
    weight zero (a target below its threshold) lowers the loss as it does in FixMatch (Sohn et
    al. 2020, eq. 4) instead of lending its share to the others. With weights, an empty batch
    gives 0.

    Args:
        logits: (B, K).
        targets: (B, K) probabilities, or these times the weight of each class.
        weights: (B,) or None for all ones.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # not in bfloat16
    losses = -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1)
    return losses.mean() if weights is None else (losses * weights).sum() / max(1, len(losses))
