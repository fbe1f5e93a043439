"""Distribution alignment (Berthelot et al. 2020, "ReMixMatch", section 3.1)."""

from __future__ import annotations

from torch import Tensor


def align(probs: Tensor, marginal: Tensor, prior: Tensor) -> Tensor:
    """Scale ``probs`` (B, K) by ``prior / marginal`` (each (K,)) and renormalise the rows."""
    scaled = probs * (prior / marginal.clamp_min(1e-6))
    return scaled / scaled.sum(dim=1, keepdim=True).clamp_min(1e-12)
