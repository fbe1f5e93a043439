"""How much a model counts beside its predecessor, by labels that neither has seen."""

from __future__ import annotations

import numpy as np

from tutelage.stats.metrics import Floats

RESAMPLES = 1000


def stacking_weight(before: Floats, after: Floats) -> float:
    """The weight in [0, 1] of the second of two models; the first has the rest.

    Each model is as probable as it makes the held-out labels. Which labels are held out is chance,
    so this is averaged over Bayesian bootstraps of them: pseudo-BMA+ of Yao, Vehtari, Simpson and
    Gelman 2018, "Using stacking to average Bayesian predictive distributions" (arXiv:1704.02030,
    section 3.4). Of ten labels with similar likelihoods little follows, and the weight is near one
    half; many labels with different ones leave one of the models nothing.

    Args:
        before: (J,) negative log-likelihoods of the held-out labels by the first model, in nats.
        after: (J,) the same by the second. J may be 0.
    """
    n = len(before)
    if n == 0:
        return 0.5
    shares = np.random.default_rng(0).dirichlet(np.ones(n), RESAMPLES)
    evidence = n * (shares @ (before - after))
    return float((1.0 / (1.0 + np.exp(-np.clip(evidence, -500.0, 500.0)))).mean())
