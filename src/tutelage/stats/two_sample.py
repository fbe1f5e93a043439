"""Are two samples of images from one distribution? Permutation tests, several at once.

If a batch is undisturbed, its images could change places with those of the reference, so every
other division of all images into two groups of the same sizes is as likely as the true one. The
p-value of a statistic is the share of divisions in which it is at least as large. That needs no
assumption about its distribution and holds for any number of images (Fisher 1935).

Shape letters: n images of the reference come first, m of the batch after them, N = n + m; B
divisions. A ``Statistic`` takes ``member`` (N, B) float32, 1 where a division puts an image into
the batch and 0 elsewhere, and gives (B,) values, large where the two groups differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tutelage.stats.metrics import Floats, Ints

Statistic: TypeAlias = Callable[[Floats], Floats]

DIVISIONS = 999  # besides the true one


class Test(NamedTuple):
    """What one statistic says."""

    p: float  # its own p-value
    adjusted: float  # the one that holds for all tests together


def two_sample_tests(
    statistics: Mapping[str, Statistic],
    n: int,
    m: int,
    *,
    divisions: int = DIVISIONS,
    seed: int = 0,
) -> dict[str, Test]:
    """Test several statistics on the same random divisions.

    A test raises an alarm where ``adjusted`` is at most the false-alarm rate; then the probability
    that an undisturbed batch raises any alarm is at most that rate. The adjustment is the step-down
    minP procedure (Westfall and Young 1993, algorithm 2.8; Ge, Dudoit and Speed 2003, box 4): it
    compares each p-value with the smallest of all that a random division reaches. Statistics that
    say the same so cost less than with the corrections of Bonferroni and Holm.
    """
    member = _divisions(n, m, divisions, seed)
    values = np.stack([statistic(member) for statistic in statistics.values()])
    p = _p_values(values)
    adjusted = _step_down(p)
    return {name: Test(float(p[i, 0]), float(adjusted[i])) for i, name in enumerate(statistics)}


def _divisions(n: int, m: int, count: int, seed: int) -> Floats:
    """The true division, then ``count`` random ones: (n + m, 1 + count)."""
    true = np.repeat(np.array([0, 1], dtype=np.float32), [n, m])
    rows = np.tile(true, (count + 1, 1))
    rows[1:] = np.random.default_rng(seed).permuted(rows[1:], axis=1)
    return np.ascontiguousarray(rows.T)


def _p_values(values: Floats) -> Floats:
    """For each of the statistics (T, B): the share of divisions with at least its value, (T, B)."""
    ordered = np.sort(values, axis=1)
    total = values.shape[1]
    below = [np.searchsorted(o, v, side="left") for o, v in zip(ordered, values, strict=True)]
    return np.asarray((total - np.stack(below)) / total)


def _step_down(p: Floats) -> Floats:
    """Adjusted p-values (T,) of the first column of p (T, B)."""
    order = np.argsort(p[:, 0], kind="stable")
    # Row i: in each division, the smallest p of the tests that are no surer than the i-th surest.
    least = np.minimum.accumulate(p[order][::-1], axis=0)[::-1]
    stepped = (least <= p[order, :1]).mean(axis=1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted


def anderson_darling(values: Floats) -> Statistic:
    """Do the distributions of a number (N,) differ, in any way?

    The squared difference of the two distribution functions, weighted so that the tails count as
    much as the middle (Pettitt 1976; Scholz and Stephens 1987, eq. 6, up to a constant factor).
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    # Equal numbers have one place in a distribution function: the last of them.
    ends = np.flatnonzero(ordered[1:] != ordered[:-1])
    below = (ends + 1).astype(np.float32)
    total = len(values)
    at_value = np.diff(below, prepend=0)
    weights = (at_value / (below * (total - below))).astype(np.float32)

    def statistic(member: Floats) -> Floats:
        m = member[:, :1].sum()
        batch = np.cumsum(member[order], axis=0)[ends]
        gap = batch / m - (below[:, None] - batch) / (total - m)
        return np.asarray(weights @ np.square(gap))

    return statistic


def energy_distance(features: Floats) -> Statistic:
    """Do the distributions of features (N, D) differ, in any way?

    The energy distance (Székely and Rizzo 2004): how much farther the images of one group are from
    those of the other than from each other. It is the maximum mean discrepancy whose kernel is the
    negative distance (Sejdinovic et al. 2013, arXiv:1207.6076, theorem 22), and has no bandwidth.
    """
    points = features.astype(np.float32)
    squares = np.square(points).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * (points @ points.T)
    np.sqrt(np.maximum(distances, 0, out=distances), out=distances)
    np.fill_diagonal(distances, 0)  # rounding leaves the square root of a little

    def statistic(member: Floats) -> Floats:
        m = member[:, :1].sum()
        weights = member / m - (1 - member) / (len(member) - m)
        return np.asarray(-(weights * (distances @ weights)).sum(axis=0))

    return statistic


def share_rises(flags: NDArray[np.bool_]) -> Statistic:
    """Is the share of flagged images (N,) larger in the batch? One-sided: less is no alarm."""

    def statistic(member: Floats) -> Floats:
        return np.asarray(flags.astype(np.float32) @ member)  # the total is the same in each

    return statistic


def a_share_moves(classes: Ints) -> Statistic:
    """Has the share of any of the classes (N,) moved?

    The largest deviation of a class's count in the batch from what its share in all images lets
    expect, in standard deviations of the hypergeometric distribution. Where one class has become
    more frequent, as is common, this notices it earlier than Pearson's chi-square of all classes.
    """
    values, counts = np.unique(classes, return_counts=True)
    one_hot = (classes[None] == values[:, None]).astype(np.float32)
    share = counts[:, None] / len(classes)

    def statistic(member: Floats) -> Floats:
        m, total = member[:, :1].sum(), len(classes)
        variance = m * share * (1 - share) * (total - m) / (total - 1)
        deviations = np.abs(one_hot @ member - m * share) / np.sqrt(np.maximum(variance, 1e-12))
        return np.asarray(deviations.max(axis=0))

    return statistic
