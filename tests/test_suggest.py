"""Doubtful images, spread out."""

import numpy as np
import pytest

from tutelage.suggest import doubt, next_to_label


def test_doubt_is_one_minus_the_lead() -> None:
    probs = np.array([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2], [0.4, 0.2, 0.4]])
    np.testing.assert_allclose(doubt(probs), [0.0, 0.8, 1.0])


def test_it_leaves_out_what_is_sure_and_what_is_labelled_already() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 3))
    probs = np.full((60, 2), 0.5)
    probs[:30] = [1.0, 0.0]
    labeled = features[30:40]  # the same images, seen already
    chosen = next_to_label(probs, features, labeled, 50)
    assert sorted(chosen.tolist()) == list(range(40, 60))


def test_it_spreads_over_the_pool() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    group = rng.choice(4, size=400, p=[0.91, 0.03, 0.03, 0.03])
    features = centres[group] + rng.normal(0, 0.1, (400, 2))
    probs = np.full((400, 2), 0.5)
    for seed in range(5):
        chosen = next_to_label(probs, features, np.zeros((0, 2)), 4, seed=seed)
        assert len(set(group[chosen])) == 4


def test_the_seed_decides_and_the_first_are_the_same() -> None:
    rng = np.random.default_rng(0)
    features, probs = rng.normal(size=(50, 4)), rng.dirichlet(np.ones(3), 50)
    labeled = rng.normal(size=(3, 4))
    many = next_to_label(probs, features, labeled, 20, seed=1)
    assert many[:5].tolist() == next_to_label(probs, features, labeled, 5, seed=1).tolist()
    assert many.tolist() != next_to_label(probs, features, labeled, 20, seed=2).tolist()
    assert len(set(many.tolist())) == 20


@pytest.mark.parametrize("count", [0, 3])
def test_an_empty_pool_has_nothing_to_label(count: int) -> None:
    assert len(next_to_label(np.zeros((0, 2)), np.zeros((0, 3)), np.zeros((2, 3)), count)) == 0
