import numpy as np
import pytest

from tutelage.stats.shift import estimated_accuracy


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
