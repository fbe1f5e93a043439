"""Thresholds, worked by hand and compared with scikit-learn where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from tutelage.report.model import StageTest
from tutelage.report.threshold import (
    STEPS,
    mistakes_by_threshold,
    recall_precision,
    roc,
    two_classes,
)

PROBS = np.array([0.9, 0.8, 0.8, 0.6, 0.3, 0.1])
POSITIVE = np.array([True, True, False, True, False, False])


def answers(probs: np.ndarray, positive: np.ndarray) -> StageTest:
    """The second class is the positive one."""
    return StageTest(np.stack([1 - probs, probs], axis=1), positive.astype(int))


def test_both_mistakes_are_counted_at_every_threshold() -> None:
    missed, false_alarms = mistakes_by_threshold(PROBS, POSITIVE)
    assert len(missed) == len(false_alarms) == STEPS + 1
    assert (missed[0], false_alarms[0]) == (0, 3)
    assert (missed[50], false_alarms[50]) == (0, 1)
    assert (missed[80], false_alarms[80]) == (1, 1)  # at least the threshold counts
    assert (missed[81], false_alarms[81]) == (2, 0)
    assert (missed[100], false_alarms[100]) == (3, 0)


def test_curves_by_hand() -> None:
    found = recall_precision(PROBS, POSITIVE)
    np.testing.assert_allclose(found.x, [1 / 3, 2 / 3, 1, 1, 1])
    np.testing.assert_allclose(found.y, [1, 2 / 3, 3 / 4, 3 / 5, 1 / 2])
    assert found.area == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    found = roc(PROBS, POSITIVE)
    np.testing.assert_allclose(found.x, [0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(found.y, [0, 1 / 3, 2 / 3, 1, 1, 1])
    assert found.area == pytest.approx(7.5 / 9)  # of 9 pairs one is tied and one is wrong


def test_areas_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.3
    probs = np.round(np.clip(rng.normal(0.4 + 0.2 * positive, 0.2), 0, 1), 2)  # with ties
    expected = metrics.average_precision_score(positive, probs)
    assert recall_precision(probs, positive).area == pytest.approx(expected)
    assert roc(probs, positive).area == pytest.approx(metrics.roc_auc_score(positive, probs))


def test_the_rarer_class_is_the_positive_one() -> None:
    positive = np.array([True, False, True, False, False, False])
    for flipped in (False, True):
        test = answers(PROBS, positive)
        classes = ["fine", "rust"]
        if flipped:
            test, classes = StageTest(test.probs[:, ::-1], 1 - test.labels), classes[::-1]
        found = two_classes(test, None, classes)
        assert found is not None
        assert (found.positive, found.negative) == ("rust", "fine")
        assert (found.positives, found.negatives) == (2, 4)
        assert (found.missed[50], found.false_alarms[50]) == (0, 2)


def test_the_page_gets_held_out_answers_by_their_truth() -> None:
    held_out = answers(np.array([0.7, 0.2, 0.61234]), np.array([True, False, True]))
    found = two_classes(answers(PROBS, POSITIVE), held_out, ["fine", "rust"])
    assert found is not None
    # There are as many of either class, so the first one counts as the rarer.
    assert found.held == [[0.8], [0.3, 0.3877]]


def test_other_numbers_of_classes_have_no_threshold() -> None:
    three = StageTest(np.full((3, 3), 1 / 3), np.arange(3))
    assert two_classes(three, None, ["a", "b", "c"]) is None
    assert two_classes(answers(PROBS, np.ones(6, dtype=bool)), None, ["fine", "rust"]) is None
