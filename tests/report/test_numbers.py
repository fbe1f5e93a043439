from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutelage.report import numbers
from tutelage.report.model import PseudoRow, Report, StageTest


def answers(predicted: list[int], labels: list[int], classes: int, sure: float = 0.9) -> StageTest:
    probs = np.full((len(labels), classes), (1 - sure) / max(classes - 1, 1))
    probs[np.arange(len(labels)), predicted] = sure
    return StageTest(probs, np.array(labels))


def test_wilson_agrees_with_the_published_worked_value() -> None:
    # Newcombe 1998, table I, method 3: 81 of 263.
    value, low, high = numbers.wilson(81, 263)
    assert value == pytest.approx(81 / 263)
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_value_and_stays_a_fraction(case: tuple[int, int]) -> None:
    value, low, high = numbers.wilson(*case)
    assert 0 <= low <= value <= high <= 1
    assert high > low


def test_paired_change_by_hand() -> None:
    # up = 11/102, down = 3/102: difference 8/102, variance (14/102 - (8/102)^2) / 102
    value, low, high = numbers.paired_change(10, 2, 100)
    half = 1.959964 * ((14 / 102 - (8 / 102) ** 2) / 102) ** 0.5
    assert value == pytest.approx(0.08)
    assert (low, high) == (pytest.approx(8 / 102 - half), pytest.approx(8 / 102 + half))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_paired_change_turns_round_when_the_models_do(wins: int, losses: int, same: int) -> None:
    n = wins + losses + same + 1
    there, back = numbers.paired_change(wins, losses, n), numbers.paired_change(losses, wins, n)
    assert there.value == -back.value
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    assert there.low < there.high


def test_paired_change_covers_the_truth_about_95_times_in_100() -> None:
    random = np.random.default_rng(0)
    up, down, n = 0.15, 0.05, 60
    draws = random.multinomial(n, [up, down, 1 - up - down], size=2000)
    found = [numbers.paired_change(int(w), int(lo), n) for w, lo, _ in draws]
    covered = np.mean([change.low <= up - down <= change.high for change in found])
    assert 0.93 <= covered <= 0.985


def test_compare_counts_wins_and_losses_on_the_same_images() -> None:
    labels = [0, 1, 0, 1, 0]
    before = answers([0, 0, 0, 0, 1], labels, 2)
    after = answers([0, 1, 1, 1, 1], labels, 2)
    assert numbers.compare(before, after) == numbers.paired_change(2, 1, 5)


def test_compare_refuses_other_images() -> None:
    before, after = answers([0, 1], [0, 1], 2), answers([0, 1], [1, 0], 2)
    assert numbers.compare(before, after) is None
    assert numbers.compare(None, after) is None
    assert numbers.compare(before, answers([0], [0], 2)) is None


def test_confusion_is_true_by_predicted() -> None:
    matrix = numbers.confusion(answers([1, 1, 2, 0], [0, 1, 2, 2], 4))
    assert matrix.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_class_rows_by_hand() -> None:
    matrix = np.array([[8, 2], [1, 9]])
    ant, bee = numbers.class_rows(matrix, ["ant", "bee"])
    assert (ant.images, ant.predicted) == (10, 9)
    assert ant.precision == pytest.approx(8 / 9)
    assert ant.recall == numbers.wilson(8, 10)
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


def test_reliability_bins_by_confidence() -> None:
    probs = np.array([[1.0, 0.0], [0.95, 0.05], [0.45, 0.55], [0.42, 0.58]])
    low, high = numbers.reliability(StageTest(probs, np.array([0, 1, 1, 1])))
    assert (low.images, high.images) == (2, 2)
    assert low.confidence == pytest.approx(0.565)
    assert low.accuracy.value == 1.0
    assert high.confidence == pytest.approx(0.975)
    assert high.accuracy == numbers.wilson(1, 2)


def test_rounds_sum_classes_and_weigh_by_images() -> None:
    rows: list[PseudoRow] = [
        {"round": 2, "class": "a", "selected": 0, "pool": 7, "precision": None,
         "mean_confidence": None},
        {"round": 1, "class": "a", "selected": 30, "pool": 40, "precision": 0.9,
         "mean_confidence": 0.8},
        {"round": 1, "class": "b", "selected": 10, "pool": 60, "precision": 0.5,
         "mean_confidence": 1.0},
    ]  # fmt: skip
    first, second = numbers.rounds(rows)
    assert (first.number, first.selected, first.pool) == (1, 40, 100)
    assert first.precision == numbers.wilson(32, 40)
    assert first.confidence == pytest.approx(0.85)
    assert (second.selected, second.precision, second.confidence) == (0, None, None)


def test_precision_rests_on_the_images_with_known_truth_only() -> None:
    row: PseudoRow = {"round": 1, "class": "a", "selected": 500, "pool": 900, "precision": 0.75,
                      "known": 4, "mean_confidence": 0.9}  # fmt: skip
    assert numbers.rounds([row])[0].precision == numbers.wilson(3, 4)


@pytest.mark.parametrize(
    ("probs", "labels"),
    [(np.ones((3, 2)), np.zeros(2, int)), (np.ones(3), np.zeros(3, int)),
     (np.ones((1, 2)), np.array([2])), (np.ones((1, 2)), np.array([-1]))],
)  # fmt: skip
def test_stage_test_refuses_what_does_not_fit(probs: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="labels"):
        StageTest(probs, labels)


def test_report_refuses_predictions_over_other_classes() -> None:
    with pytest.raises(ValueError, match="'probe' predicts 2 classes, but the report names 3"):
        Report("t", "c", "now", {}, ["a", "b", "c"], {"probe": answers([0], [0], 2)})
