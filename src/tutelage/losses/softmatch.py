"""A soft threshold (Chen et al. 2023, "SoftMatch", arXiv:2301.10921).

Section 3.3's uniform alignment is ``tutelage.steps.fixmatch.align`` with a uniform prior; it
decides weights only, never targets.
"""

from __future__ import annotations

import torch
from torch import Tensor


def truncated_gaussian(confidence: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Weights (P,) in (0, 1]: 1 from the mean up, a Gaussian's flank below it.

    The paper's formula has ``2 * variance`` under the squared distance. The authors' code divides
    the variance by ``n_sigma ** 2 = 4`` first, so its flank is twice as steep.

    ``confidence`` (P,) is each weak view's largest probability after uniform alignment, ``mean``
    and ``variance`` () are its running statistics.
    """
    short = (confidence - mean).clamp_max(0)
    return torch.exp(-short.square() / (2 * variance.clamp_min(1e-12)))


def squared_deviations(confidence: Tensor) -> Tensor:
    """Values (P,) whose mean is the unbiased variance of ``confidence`` (P,); 0 for one image."""
    count = len(confidence)
    return (confidence - confidence.mean()).square() * (count / max(1, count - 1))
