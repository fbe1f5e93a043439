"""A soft threshold (Chen et al. 2023, "SoftMatch", arXiv:2301.10921).

Section 3.3's uniform alignment is ``remixmatch.align`` with a uniform prior; it decides weights
only, never targets.
"""

from __future__ import annotations

import torch
from torch import Tensor


def truncated_gaussian(confidence: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Weights (B,) in (0, 1]: 1 from the mean up, a Gaussian's flank below it.

    The paper's formula has ``2 * variance`` under the squared distance. The authors' code divides
    the variance by ``n_sigma ** 2 = 4`` first, so its flank is twice as steep.

    Args:
        confidence: (B,) largest probability of each weak view, after uniform alignment.
        mean: () running mean of the pool's confidence.
        variance: () its running variance.
    """
    short = (confidence - mean).clamp_max(0)
    return torch.exp(-short.square() / (2 * variance.clamp_min(1e-12)))


def confidence_moments(confidence: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of ``confidence`` (B,) over the pool's images.

    Args:
        confidence: (B,).
        pool: (B,) 1.0 for images of the pool, else 0.0.
    """
    count = pool.sum()
    mean = (confidence * pool).sum() / count.clamp_min(1)
    squares = ((confidence - mean).square() * pool).sum()
    return mean, squares / (count - 1).clamp_min(1)
