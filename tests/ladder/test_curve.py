"""Label efficiency: which numbers of labels are tried, and the distance between two curves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tutelage.data.catalog import Catalog
from tutelage.data.sources import FileSource
from tutelage.ladder.curve import CurvePoint, LabelCount, worth
from tutelage.ladder.request import RUNGS, check_budgets
from tutelage.system.errors import TutelageError


def catalog(*counts: int) -> Catalog:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"{i}.png" for i in range(len(labels)))
    source = FileSource([Path(name) for name in names])
    splits = np.full(len(labels), "train")
    return Catalog(names, labels.astype(np.int32), splits, tuple("abc"[: len(counts)]), source)


@pytest.mark.parametrize(
    ("counts", "own", "expected"),
    [
        ((100, 100), 10, (5, 20, 40)),  # a quarter is left out: three are enough
        ((25, 25), 10, (5, 20, 25)),
        ((10, 10), 10, (2, 5)),  # there are no more
        ((11, 11), 10, (2, 5)),  # hardly more are no point of their own
        ((40, 40), None, (10, 20)),
        ((3, 40, 50), 20, (5, 10, 40)),  # the typical class says how many there are
        ((3, 3), 3, ()),
    ],
)
def test_fewer_and_more_labels_are_tried_as_far_as_there_are_any(
    counts: tuple[int, ...], own: int | None, expected: tuple[int, ...]
) -> None:
    assert check_budgets(None, catalog(*counts), own, RUNGS) == expected


def test_asked_budgets_are_taken_or_refused() -> None:
    data = catalog(20, 20)
    assert check_budgets([20, 5, 5, 10], data, 10, RUNGS) == (5, 20)
    assert check_budgets([], data, 10, RUNGS) == ()
    assert check_budgets(None, data, 10, ["probe", "student"]) == ()
    with pytest.raises(TutelageError, match="--curve has 21; it takes labels per class from 1 to"):
        check_budgets([21], data, 10, RUNGS)
    with pytest.raises(TutelageError, match="--arms leaves out self-train; add them, or give"):
        check_budgets([5], data, 10, ["transfer"])


def point(labels: float, without: float, within: float, *, own: bool = False) -> CurvePoint:
    """Two draws, a point apart from each other in both."""
    return CurvePoint(labels, [without - 0.01, without + 0.01], [within - 0.01, within + 0.01], own)


def test_the_distance_to_more_labels_by_hand() -> None:
    found = worth([point(10, 0.50, 0.55), point(20, 0.60, 0.70, own=True), point(80, 0.80, 0.82)])
    assert found is not None
    assert (found.labels, found.more) == (20, True)
    # From 20 to 80 labels alone 20 points in two doublings: 10 points are one doubling.
    assert found.equal.count == pytest.approx(40)
    # Both draws gain 10 points: the interval has no width.
    assert found.low.count == pytest.approx(40)
    assert found.is_clear


def test_without_more_labels_it_is_the_distance_to_fewer() -> None:
    found = worth([point(10, 0.50, 0.60), point(40, 0.65, 0.80, own=True)])
    assert found is not None
    assert not found.more
    # With the pool 20 points in two doublings; 15 fewer are one and a half.
    assert found.equal.count == pytest.approx(40 / 2**1.5)
    assert found.is_clear


def test_an_interval_that_holds_nothing_tells_nothing_and_ends_are_bounds() -> None:
    own = CurvePoint(20, [0.60, 0.62], [0.64, 0.60], own=True)  # 4 points more, 2 fewer
    found = worth([point(10, 0.5, 0.5), own, point(40, 0.7, 0.7)])
    assert found is not None
    assert found.equal.count == pytest.approx(20 * 2 ** (0.01 / 0.09))
    assert found.low == LabelCount(10, beyond=-1)
    assert found.high == LabelCount(40, beyond=1)
    assert not found.is_clear


def test_harm_is_a_negative_worth() -> None:
    found = worth([point(10, 0.5, 0.4), point(20, 0.6, 0.55, own=True), point(40, 0.7, 0.7)])
    assert found is not None
    assert found.equal.count == pytest.approx(10 * math.sqrt(2))
    assert found.is_clear


def test_a_curve_that_dips_is_read_as_flat() -> None:
    found = worth([point(10, 0.6, 0.6), point(20, 0.5, 0.7, own=True), point(40, 0.8, 0.8)])
    assert found is not None
    # 20 points above the 60% that 10 labels had.
    assert found.equal.count == pytest.approx(40)


def test_one_point_is_no_curve() -> None:
    assert worth([point(10, 0.5, 0.6, own=True)]) is None
