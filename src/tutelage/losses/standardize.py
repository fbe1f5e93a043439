"""Logit standardisation (Sun et al. 2024, arXiv:2403.01427)."""

from __future__ import annotations

import torch
from torch import Tensor


def standardize(logits: Tensor) -> Tensor:
    """Each row of ``logits`` (B, K) with mean 0 and standard deviation 1 over its classes.

    To be applied to both models' logits before a distillation loss (algorithm 1 of the paper):
    the student then learns how the teacher's logits relate, not how large they are, and one
    temperature fits both. A row of equal logits becomes zeros. It takes three classes: of two,
    every row becomes (1, -1) or (-1, 1).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # not in bfloat16
    centred = logits - logits.mean(dim=1, keepdim=True)
    # Clamped before the root: a root's slope at 0 is infinite.
    return centred / centred.square().mean(dim=1, keepdim=True).clamp_min(1e-12).sqrt()
