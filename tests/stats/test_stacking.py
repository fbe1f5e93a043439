"""The weight of a model beside its predecessor."""

import numpy as np
import pytest

from tutelage.stats.calibrate import stacking_weight


def test_equal_models_share_the_weight() -> None:
    losses = np.random.default_rng(0).exponential(size=30)
    assert stacking_weight(losses, losses) == 0.5


def test_without_held_out_labels_nothing_is_known() -> None:
    assert stacking_weight(np.zeros(0), np.zeros(0)) == 0.5


def test_few_labels_move_the_weight_little_and_many_move_it_all_the_way() -> None:
    rng = np.random.default_rng(1)
    gains = rng.normal(0.1, 0.3, size=2000)
    few, many = (stacking_weight(np.ones(n), 1 - gains[:n]) for n in (8, 2000))
    assert 0.4 < few < 0.8
    assert many > 0.999


def test_swapping_the_models_swaps_their_weights() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.exponential(size=(2, 12))
    assert stacking_weight(before, after) == pytest.approx(1 - stacking_weight(after, before))


def test_one_lucky_label_counts_less_than_many_of_the_same_total() -> None:
    """The bootstrap sees how little rests on it; the plain posterior weights would be equal."""
    lucky, steady = np.zeros(20), np.full(20, -0.2)
    lucky[0] = -4.0
    zero = np.zeros(20)
    assert stacking_weight(zero, lucky) < stacking_weight(zero, steady) - 0.05


def test_huge_losses_do_not_overflow() -> None:
    assert stacking_weight(np.full(5, 1e6), np.zeros(5)) == 1.0
