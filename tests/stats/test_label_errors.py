"""Wrong labels are told from hard images."""

import numpy as np
import pytest

from tutelage.stats.label_errors import find_label_errors


def believed(n: int, n_classes: int, sharpness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated logits and classes drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, sharpness, (n, n_classes))
    gumbel = -np.log(-np.log(rng.random((n, n_classes))))
    return logits, (logits + gumbel).argmax(axis=1)


def test_one_pair_by_hand() -> None:
    # Two classes, no doubt about rate or temperature once there are many images: 10 in 110 labels
    # contradict a belief of 1 - 1e-6, so about one in eleven is wrong and all of these are.
    logits = np.tile([7.0, -7.0], (110, 1))
    labels = np.zeros(110, dtype=int)
    labels[:10] = 1
    found = find_label_errors(logits, labels)
    assert found.suspected.tolist() == [True] * 10 + [False] * 100
    assert found.probability[:10].min() > 0.99
    assert found.rate == pytest.approx(10 / 130, abs=0.03)  # 20 right labels are believed before


@pytest.mark.parametrize("wrong", [0.05, 0.1, 0.2])
def test_the_cut_is_where_it_says(wrong: float) -> None:
    logits, truth = believed(4000, 10, 4.0, 0)
    rng = np.random.default_rng(1)
    bad = rng.random(4000) < wrong
    labels = np.where(bad, (truth + rng.integers(1, 10, 4000)) % 10, truth)
    found = find_label_errors(logits, labels)
    assert found.rate == pytest.approx(wrong, abs=0.02)
    assert bad[found.suspected].mean() > 0.75
    assert found.suspected[bad].mean() > 0.6
    # The probabilities mean what they say.
    for low, high in ((0.1, 0.4), (0.4, 0.7), (0.7, 1.0)):
        inside = (found.probability >= low) & (found.probability < high)
        assert bad[inside].mean() == pytest.approx(found.probability[inside].mean(), abs=0.12)


def test_overconfident_models_are_not_believed() -> None:
    logits, labels = believed(2000, 5, 2.0, 2)
    found = find_label_errors(5 * logits, labels)
    assert found.rate < 0.03
    assert found.suspected.mean() < 0.02


def test_few_labels_accuse_nobody_lightly() -> None:
    logits, labels = believed(8, 4, 2.0, 3)
    assert find_label_errors(logits, labels).suspected.sum() <= 1
    empty = find_label_errors(np.zeros((0, 3)), np.zeros(0, dtype=int))
    assert (len(empty.probability), empty.rate) == (0, 0.0)
