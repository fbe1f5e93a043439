"""Self-adaptive thresholds and fairness (Wang et al. 2023, "FreeMatch", arXiv:2205.07246)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def adaptive_thresholds(confidence: Tensor, marginal: Tensor) -> Tensor:
    """Thresholds (K,): the global one times each class's marginal over the largest (eq. 7).

    ``confidence`` () and ``marginal`` (K,) are running means over the pool: of the largest
    probability (eq. 5), and of all probabilities (eq. 6).
    """
    return marginal / marginal.max() * confidence


def fairness_loss(logits: Tensor, used: Tensor, marginal: Tensor, histogram: Tensor) -> Tensor:
    """``-H(SumNorm(marginal / histogram), SumNorm(mean / counts))`` (eq. 11).

    ``mean`` and ``counts`` are the mean probabilities and the histogram of best guesses of the
    strong views that are used (eq. 9). A class that is the best guess for no used image has no
    ratio and is left out; the authors' code gives it a ratio of 0 and a constant in place of log 0,
    with the same gradient. The sign is the paper's and that code's: the cross-entropy is
    maximised.

    Args:
        logits: (P, K) of the pool images' strong views.
        used: (P,) 1.0 where the weak view is confident, else 0.0.
        marginal: (K,) as in ``adaptive_thresholds``.
        histogram: (K,) running share of each class among the weak views' best guesses (eq. 10).
    """
    probs = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
    best = F.one_hot(probs.argmax(dim=1), probs.shape[1])
    counts = (best * used[:, None]).sum(dim=0)
    present = counts > 0
    ratios = (probs * used[:, None]).sum(dim=0) / counts.clamp_min(1) * present
    shares = ratios / ratios.sum().clamp_min(1e-12)
    expected = marginal / histogram
    expected = expected / expected.sum()
    return (expected * torch.where(present, shares, 1.0).log()).sum()
