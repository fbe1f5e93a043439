"""Label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7)."""

from __future__ import annotations

from torch import Tensor


def smooth_targets(targets: Tensor, amount: float) -> Tensor:
    """``(1 - amount) * targets + amount / K``, the mixture with the uniform distribution.

    Args:
        targets: (B, K) probabilities.
        amount: share of the uniform distribution, in [0, 1).
    """
    return (1.0 - amount) * targets + amount / targets.shape[1]
