"""How frequent the classes are among images without labels: black-box shift estimation.

Lipton, Wang and Smola 2018, "Detecting and Correcting for Label Shift with Black Box Predictors"
(arXiv:1802.03916), algorithm 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tutelage.stats.metrics import Floats, Ints, confusion_matrix

DRAWS = 500


class Shares(NamedTuple):
    """Estimated shares of the classes (K,) and the ends of their 95% intervals (K,)."""

    values: Floats
    low: Floats
    high: Floats


def class_shares(
    labels: Ints, predicted: Ints, batch: Ints, n_classes: int, *, seed: int = 0
) -> Shares:
    """The shares of the true classes in a batch, from what a model calls its images.

    If only the shares have changed, the model confuses the classes as it did on held-out images.
    So the shares p solve ``C p = q``, where ``C[i, j]`` is how often an image of class j is called
    i and ``q`` how often images of the batch are called i. The intervals are those of a bootstrap
    (Efron 1979) over the held-out images of each class and over the batch.

    Args:
        labels: (n,) true classes of held-out images, at least one of each class.
        predicted: (n,) what the model calls them.
        batch: (m,) what it calls the images of the batch.
        n_classes: K.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    counts = confusion_matrix(labels, predicted, n_classes)
    sizes = counts.sum(axis=1)
    rates = counts / sizes[:, None]
    called = np.bincount(batch, minlength=n_classes) / len(batch)
    # A class of five images that were all called right is not known to be called right always:
    # one image more, spread over all answers, keeps its draws apart.
    smooth = (counts + 1 / n_classes) / (sizes[:, None] + 1)
    draws = np.stack(
        [
            _solved(
                rng.multinomial(sizes, smooth) / sizes[:, None],
                rng.multinomial(len(batch), called) / len(batch),
            )
            for _ in range(DRAWS)
        ]
    )
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    values = _solved(rates, called)
    return Shares(values, np.minimum(low, values), np.maximum(high, values))


def _solved(rates: Floats, called: Floats) -> Floats:
    """Shares (K,) on the simplex; ``rates`` (K, K) has a row for each true class."""
    found, *_ = np.linalg.lstsq(rates.T, called, rcond=1e-3)
    return _on_simplex(found)


def _on_simplex(values: Floats) -> Floats:
    """The nearest point (K,) with no negative part and the sum 1 (Duchi et al. 2008, figure 1)."""
    ordered = np.sort(values)[::-1]
    excess = (np.cumsum(ordered) - 1) / np.arange(1, len(values) + 1)
    last = int(np.flatnonzero(ordered > excess)[-1])
    return np.asarray(np.maximum(values - excess[last], 0))
