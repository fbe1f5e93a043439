"""The accuracy on images without labels, from how sure a calibrated model is of its answers.

Guillory et al. 2021, "Predicting with Confidence on Unseen Distributions" (arXiv:2107.03315),
section 4.2: the difference of confidences. On digits and on ants and bees, disturbed as in
``benchmarks/watch.py``, it mostly erred less than the average thresholded confidence of Garg et al.
2022 (arXiv:2201.04234).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tutelage.stats.intervals import Z95, Interval
from tutelage.stats.metrics import Floats


def estimated_accuracy(confidence: Floats, correct: NDArray[np.bool_], batch: Floats) -> Interval:
    """The mean confidence in a batch, corrected by how far held-out confidences were off.

    It is right as far as a confidence still means what it meant on the held-out images. The 95%
    interval counts the chance in both samples, and nothing that breaks this assumption.

    Args:
        confidence: (n,) probability of the likeliest class of held-out images.
        correct: (n,) whether that class is the true one.
        batch: (m,) the same probability of images without labels.
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
