"""What a model's answers say about images without labels: their classes, and how often it is right.

Class shares: black-box shift estimation (Lipton, Wang and Smola 2018, "Detecting and Correcting for
Label Shift with Black Box Predictors", arXiv:1802.03916, algorithm 1). Accuracy: the difference of
confidences (Guillory et al. 2021, "Predicting with Confidence on Unseen Distributions",
arXiv:2107.03315, section 4.2). On digits and on ants and bees, disturbed as in
``benchmarks/watch.py``, it mostly erred less than the average thresholded confidence of Garg et al.
2022 (arXiv:2201.04234).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tutelage.stats.intervals import Z95, Interval
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
    """The shares of the true classes in a batch (m,), from what a model calls its images.

    If only the shares have changed, the model confuses the classes as it did on held-out images, at
    least one of each class, whose ``labels`` (n,) it ``predicted``. So the shares p solve
    ``C p = q``, where ``C[i, j]`` is how often an image of class j is called i and ``q`` how often
    images of the batch are called i. The intervals are those of a bootstrap (Efron 1979) over the
    held-out images of each class and over the batch.
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


def estimated_accuracy(confidence: Floats, correct: NDArray[np.bool_], batch: Floats) -> Interval:
    """The mean confidence in a batch (m,), corrected by how far held-out confidences (n,) were off.

    A confidence is the probability of the likeliest class, and ``correct`` says whether that is the
    true one. It is right as far as a confidence still means what it meant on the held-out images.
    The 95% interval counts the chance in both samples, and nothing that breaks this assumption.
    """
    offset = float(correct.mean() - confidence.mean())
    value = float(batch.mean()) + offset
    # A model that erred on none of a few images may err on others: confidences say how often. One
    # that is too sure errs more often than they say.
    spread = max(float((correct - confidence).var()), _spread(confidence))
    wider = max(spread, _spread(batch))
    half = Z95 * math.sqrt(spread / len(confidence) + wider / len(batch))
    value, low, high = (min(1.0, max(0.0, x)) for x in (value, value - half, value + half))
    return Interval(value, low, high)


def _spread(confidence: Floats) -> float:
    """Variance of an answer being right, if it is right as often as it is sure."""
    return float((confidence * (1 - confidence)).mean())
