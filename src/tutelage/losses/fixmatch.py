"""The weak view's belief as a target (Sohn et al. 2020, "FixMatch", arXiv:2001.07685, eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor


def harden(probs: Tensor) -> Tensor:
    """One-hot rows (B, K) at the largest of ``probs`` (B, K)."""
    return torch.zeros_like(probs).scatter_(1, probs.argmax(dim=1, keepdim=True), 1.0)


def confident(probs: Tensor, threshold: float | Tensor) -> Tensor:
    """1.0 where the largest of a row of ``probs`` (B, K) reaches its threshold, else 0.0: (B,).

    Args:
        probs: (B, K).
        threshold: of every class, or (K,) one a class. A confidence at the threshold counts:
            FlexMatch (eq. 8) and FreeMatch (eq. 8) print ">", their code has ">=" as FixMatch does.
    """
    best = probs.argmax(dim=1, keepdim=True)
    return (probs >= threshold).gather(1, best).squeeze(1).to(probs.dtype)
