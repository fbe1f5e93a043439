"""Label efficiency: accuracy against the number of labels, with and without the unlabelled images.

How many labels they are worth is the horizontal distance between the two curves.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutelage.stats.intervals import t_interval


@dataclass(frozen=True)
class CurvePoint:
    """One number of labels over S draws."""

    labels: float  # in all classes together, the mean of the draws
    without: Sequence[float]  # (S,) test accuracies of transfer, which sees labels only
    within: Sequence[float]  # (S,) of the teacher after self-training on the unlabelled images
    own: bool  # whether this is the number of labels that the ladder was asked for


@dataclass(frozen=True)
class LabelCount:
    """A number of labels read off a curve; ``beyond`` is 1 for "more than", -1 for "fewer than"."""

    count: float
    beyond: int = 0


@dataclass(frozen=True)
class Worth:
    """What the unlabelled images are worth at the user's own number of labels.

    If more labels were tried, ``equal`` labels alone do what ``labels`` do with the unlabelled
    images; else ``equal`` labels with them do what ``labels`` do alone.
    """

    labels: float  # the user's own number
    more: bool  # whether more labels were tried
    equal: LabelCount
    low: LabelCount  # the end of its 95% interval where the unlabelled images are worth least
    high: LabelCount  # the other end

    @property
    def is_clear(self) -> bool:
        """Whether the whole interval lies on one side of the user's own number of labels."""
        least, most = (self.low, self.high) if self.more else (self.high, self.low)
        return self.labels < least.count or most.count < self.labels


def worth(points: Sequence[CurvePoint]) -> Worth | None:
    """What the unlabelled images are worth in labels.

    The curves are means over the draws, made monotone, linear in the logarithm of the labels. The
    interval is that of the paired difference in accuracy at the user's own number of labels
    (Student's t), read off the curve, whose shape is taken as known. ``points`` rise in labels; one
    of them is the user's own, and fewer than 2 are no curve.
    """
    if len(points) < 2:
        return None
    (at,) = [place for place, point in enumerate(points) if point.own]
    own, more = points[at], at < len(points) - 1
    gains = [b - a for a, b in zip(own.without, own.within, strict=True)]
    if more:
        curve = _mean_curve([point.without for point in points])
        reached = [curve[at] + gain for gain in t_interval(gains)]
    else:
        curve = _mean_curve([point.within for point in points])
        reached = [curve[at] - gain for gain in t_interval(gains)]
    counts = [point.labels for point in points]
    equal, low, high = (_read(counts, curve, value) for value in reached)
    return Worth(own.labels, more, equal, low, high)


def _mean_curve(draws: Sequence[Sequence[float]]) -> list[float]:
    means = [statistics.fmean(each) for each in draws]
    return [float(value) for value in np.maximum.accumulate(means)]


def _read(counts: Sequence[float], curve: Sequence[float], value: float) -> LabelCount:
    """The number of labels at which a rising curve reaches ``value``."""
    after = int(np.searchsorted(curve, value))
    if after == len(curve):
        return LabelCount(counts[-1], beyond=1)
    if after == 0:
        return LabelCount(counts[0], beyond=-1 if value < curve[0] else 0)
    share = (value - curve[after - 1]) / (curve[after] - curve[after - 1])
    low, high = (math.log(count) for count in counts[after - 1 : after + 1])
    return LabelCount(math.exp(low + share * (high - low)))
