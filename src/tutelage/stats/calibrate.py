"""Temperature scaling (Guo et al. 2017, section 4.2), and how much one model counts beside another.

Both are fitted on held-out predictions only.
"""

from __future__ import annotations

import numpy as np

from tutelage.stats.metrics import Floats, Ints

PRIOR_WEIGHT = 4.0  # images that the belief in a temperature near 1 counts as
RESAMPLES = 1000  # of the held-out labels, for ``stacking_weight``


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities (N, K) of ``logits / temperature``."""
    scaled = logits / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def fit_temperature(logits: Floats, targets: Floats) -> float:
    """The temperature that minimises the negative log-likelihood of held-out images.

    ``logits`` (N, K) are out of fold, and ``targets`` (N, K) probabilities; without images it is 1.
    With a handful of labels the optimum can run to 0 (all right by luck), so a log-normal prior
    around 1 counts as much as ``PRIOR_WEIGHT`` images. The search is on a fixed grid: the objective
    is smooth, and a grid gives the same answer on every machine.
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


def stacking_weight(before: Floats, after: Floats) -> float:
    """The weight in [0, 1] of the second of two models; the first has the rest.

    ``before`` and ``after`` (J,) are the negative log-likelihoods, in nats, of the held-out labels
    by the first and the second. Each model is as probable as it makes these labels. Which labels
    are held out is chance, so this is averaged over Bayesian bootstraps of them: pseudo-BMA+ of
    Yao, Vehtari, Simpson and Gelman 2018, "Using stacking to average Bayesian predictive
    distributions" (arXiv:1704.02030, section 3.4). Of ten labels with similar likelihoods little
    follows, and the weight is near one half; many labels with different ones leave one of the
    models nothing.
    """
    n = len(before)
    if n == 0:
        return 0.5
    shares = np.random.default_rng(0).dirichlet(np.ones(n), RESAMPLES)
    evidence = n * (shares @ (before - after))
    return float((1.0 / (1.0 + np.exp(-np.clip(evidence, -500.0, 500.0)))).mean())
