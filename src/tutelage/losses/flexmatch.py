"""Curriculum pseudo-labels (Zhang et al. 2021, "FlexMatch", arXiv:2110.08263).

A class that few pool images are confidently assigned to is hard to learn: its threshold is lower.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNUSED = -1


def learning_effect(marks: Tensor, n_classes: int) -> Tensor:
    """Learning effect sigma (K,): how many pool images bear each class's mark (eq. 5, Algorithm 1).

    ``marks`` (N,) int64 hold the last class each was confidently assigned to, or UNUSED (-1).
    """
    counts = marks.new_zeros(n_classes + 1).scatter_add_(0, marks + 1, torch.ones_like(marks))
    return counts[1:]


def flexible_thresholds(effect: Tensor, n_pool: int, threshold: float) -> Tensor:
    """T (K,) from sigma (K,): ``M(beta) * threshold`` with ``M(x) = x / (2 - x)`` (eq. 12).

    beta is sigma over its largest value, or over the number of unused images while that is larger
    (the warm-up, eq. 11), so that all thresholds rise from 0. ``n_pool`` counts all pool images,
    used or not; ``threshold`` is that of the class learnt best.
    """
    unused = n_pool - effect.sum()
    beta = effect / torch.maximum(effect.max(), unused).clamp_min(1)
    return beta / (2 - beta) * threshold
