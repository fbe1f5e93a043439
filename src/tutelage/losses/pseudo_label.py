"""Pseudo-labels while training: the weak view's belief, aligned and thresholded.

Confidence threshold: Sohn et al. 2020, "FixMatch", eq. 4. Distribution alignment: Berthelot et
al. 2020, "ReMixMatch", section 3.1.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class PseudoLabels(NamedTuple):
    """Beliefs ready to train on: targets (B, K), weights (B,), both without gradient."""

    targets: Tensor
    weights: Tensor


def align(probs: Tensor, marginal: Tensor, prior: Tensor) -> Tensor:
    """Scale ``probs`` (B, K) by ``prior / marginal`` (each (K,)) and renormalise the rows."""
    scaled = probs * (prior / marginal.clamp_min(1e-6))
    return scaled / scaled.sum(dim=1, keepdim=True).clamp_min(1e-12)


def pseudo_labels(
    probs: Tensor, *, threshold: float, hard: bool, marginal: Tensor, prior: Tensor
) -> PseudoLabels:
    """Turn the weak view's probabilities (B, K) into targets and weights.

    Alignment comes first and the threshold reads the aligned confidence: thresholding first
    would select by the very bias that alignment removes.

    Args:
        probs: (B, K) of the weak view.
        threshold: an image counts when its aligned confidence is at least this.
        hard: True for one-hot targets, False for the aligned probabilities themselves.
        marginal: (K,) running mean of the model's own probabilities over the pool.
        prior: (K,) the class distribution to align to.
    """
    aligned = align(probs.detach(), marginal, prior)
    confidence, labels = aligned.max(dim=1)
    targets = (
        aligned.new_zeros(aligned.shape).scatter_(1, labels[:, None], 1.0) if hard else aligned
    )
    return PseudoLabels(targets, (confidence >= threshold).to(aligned.dtype))
