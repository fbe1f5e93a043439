"""Temperatures, and the weight of a model beside its predecessor."""

import numpy as np
import pytest

from tutelage.stats import calibrate
from tutelage.stats.calibrate import fit_temperature, softmax, stacking_weight


def drawn(n: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sharp by a known factor, and labels drawn from the honest ones."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, 3)) * 2
    labels = np.array([rng.choice(3, p=p) for p in softmax(logits)])
    return logits * sharpness, np.eye(3)[labels]


def test_softmax_by_hand_shifted_and_extreme() -> None:
    np.testing.assert_allclose(softmax(np.log([[1.0, 3.0]])), [[0.25, 0.75]])
    np.testing.assert_allclose(softmax(np.log([[1.0, 9.0]]), 2.0), [[0.25, 0.75]])
    logits = np.array([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(softmax(logits + 1e4), softmax(logits))
    np.testing.assert_allclose(softmax(np.array([[1e5, -1e5]])), [[1.0, 0.0]])
    assert softmax(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_factor_of_the_logits_is_found(sharpness: float) -> None:
    logits, targets = drawn(3000, sharpness)
    assert fit_temperature(logits, targets) == pytest.approx(sharpness, rel=0.1)


def test_a_few_images_that_are_all_right_do_not_make_it_certain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.eye(2)) > 0.5
    assert fit_temperature(logits[:0], np.zeros((0, 2))) == pytest.approx(1.0)
    monkeypatch.setattr(calibrate, "PRIOR_WEIGHT", 0.0)
    assert fit_temperature(logits, np.eye(2)) < 0.06


def test_soft_targets_of_the_teacher_are_matched() -> None:
    logits = np.random.default_rng(1).normal(size=(500, 4))
    found = fit_temperature(logits * 5, softmax(logits, 0.5))
    assert found == pytest.approx(2.5, rel=0.05)


def test_few_labels_move_the_weight_little_and_many_move_it_all_the_way() -> None:
    rng = np.random.default_rng(1)
    gains = rng.normal(0.1, 0.3, size=2000)
    few, many = (stacking_weight(np.ones(n), 1 - gains[:n]) for n in (8, 2000))
    assert 0.4 < few < 0.8
    assert many > 0.999


def test_swapping_the_models_swaps_their_weights() -> None:
    before, after = np.random.default_rng(2).exponential(size=(2, 12))
    assert stacking_weight(before, after) == pytest.approx(1 - stacking_weight(after, before))
    assert stacking_weight(before, before) == stacking_weight(before[:0], after[:0]) == 0.5
    assert stacking_weight(np.full(5, 1e6), np.zeros(5)) == 1.0  # does not overflow


def test_one_lucky_label_counts_less_than_many_of_the_same_total() -> None:
    """The bootstrap sees how little rests on it; the plain posterior weights would be equal."""
    lucky, steady = np.zeros(20), np.full(20, -0.2)
    lucky[0] = -4.0
    zero = np.zeros(20)
    assert stacking_weight(zero, lucky) < stacking_weight(zero, steady) - 0.05
