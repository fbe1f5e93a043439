"""Logit adjustment for classes of unequal frequency (Menon et al. 2021, arXiv:2007.07314)."""

from __future__ import annotations

from torch import Tensor


def log_prior(counts: Tensor, *, smoothing: float = 1.0) -> Tensor:
    """Logarithm (K,) of the class frequencies, smoothed so that no class is impossible.

    ``smoothing`` images are added to each class's ``counts`` (K,), which may be fractions.
    """
    smoothed = counts + smoothing
    return (smoothed / smoothed.sum()).log()


def adjust_logits(logits: Tensor, log_prior: Tensor | None) -> Tensor:
    """``logits`` (B, K) plus ``log_prior`` (K,), for the training loss alone (eq. 10, tau = 1).

    A model that must explain the classes' frequencies by this constant has no reason to learn
    them: its own logits, without the constant, minimise the balanced error. None adds nothing.
    """
    return logits if log_prior is None else logits + log_prior
