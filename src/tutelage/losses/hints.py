"""Hints: the student's features foretell the teacher's (Romero et al. 2015, arXiv:1412.6550)."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.losses.distillation import batch_mean


def hint_loss(guesses: Tensor, hints: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Half the squared error, averaged over features and batch (eq. 3 of the paper).

    The paper sums over the features; the mean keeps one weight right for trunks of any width.
    The teacher's features are detached.

    Args:
        guesses: (B, D) the student's features through a connector to the teacher's width.
        hints: (B, D) the teacher's features.
        weights: (B,) or None for all ones.
    """
    precise = torch.promote_types(guesses.dtype, torch.float32)  # not in bfloat16
    errors = (guesses.to(precise) - hints.detach().to(precise)).square().mean(dim=1)
    return batch_mean(0.5 * errors, weights)
