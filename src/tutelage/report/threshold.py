"""Two classes and one threshold: which mistakes it makes on the test images, and what they cost.

The page offers a threshold for the costs that its reader enters. It is chosen on labels that were
held out from training, and the test images only show what it does. ``report.js`` computes it:

1. The odds of the positive class are multiplied by one factor, such that held-out labels, weighted
   to the frequency that the reader expects, are as frequent as the probabilities say (King and Zeng
   2001, "Logistic Regression in Rare Events Data"; here the factor is fitted, not assumed). Labels
   that were picked class by class say nothing about frequencies, so without this step the
   probabilities would be those of another mixture.
2. Where missing a positive costs N times a false alarm, it is cheapest to call an image positive
   from the probability 1 / (1 + N) on (Elkan 2001, "The Foundations of Cost-Sensitive Learning").
3. That threshold is recommended only where it is cheaper than one half on the held-out labels by
   more than chance explains: the images that it calls differently are gains or losses of a known
   cost, and with both equally likely the standard error of their sum is the root of the sum of
   their squares (McNemar 1947, with costs). Else one half stays.

One number fitted to 40 held-out labels is steadier than the threshold that was cheapest on them.

Shape letters: n test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tutelage.report.model import StageTest

Probs = NDArray[Any]  # (n,) of the positive class
Counts = NDArray[np.integer[Any]]
Truth = NDArray[np.bool_]  # (n,) whether an image is of the positive class
STEPS = 100  # thresholds are multiples of 1 / STEPS
HELD_OUT = 2000  # held-out answers in the page, at most


class Curve(NamedTuple):
    """A curve over all thresholds, from strict to lenient, and the area under it."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    area: float


class TwoClasses(NamedTuple):
    """What template and script show of the mistakes at each of the ``STEPS`` + 1 thresholds."""

    positive: str  # the rarer class among the test images
    negative: str
    positives: int  # test images of the positive class
    negatives: int
    missed: list[int]
    false_alarms: list[int]
    held: list[list[float]]  # held-out probabilities of the positive class's images, and of others


def two_classes(
    test: StageTest, held_out: StageTest | None, classes: Sequence[str]
) -> TwoClasses | None:
    """The figures of a model of two classes; None unless test images show both."""
    counts = np.bincount(test.labels, minlength=2)
    if len(classes) != 2 or counts.min() == 0:
        return None
    k = int(counts[1] < counts[0])
    mistakes = mistakes_by_threshold(test.probs[:, k], test.labels == k)
    held: list[list[float]] = [[], []]
    if held_out is not None:
        probs, own = held_out.probs[:HELD_OUT, k], held_out.labels[:HELD_OUT] == k
        held = [np.round(probs[of], 4).tolist() for of in (own, ~own)]
    missed, false_alarms = (found.tolist() for found in mistakes)
    names, sizes = (classes[k], classes[1 - k]), (int(counts[k]), int(counts[1 - k]))
    return TwoClasses(*names, *sizes, missed, false_alarms, held)


def mistakes_by_threshold(probs: Probs, positive: Truth) -> tuple[Counts, Counts]:
    """Missed positives and false alarms at each of the ``STEPS`` + 1 thresholds from 0 to 1.

    An image is called positive if its probability is at least the threshold.
    """
    called = probs >= np.arange(STEPS + 1)[:, None] / STEPS
    missed, false_alarms = ~called & positive, called & ~positive
    return np.count_nonzero(missed, axis=1), np.count_nonzero(false_alarms, axis=1)


def recall_precision(probs: Probs, positive: Truth) -> Curve:
    """Precision against recall; the area is the average precision."""
    hits, alarms = _counts(probs, positive)
    recall, precision = hits / positive.sum(), hits / (hits + alarms)
    return Curve(recall, precision, float((np.diff(recall, prepend=0.0) * precision).sum()))


def roc(probs: Probs, positive: Truth) -> Curve:
    """True against false positive rate, from (0, 0); the area is by trapezoids."""
    hits, alarms = (np.concatenate([[0], counts]) for counts in _counts(probs, positive))
    x, y = alarms / (~positive).sum(), hits / positive.sum()
    return Curve(x, y, float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum()))


def _counts(probs: Probs, positive: Truth) -> tuple[Counts, Counts]:
    """Positives and negatives with at least each of the distinct probabilities, highest first."""
    order = np.argsort(-probs, kind="stable")
    last = np.flatnonzero(np.diff(probs[order], append=-1.0))  # of equal ones
    hits = np.cumsum(positive[order], dtype=np.int64)[last]
    return hits, last + 1 - hits
