"""95% intervals: of a proportion, of a paired change in accuracy, and of a mean over draws."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

Z95 = 1.959964  # the normal's two-sided 95% point


class Interval(NamedTuple):
    """A value and the ends of its 95% interval."""

    value: float
    low: float
    high: float


def wilson(hits: int, n: int) -> Interval:
    """Score interval of a proportion (Wilson 1927), n >= 1; it holds at 0, at 1 and at small n."""
    share = hits / n
    shrink = 1 + Z95 * Z95 / n
    centre = (share + Z95 * Z95 / (2 * n)) / shrink
    half = Z95 / shrink * math.sqrt(share * (1 - share) / n + Z95 * Z95 / (4 * n * n))
    # Rounding may leave a share of 0 or 1 a hair outside.
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def paired_change(wins: int, losses: int, n: int) -> Interval:
    """Change in accuracy between two models tested on the same n >= 1 images.

    Only the new model gets ``wins`` of them right, and only the old one ``losses``. It is the
    adjusted Wald interval of Bonett and Price, "Adjusted Wald confidence interval for a difference
    of binomial proportions based on paired data" (2012): one image is added to either side, so that
    the interval holds for few images and never has zero width.
    """
    up, down = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = Z95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Interval((wins - losses) / n, max(-1.0, up - down - half), min(1.0, up - down + half))


def t_interval(values: Sequence[float]) -> Interval:
    """Mean of at least 2 independent draws, with its interval (Student 1908)."""
    mean = statistics.fmean(values)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def t_quantile(freedom: int) -> float:
    """97.5% point of Student's t for a whole number of degrees of freedom, at least 1."""
    low, high = 1.9, 13.0  # the normal's is 1.96, that of one degree 12.71
    for _ in range(50):
        middle = (low + high) / 2
        inside = _t_inside(middle, freedom) < 0.95
        low, high = (middle, high) if inside else (low, middle)
    return (low + high) / 2


def _t_inside(t: float, freedom: int) -> float:
    """P(-t < T < t): the finite series of Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd, square = freedom % 2, math.cos(angle) ** 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for exponent in range(odd + 2, freedom, 2):
        term *= (exponent - 1) / exponent * square
        total += term
    share = math.sin(angle) * total
    return 2 / math.pi * (angle + share) if odd else share
