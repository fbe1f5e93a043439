"""The shares of the classes in a batch without labels, and how often a model is right there."""

import numpy as np
import pytest

from tutelage.stats.shift import class_shares, estimated_accuracy

CONFUSION = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.0, 0.1, 0.9]])  # rows: true classes
BEFORE, NOW = np.array([1, 1, 1]) / 3, np.array([0.1, 0.2, 0.7])


def images(rng: np.random.Generator, shares: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """True classes (n,), and what a model of ``CONFUSION`` calls them."""
    labels = rng.choice(3, n, p=shares)
    return labels, (rng.random((n, 1)) > CONFUSION[labels].cumsum(axis=1)).sum(axis=1)


def test_intervals_cover_the_true_shares_of_a_shifted_batch() -> None:
    rng = np.random.default_rng(0)
    covered, errors = [], []
    for seed in range(40):
        labels, predicted = images(rng, BEFORE, 600)
        _, batch = images(rng, NOW, 400)
        found = class_shares(labels, predicted, batch, 3, seed=seed)
        assert np.isclose(found.values.sum(), 1)
        assert (found.values >= 0).all()
        covered.append((found.low <= NOW) & (found.high >= NOW))
        called = np.bincount(batch, minlength=3) / 400
        errors.append([np.abs(found.values - NOW), np.abs(called - NOW)])
    assert 0.9 <= np.mean(covered) <= 0.99
    ours, naive = np.mean(errors, axis=0)
    assert ours.sum() < naive.sum()


def test_a_perfect_model_gives_the_counts_but_few_labels_are_no_certainty() -> None:
    labels = np.repeat([0, 1], 5)
    batch = np.repeat([0, 1], [30, 10])
    found = class_shares(labels, labels, batch, 2)
    np.testing.assert_allclose(found.values, [0.75, 0.25])
    many = class_shares(np.repeat([0, 1], 500), np.repeat([0, 1], 500), batch, 2)
    assert found.high[0] - found.low[0] > many.high[0] - many.low[0] > 0.1


def test_a_class_that_was_never_called_right_is_no_failure() -> None:
    labels, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1])
    found = class_shares(labels, predicted, np.array([0, 0, 1, 1]), 3)
    np.testing.assert_allclose(found.values, [0.5, 0.25, 0.25])  # 1 and 2 cannot be told apart


def answers(
    rng: np.random.Generator, n: int, hardness: float, *, too_sure: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Confidences (n,) and whether the answers are right; harder images have lower ones."""
    confidence = 1 - 0.5 * rng.beta(hardness, 3, n)
    return confidence, rng.random(n) < confidence - too_sure


def test_by_hand() -> None:
    confidence, correct = np.array([0.9, 0.7]), np.array([True, False])
    found = estimated_accuracy(confidence, correct, np.array([0.6, 0.8, 0.7, 0.7]))
    assert found.value == pytest.approx(0.7 + 0.5 - 0.8)
    spread = max(np.var([0.1, -0.7]), (0.09 + 0.21) / 2)
    half = 1.959964 * np.sqrt(spread / 2 + max(spread, (0.24 + 0.16 + 0.21 + 0.21) / 4) / 4)
    assert found.low == pytest.approx(max(0, 0.4 - half))
    assert found.high == pytest.approx(min(1, 0.4 + half))


@pytest.mark.parametrize("hardness", [0.5, 2.0])
@pytest.mark.parametrize("too_sure", [0.0, 0.1])
def test_intervals_cover_the_accuracy_where_confidence_keeps_its_meaning(
    hardness: float, too_sure: float
) -> None:
    rng = np.random.default_rng(0)
    covered, errors = [], []
    for _ in range(200):
        held_out = answers(rng, 200, 0.5, too_sure=too_sure)
        batch, right = answers(rng, 150, hardness, too_sure=too_sure)
        found = estimated_accuracy(*held_out, batch)
        covered.append(found.low <= right.mean() <= found.high)
        errors.append(found.value - right.mean())
    assert 0.91 <= np.mean(covered) <= 0.99
    assert abs(np.mean(errors)) < 0.015


def test_no_mistake_among_few_images_is_no_certainty() -> None:
    found = estimated_accuracy(np.full(50, 0.98), np.ones(50, bool), np.full(1000, 0.98))
    assert found.value == 1.0
    assert found.low < 0.97
