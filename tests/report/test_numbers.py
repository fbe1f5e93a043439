from __future__ import annotations

import numpy as np
import pytest

from tutelage.report import numbers
from tutelage.report.model import PseudoRow, StageTest
from tutelage.stats.intervals import paired_change, wilson


def answers(predicted: list[int], labels: list[int], classes: int, sure: float = 0.9) -> StageTest:
    probs = np.full((len(labels), classes), (1 - sure) / max(classes - 1, 1))
    probs[np.arange(len(labels)), predicted] = sure
    return StageTest(probs, np.array(labels))


def test_stage_change_counts_wins_and_losses_on_the_same_images() -> None:
    labels = [0, 1, 0, 1, 0]
    before = answers([0, 0, 0, 0, 1], labels, 2)
    after = answers([0, 1, 1, 1, 1], labels, 2)
    assert numbers.stage_change(before, after) == paired_change(2, 1, 5)


def test_stage_change_refuses_other_images() -> None:
    before, after = answers([0, 1], [0, 1], 2), answers([0, 1], [1, 0], 2)
    assert numbers.stage_change(before, after) is None
    assert numbers.stage_change(None, after) is None
    assert numbers.stage_change(before, answers([0], [0], 2)) is None


def test_confusion_is_true_by_predicted() -> None:
    matrix = answers([1, 1, 2, 0], [0, 1, 2, 2], 4).confusion_matrix
    assert matrix.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_class_rows_by_hand() -> None:
    matrix = np.array([[8, 2], [1, 9]])
    ant, bee = numbers.class_rows(matrix, ["ant", "bee"])
    assert (ant.images, ant.predicted) == (10, 9)
    assert ant.precision == pytest.approx(8 / 9)
    assert ant.recall == wilson(8, 10)
    assert ant.f1 == pytest.approx(16 / 19)
    assert bee.precision == pytest.approx(9 / 11)


def test_a_class_that_test_lacks_has_no_score() -> None:
    matrix = np.array([[5, 1, 0], [0, 0, 0], [2, 0, 0]])
    _, absent, never = numbers.class_rows(matrix, ["ant", "bee", "wasp"])
    assert (absent.recall, absent.f1, absent.precision) == (None, None, 0.0)
    assert never.precision is None
    assert never.f1 == 0.0


def test_mistakes_are_sorted_and_leave_out_what_never_happened() -> None:
    matrix = np.array([[5, 1, 0], [0, 7, 3], [0, 0, 2]])
    assert numbers.mistakes(matrix, ["a", "b", "c"], limit=9) == [
        ("b", "c", 3, 0.3),
        ("a", "b", 1, pytest.approx(1 / 6)),
    ]
    assert len(numbers.mistakes(matrix, ["a", "b", "c"], limit=1)) == 1


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 60])
def test_the_confusion_matrix_counts_every_image_once(classes: int) -> None:
    matrix = np.random.default_rng(classes).integers(0, 9, (classes, classes))
    found = numbers.confusion(matrix, [f"c{k}" for k in range(classes)])
    counts, shown = np.array(found.counts), [number - 1 for number, _ in found.classes]
    assert found.classes == [(k + 1, f"c{k}") for k in sorted(shown)]
    assert len(shown) == min(classes, 20)
    assert (counts[: len(shown), : len(shown)] == matrix[np.ix_(shown, shown)]).all()
    assert counts[: len(shown)].sum(axis=1).tolist() == matrix[shown].sum(axis=1).tolist()
    assert (counts.sum(), found.rest) == (matrix.sum(), classes - len(shown))
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    assert wrong[shown].min() >= np.delete(wrong, shown).max(initial=0)


def test_reliability_bins_by_confidence() -> None:
    probs = np.array([[1.0, 0.0], [0.95, 0.05], [0.45, 0.55], [0.42, 0.58]])
    low, high = numbers.reliability_bins(StageTest(probs, np.array([0, 1, 1, 1])))
    assert (low.images, high.images) == (2, 2)
    assert low.confidence == pytest.approx(0.565)
    assert low.accuracy.value == 1.0
    assert high.confidence == pytest.approx(0.975)
    assert high.accuracy == wilson(1, 2)


def test_rounds_sum_classes_and_weigh_by_images() -> None:
    rows: list[PseudoRow] = [
        {"round": 1, "accepted": True, "class": "a", "selected": 30, "pool": 40, "precision": 0.9,
         "known": 30, "mean_confidence": 0.8},
        {"round": 1, "accepted": True, "class": "b", "selected": 10, "pool": 60, "precision": 0.5,
         "known": 10, "mean_confidence": 1.0},
        {"round": 2, "accepted": False, "class": "a", "selected": 0, "pool": 7, "precision": None,
         "known": 0, "mean_confidence": None},
    ]  # fmt: skip
    first, second = numbers.rounds(rows)
    assert (first.number, first.selected, first.pool) == (1, 40, 100)
    assert (first.accepted, second.accepted) == (True, False)
    assert first.precision == wilson(32, 40)
    assert first.confidence == pytest.approx(0.85)
    assert (second.selected, second.precision, second.confidence) == (0, None, None)


def test_precision_rests_on_the_images_with_known_truth_only() -> None:
    row: PseudoRow = {"round": 1, "accepted": True, "class": "a", "selected": 500, "pool": 900,
                      "precision": 0.75, "known": 4, "mean_confidence": 0.9}  # fmt: skip
    assert numbers.rounds([row])[0].precision == wilson(3, 4)
