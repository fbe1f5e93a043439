"""Images to label first: one of each kind, the largest kinds first, and nothing twice."""

import re
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from tutelage.stats import suggest
from tutelage.stats.suggest import directions, doubt, first_to_label, next_to_label
from tutelage.system.errors import TutelageError

TORN = np.array([0.5, 0.5])
NONE = np.zeros((0, 12), np.float32)


def groups(sizes: Sequence[int], spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Which group each point is of, and the points (N, 12), far from those of other groups."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(len(sizes)), sizes)
    centres = np.linalg.qr(rng.normal(size=(12, 12)))[0][group]
    points = centres + rng.normal(0, spread / 12**0.5, centres.shape)
    return group, points.astype(np.float32)


# --- before there is a model


def test_each_kind_gets_one_and_the_largest_comes_first() -> None:
    sizes = [40, 160, 80, 20, 60]
    group, points = groups(sizes)
    chosen = group[first_to_label(points, 5)[0]]
    assert sorted(chosen.tolist()) == [0, 1, 2, 3, 4]
    assert chosen[0] == 1

    group, points = groups([400, 300, 300, 20])  # random ones would find it once in 13 times
    assert set(group[first_to_label(points, 4)[0]].tolist()) == {0, 1, 2, 3}


def test_what_has_labels_is_left_to_them() -> None:
    group, points = groups([100, 80, 60, 40, 20])
    labeled = points[(group == 0) | (group == 2)][::10]
    chosen = first_to_label(points, 3, labeled=labeled)[0]
    assert sorted(group[chosen].tolist()) == [1, 3, 4]
    assert sorted(group[first_to_label(points, 3)[0]].tolist()) == [0, 1, 2]


def test_a_beginning_of_the_list_is_the_list_of_a_smaller_budget() -> None:
    points = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    many = first_to_label(points, 60)[0].tolist()
    assert len(set(many)) == 60
    assert many[:7] == first_to_label(points, 7)[0].tolist()


def test_every_choice_lowers_the_distances_as_much_as_any_could() -> None:
    points = np.random.default_rng(1).normal(size=(400, 8)).astype(np.float32)
    labeled = points[:5]
    order = first_to_label(points, 40, labeled=labeled)[0]
    unit, known = directions(points, labeled, seed=0)
    apart = np.linalg.norm(unit[:, None] - unit, axis=2)
    nearest = np.linalg.norm(unit[:, None] - known, axis=2).min(axis=1)
    for position in order:
        gains = np.maximum(nearest - apart, 0).sum(axis=1)
        assert gains[position] == pytest.approx(gains.max(), rel=1e-4)
        nearest = np.minimum(nearest, apart[position])


def test_units_do_not_count() -> None:
    group, points = groups([40, 30, 20, 10])
    scaled = points * np.geomspace(1, 1e4, 12, dtype=np.float32) + 7
    noise = np.random.default_rng(0).normal(size=(100, 1)) * 1e6
    loud = np.concatenate([scaled, noise], axis=1).astype(np.float32)
    assert set(group[first_to_label(loud, 4)[0]].tolist()) == {0, 1, 2, 3}


def test_copies_are_not_asked_for() -> None:
    different = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    points = np.repeat(different, 10, axis=0)
    chosen = first_to_label(points, 30)[0]
    assert sorted((chosen // 10).tolist()) == [0, 1, 2, 3, 4, 5]
    left = first_to_label(points, 30, labeled=different[:2])[0]
    assert sorted((left // 10).tolist()) == [2, 3, 4, 5]
    assert len(first_to_label(np.ones((80, 3), np.float32), 60)[0]) == 1
    assert len(first_to_label(points, 4, labeled=points)[0]) == 0  # all have labels


def test_it_says_what_each_stands_for() -> None:
    _, points = groups([50, 30, 1], spread=0.01)
    _, why = first_to_label(points, 3)
    counts = [int(re.findall(r"\d+", one)[0]) for one in why[:2]]
    assert counts == [50, 30]
    assert why[2] == "stands for itself alone among the chosen images"
    assert "none of them labelled" in why[0]
    (left,) = first_to_label(points, 1, labeled=points[:50])[1]
    assert "of 30 images" in left, "those near a labelled image are not counted"


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_tiny_pool(n: int) -> None:
    points = np.random.default_rng(0).normal(size=(n, 5)).astype(np.float32)
    order, why = first_to_label(points, 4)
    assert sorted(order.tolist()) == list(range(n))
    assert len(why) == n
    assert len(first_to_label(points, 0)[0]) == 0


def test_the_same_seed_chooses_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "STOOD_FOR", 100)
    points = np.random.default_rng(0).normal(size=(500, 20)).astype(np.float32)
    orders = [first_to_label(points, 20, seed=seed)[0].tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_of_a_large_pool_the_distances_of_a_share_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggest, "STOOD_FOR", 60)
    group, points = groups([200, 100, 100])
    for seed in range(10):
        assert set(group[first_to_label(points, 3, seed=seed)[0]].tolist()) == {0, 1, 2}
    everything = first_to_label(points, 400)[0]
    assert 60 <= len(everything) == len(set(everything.tolist())) < 120


def test_memory_does_not_grow_with_the_square_of_the_pool() -> None:
    points = np.random.default_rng(0).normal(size=(4_000, 64)).astype(np.float32)
    tracemalloc.start()
    try:
        assert len(first_to_label(points, 10)[0]) == 10
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 30 << 20, "4,000 x 4,000 float32 take 61 MiB"


def test_principal_directions_are_those_of_all_images() -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=40)
    points = wide[:, None] * np.ones(50) + 0.1 * rng.normal(size=(40, 50))
    pool, labeled = directions(points[:30], points[30:], seed=0)
    assert (pool.shape, labeled.shape, pool.dtype) == ((30, 32), (10, 32), np.float32)
    np.testing.assert_allclose(np.linalg.norm(pool, axis=1), 1.0, rtol=1e-5)
    clear = np.abs(wide) > 0.5
    signs = np.sign(np.concatenate([pool, labeled])[clear, 0]) * np.sign(wide[clear] - wide.mean())
    assert abs(signs.mean()) > 0.9


@pytest.mark.parametrize(
    ("features", "labeled"),
    [(np.array([[1.0, np.nan], [0.0, 1.0]]), None), (np.eye(3), np.full((1, 3), np.inf))],
)
def test_features_that_are_not_finite_are_refused(
    features: np.ndarray, labeled: np.ndarray | None
) -> None:
    with pytest.raises(TutelageError, match="infinite or not a number"):
        first_to_label(features, 1, labeled=labeled)


# --- after a run


def test_doubt_is_one_minus_the_lead() -> None:
    probs = np.array([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2], [0.4, 0.2, 0.4]])
    np.testing.assert_allclose(doubt(probs), [0.0, 0.8, 1.0])


def test_it_leaves_out_what_is_sure() -> None:
    assert len(next_to_label(np.zeros((0, 2)), NONE, 3, labeled=NONE)) == 0
    features = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    probs = np.tile(TORN, (60, 1))
    probs[:40] = [1.0, 0.0]
    assert sorted(next_to_label(probs, features, 50, labeled=NONE).tolist()) == list(range(40, 60))


def test_kinds_count_as_much_as_they_are_doubted() -> None:
    group, features = groups([40, 160, 80, 20])
    probs = np.tile(TORN, (len(group), 1))
    probs[group == 1] = [0.99, 0.01]  # many, but hardly in doubt
    chosen = group[next_to_label(probs, features, 4, labeled=NONE)]
    assert chosen[0] == 2
    assert chosen[3] == 1
    assert sorted(chosen.tolist()) == [0, 1, 2, 3]


def test_doubtful_ones_near_labels_can_wait() -> None:
    group, features = groups([60, 50, 40])
    probs = np.tile(TORN, (len(group), 1))
    chosen = next_to_label(probs, features, 2, labeled=features[group == 0])
    assert sorted(group[chosen].tolist()) == [1, 2]
