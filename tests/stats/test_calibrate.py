import numpy as np
import pytest

from tutelage.stats import calibrate
from tutelage.stats.calibrate import fit_temperature, softmax
from tutelage.stats.metrics import nll


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


def test_it_is_the_best_of_its_neighbours_without_a_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "PRIOR_WEIGHT", 0.0)
    logits, targets = drawn(300, 2.0)
    labels = targets.argmax(axis=1)
    best = fit_temperature(logits, targets)
    lowest = nll(softmax(logits, best), labels)
    for other in (best * 0.95, best * 1.05):
        assert nll(softmax(logits, other), labels) > lowest


def test_without_images_it_is_one() -> None:
    assert fit_temperature(np.zeros((0, 3)), np.zeros((0, 3))) == pytest.approx(1.0)


def test_a_few_images_that_are_all_right_do_not_make_it_certain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.eye(2)) > 0.5
    monkeypatch.setattr(calibrate, "PRIOR_WEIGHT", 0.0)
    assert fit_temperature(logits, np.eye(2)) < 0.06


def test_soft_targets_of_the_teacher_are_matched() -> None:
    logits = np.random.default_rng(1).normal(size=(500, 4))
    found = fit_temperature(logits * 5, softmax(logits, 0.5))
    assert found == pytest.approx(2.5, rel=0.05)
