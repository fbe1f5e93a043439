"""Temperature scaling (Guo et al. 2017, section 4.2), fitted on held-out predictions only."""

from __future__ import annotations

import numpy as np

from tutelage.stats.metrics import Floats, Ints

PRIOR_WEIGHT = 4.0  # images that the belief in a temperature near 1 counts as


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities (N, K) of ``logits / temperature``."""
    scaled = logits / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def fit_temperature(logits: Floats, targets: Floats) -> float:
    """The temperature that minimises the held-out negative log-likelihood.

    With a handful of labels the optimum can run to 0 (all right by luck), so a log-normal prior
    around 1 counts as much as ``PRIOR_WEIGHT`` images. The search is on a fixed grid: the objective
    is smooth, and a grid gives the same answer on every machine.

    Args:
        logits: (N, K) out-of-fold logits; N may be 0 (temperature 1).
        targets: (N, K) probabilities; one-hot for true labels.
    """
    grid = np.exp(np.linspace(np.log(0.05), np.log(20.0), 241))
    losses = [
        -(targets * np.log(np.clip(softmax(logits, t), 1e-12, 1.0))).sum()
        + PRIOR_WEIGHT * np.log(t) ** 2
        for t in grid
    ]
    return float(grid[int(np.argmin(losses))])


def calibrated_losses(logits: Floats, labels: Ints) -> Floats:
    """Negative log-likelihoods (N,) of ``labels`` (N,) at the temperature that fits them.

    ``logits`` (N, K) are out-of-fold ones.
    """
    temperature = fit_temperature(logits, np.eye(logits.shape[1])[labels])
    true = softmax(logits, temperature)[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.clip(true, 1e-12, 1.0)))
