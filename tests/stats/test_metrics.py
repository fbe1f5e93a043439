import numpy as np
import pytest

from tutelage.stats.intervals import wilson
from tutelage.stats.metrics import (
    Comparison,
    balanced_accuracy,
    compare,
    confusion_matrix,
    ece,
    macro_f1,
    metrics,
    nll,
)

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 300)
PROBS = RNG.dirichlet(np.ones(5), 300)  # the fifth class never occurs
PROBS[np.arange(300), LABELS] += 0.5
PROBS /= PROBS.sum(axis=1, keepdims=True)
PREDICTED = PROBS.argmax(axis=1)


def test_confusion_f1_and_nll_are_scikit_learns() -> None:
    sk = pytest.importorskip("sklearn.metrics")
    expected = sk.confusion_matrix(LABELS, PREDICTED, labels=range(5))
    np.testing.assert_array_equal(confusion_matrix(LABELS, PREDICTED, 5), expected)
    f1 = sk.f1_score(LABELS, PREDICTED, average="macro")
    assert macro_f1(LABELS, PREDICTED, 5) == pytest.approx(f1)
    assert nll(PROBS, LABELS) == pytest.approx(sk.log_loss(LABELS, PROBS, labels=range(5)))


def test_balanced_accuracy_counts_all_classes_alike() -> None:
    labels, always = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1]), np.zeros(10, dtype=int)
    assert balanced_accuracy(labels, always, 3) == 0.5  # class 2 does not occur
    assert balanced_accuracy(labels, labels, 3) == 1.0


def test_macro_f1_with_a_class_missing_from_labels_or_predictions() -> None:
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])
    # class 0: 1, class 1: 2/3, class 2: 0; class 3 occurs nowhere and does not count
    assert macro_f1(labels, predicted, 4) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_confusion_rows_are_the_truth_for_small_integer_types() -> None:
    labels = np.array([0, 0, 1], dtype=np.int8)
    found = confusion_matrix(labels, np.array([1, 1, 0], dtype=np.int8), 2)
    assert found.tolist() == [[0, 2], [1, 0]]
    many = confusion_matrix(np.array([99], dtype=np.int8), np.array([98], dtype=np.int8), 100)
    assert many[99, 98] == many.sum() == 1


@pytest.mark.parametrize(
    ("probs", "labels", "expected"),
    [
        # two bins hold two images each: |0.9 - 0.5| and |0.6 - 1|
        ([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], [0, 1, 1, 1], 0.4),
        ([[0.75, 0.25]] * 8, [0, 0, 0, 1] * 2, 0.0),
        ([[1.0, 0.0]] * 4, [1] * 4, 1.0),
        # a bin is closed on the right: 0.6 = 9/15 belongs to bin 9, 0.65 to bin 10
        ([[0.6, 0.4], [0.65, 0.35]], [0, 1], (abs(0.6 - 1) + abs(0.65 - 0)) / 2),
    ],
)
def test_ece_by_hand(probs: list[list[float]], labels: list[int], expected: float) -> None:
    assert ece(np.array(probs), np.array(labels)) == pytest.approx(expected)


def test_nll_is_clipped_where_the_truth_was_impossible() -> None:
    assert nll(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-12))


def test_metrics_gathers_them() -> None:
    found = metrics(PROBS, LABELS)
    right = int((PREDICTED == LABELS).sum())
    assert found["n"] == 300
    assert found["accuracy"] == right / 300
    assert found["accuracy_ci95"] == list(wilson(right, 300)[1:])
    assert found["macro_f1"] == macro_f1(LABELS, PREDICTED, 5)
    assert found["balanced_accuracy"] == balanced_accuracy(LABELS, PREDICTED, 5)
    assert found["majority"] == np.bincount(LABELS).max() / len(LABELS)
    assert found["ece"] == ece(PROBS, LABELS)
    assert found["nll"] == nll(PROBS, LABELS)


def answers(right: list[bool]) -> np.ndarray:
    return np.where(np.array(right)[:, None], [[1.0, 0.0]], [[0.0, 1.0]])


