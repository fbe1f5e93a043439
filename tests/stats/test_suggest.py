"""Doubtful images, one of each kind."""

import numpy as np
import pytest

from tutelage.stats import suggest
from tutelage.stats.suggest import doubt, next_to_label

TORN = np.array([0.5, 0.5])


def test_doubt_is_one_minus_the_lead() -> None:
    probs = np.array([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2], [0.4, 0.2, 0.4]])
    np.testing.assert_allclose(doubt(probs), [0.0, 0.8, 1.0])


def test_it_leaves_out_what_is_sure() -> None:
    features = np.random.default_rng(0).normal(size=(60, 3))
    probs = np.tile(TORN, (60, 1))
    probs[:40] = [1.0, 0.0]
    assert sorted(next_to_label(probs, features, 50).tolist()) == list(range(40, 60))


def groups(sizes: list[int], spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Which group each point is of, and the points, far from other groups'."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    angle = 2 * np.pi * group / len(sizes)
    centres = 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return group, centres + np.random.default_rng(0).normal(0, spread, centres.shape)


def test_it_takes_one_of_each_kind_the_most_doubtful_kinds_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suggest, "BATCH", 4)
    group, features = groups([40, 160, 80, 20])
    probs = np.tile(TORN, (len(group), 1))
    probs[group == 1] = [0.99, 0.01]  # many, but hardly in doubt
    for seed in range(5):
        chosen = next_to_label(probs, features, 4, seed=seed)
        assert group[chosen].tolist() == [2, 0, 3, 1]


def test_it_takes_the_middle_and_no_oddity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "BATCH", 1)
    _, features = groups([50])
    features[7] += 3  # doubtful as all are, but like none of them
    probs = np.tile(TORN, (50, 1))
    (chosen,) = next_to_label(probs, features, 1)
    middle = features.mean(axis=0)
    assert chosen == np.square(features - middle).sum(axis=1).argmin() != 7


def test_the_next_batch_is_of_other_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "BATCH", 2)
    group, features = groups([60, 50, 40, 30])
    probs = np.tile(TORN, (len(group), 1))
    chosen = next_to_label(probs, features, 4)
    assert len(set(group[chosen].tolist())) == 4


def test_the_seed_decides_and_the_first_are_the_same() -> None:
    rng = np.random.default_rng(0)
    features, probs = rng.normal(size=(300, 4)), rng.dirichlet(np.ones(3), 300)
    many = next_to_label(probs, features, 120, seed=1)
    assert many[:50].tolist() == next_to_label(probs, features, 50, seed=1).tolist()
    assert many[:5].tolist() == next_to_label(probs, features, 5, seed=1).tolist()
    assert many.tolist() != next_to_label(probs, features, 120, seed=2).tolist()
    assert len(set(many.tolist())) == 120


def test_of_a_large_pool_a_share_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "MOST", 30)
    features = np.random.default_rng(0).normal(size=(100, 3))
    chosen = next_to_label(np.tile(TORN, (100, 1)), features, 200)
    assert len(chosen) == len(set(chosen.tolist())) == 30


def test_images_that_are_all_alike_are_one_kind() -> None:
    chosen = next_to_label(np.tile(TORN, (80, 1)), np.ones((80, 3)), 60)
    assert len(chosen) == 1


@pytest.mark.parametrize("count", [0, 3])
def test_an_empty_pool_has_nothing_to_label(count: int) -> None:
    assert len(next_to_label(np.zeros((0, 2)), np.zeros((0, 3)), count)) == 0