def test_compare_counts_wins_and_losses() -> None:
    before = answers([True, True, False, False, True])
    after = answers([True, False, True, True, True])
    found = compare(before, after, np.zeros(5, dtype=int))
    assert (found.n, found.wins, found.losses) == (5, 2, 1)
    assert (found.before, found.after) == (0.6, 0.8)
    assert found.accepted
    assert found.reason.startswith("it gets 1 more of 5 held-out images right than the step before")
    assert "accuracy 60.0% to 80.0%, log-loss" in found.reason


RIGHT = "of 100 held-out images right"


@pytest.mark.parametrize(
    ("wins", "losses", "nll", "shortened", "accepted", "words"),
    [
        (0, 1, 0.553, False, True, f"it gets 1 fewer {RIGHT} than the step before, which may be "
         "chance, but gives the true labels higher probabilities (accuracy 90.0% to 91.0%, log-loss"
         " 0.558 to 0.553)"),
        (2, 2, 0.553, False, True, f"it gets as many {RIGHT} as the step before, and gives the "
         "true labels higher probabilities ("),
        (0, 0, 0.558, False, True, f"it gets as many {RIGHT} as the step before (accuracy"),
        (0, 2, 0.558, False, True, f"it gets 2 fewer {RIGHT} than the step before, which may be"),
        (0, 3, 0.558, False, False, f"it gets 3 fewer {RIGHT} than the step before, by more than "
         "chance explains ("),
        (6, 12, 0.558, False, True, f"it gets 6 fewer {RIGHT} than the step before, which may be"),
        (6, 14, 0.558, False, False, f"it gets 8 fewer {RIGHT} than the step before, by more than"),
        (9, 1, 0.6, False, False, f"it gets 8 more {RIGHT} than the step before, but gives the "
         "true labels lower probabilities ("),
        (1, 1, 0.6, False, False, f"it shows no gain: it gets as many {RIGHT} as the step before, "
         "and gives the true labels lower probabilities ("),
        (1, 1, 1.2345, True, True, f"it gets as many {RIGHT} as the step before (accuracy 90.0% to "
         "91.0%, log-loss 0.558 to 1.23, which does not count: these models were trained for fewer"
         " steps)"),
    ],
)  # fmt: skip
def test_a_stage_is_rejected_when_it_lost_beyond_chance_or_likelihood_and_says_so(
    wins: int, losses: int, nll: float, shortened: bool, accepted: bool, words: str
) -> None:
    found = Comparison(100, wins, losses, 0.9, 0.91, 0.558, nll, shortened)
    assert found.accepted is accepted
    assert found.reason.startswith(words)


@pytest.mark.parametrize(("sure", "accepted"), [(0.9, True), (0.8, True), (0.7, False)])
def test_a_stage_is_rejected_when_it_lost_likelihood(sure: float, accepted: bool) -> None:
    before, after = ([[p, 1 - p]] * 3 + [[0.6, 0.4]] for p in (0.8, sure))
    found = compare(np.array(before), np.array(after), np.array([0, 0, 0, 1]))
    assert (found.wins, found.losses) == (0, 0)
    assert found.nll_before == pytest.approx(-(3 * np.log(0.8) + np.log(0.4)) / 4)
    assert found.accepted is accepted


@pytest.mark.parametrize(
    ("after", "words"),
    [([0.7, 0.85, 0.7, 0.85], ", which may be chance"), ([0.7] * 4, ", more than chance explains")],
)
def test_a_rejection_says_whether_chance_explains_it(after: list[float], words: str) -> None:
    before = np.array([[0.8, 0.2]] * 4)
    found = compare(before, np.array([[p, 1 - p] for p in after]), np.zeros(4, dtype=int))
    change = -np.log(np.array(after) / 0.8)
    assert found.nll_error == pytest.approx(change.std(ddof=1) / 2)
    assert not found.accepted
    assert f"lower probabilities{words} (" in found.reason


def test_likelihood_is_not_asked_of_a_model_that_was_trained_for_less() -> None:
    before, after = (np.array([[p, 1 - p]] * 8) for p in (0.9, 0.6))
    assert compare(before, after, np.zeros(8, dtype=int), shortened=True).accepted
    assert not compare(before, 1 - after, np.zeros(8, dtype=int), shortened=True).accepted


def test_nothing_to_compare_is_kept_and_said() -> None:
    found = compare(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, dtype=int))
    assert found.accepted
    assert "there are no held-out labels" in found.reason
