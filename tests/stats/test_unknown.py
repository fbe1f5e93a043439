"""Scores, limits and detection of images that belong to no class, on numbers worked out by hand."""

from math import inf, log, sqrt

import numpy as np
import pytest

from tutelage.stats import unknown as outofclass
from tutelage.stats.unknown import (
    FEW,
    KEPT,
    MOST,
    detect,
    energy,
    fit_limit,
    held_out_distances,
    match_threshold,
    mean_distances,
)

# --- scores


def test_energy_by_hand() -> None:
    logits = np.array([[0.0, 0.0], [log(3), 0.0], [1000.0, 0.0], [-1000.0, -1000.0]])
    expected = [-log(2), -log(4), -1000.0, 1000.0 - log(2)]
    np.testing.assert_allclose(energy(logits), expected)


def test_distances_by_hand() -> None:
    features = np.array([[2.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    labels = np.array([0, 0, 2])  # means (1, 1) and (-3, 0); class 1 has no label
    others = np.array([[5.0, 5.0], [1.0, 0.0], [-1.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    found = mean_distances(features, labels, others)
    np.testing.assert_allclose(found, [0, 1 - sqrt(0.5), 0, 1, 1], atol=1e-12)


def test_a_held_out_image_has_no_part_in_its_mean() -> None:
    features = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # The first is compared with (0, 1) and (-1, 0), the second with (1, 0) and (-1, 0); the third
    # is the only one of its class.
    found = held_out_distances(features, np.array([0, 0, 1]))
    np.testing.assert_allclose(found, [1.0, 1.0])
    assert len(held_out_distances(features, np.array([0, 1, 2]))) == 0


# --- limits


def test_the_limit_is_an_order_statistic_with_a_known_tail() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))
    found = fit_limit(scores)  # n = 99: rank 0.95 * 100
    assert found.value == 95.0
    # Beta(5, 95): 5.0% on average, and 0.0896 is its 95% quantile.
    assert found.share == pytest.approx(0.0896, abs=1e-3)


def test_the_share_is_exceeded_by_one_label_draw_in_twenty() -> None:
    rng = np.random.default_rng(0)
    for n in (8, 24, 99):
        beyond, share = [], 0.0
        for _ in range(2000):
            ordered = np.sort(rng.random(n))  # uniform: the share beyond x is 1 - x
            value = ordered[min(n, int(np.ceil(KEPT * (n + 1)))) - 1]
            share = fit_limit(ordered).share
            beyond.append(1 - value)
        assert (np.array(beyond) > share).mean() == pytest.approx(0.05, abs=0.015), n


def test_few_scores_take_their_maximum_and_a_margin() -> None:
    found = fit_limit(np.array([1.0, 2.0, 3.0]))
    assert found.value == pytest.approx(3.0 + 0.25 * 1.0)
    assert found.share == pytest.approx(1 - 0.05 ** (1 / 3))
    assert fit_limit(np.arange(FEW + 1.0)).value == FEW  # one more than few: no margin
    many = fit_limit(np.random.default_rng(0).normal(size=20_000))  # overflows nothing
    assert many.value == pytest.approx(1.645, abs=0.05)
    assert 0.05 < many.share < 0.055
    none = fit_limit(np.zeros(0))
    assert (none.value, none.share) == (inf, 1.0)


def test_a_matched_threshold_is_exceeded_as_often() -> None:
    rng = np.random.default_rng(0)
    theirs, ours = rng.normal(size=1000), 3 * rng.normal(size=1000) + 7
    found = match_threshold(ours, theirs, threshold=1.0)
    assert (ours > found).sum() == pytest.approx((theirs > 1.0).sum(), abs=1)
    assert not (ours > match_threshold(ours, theirs, threshold=99.0)).any()
    for threshold in (-9.0, 0.5, 9.0):  # inside of all scores, and outside by as much
        assert match_threshold(theirs, theirs, threshold) == pytest.approx(threshold)
        assert match_threshold(theirs + 10, theirs, threshold) == pytest.approx(threshold + 10)


# --- detection


def clusters(counts: tuple[int, int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Centred features of two classes and of a third thing, and which is which."""
    kinds = np.repeat(np.arange(3), counts)
    features = 3 * np.eye(3, 16)[kinds]
    features = features + np.random.default_rng(seed).normal(size=features.shape)
    return features - 3 * np.eye(3, 16).mean(axis=0), kinds


@pytest.mark.parametrize("per_class", [11, 50])
def test_an_outlying_cluster_is_found(per_class: int) -> None:
    features, labels = clusters((per_class, per_class, 0))
    pool, kinds = clusters((300, 300, 200), seed=1)
    found = detect(features, labels, pool)
    assert found.outside[kinds == 2].mean() > 0.8
    assert found.outside[kinds < 2].mean() < 0.1
    assert np.array_equal(found.outside, found.distances > found.limit)


def test_a_closed_pool_loses_nothing() -> None:
    lost = []
    for seed in range(40):
        features, labels = clusters((20, 20, 0), seed=seed)
        pool, _ = clusters((300, 300, 0), seed=1000 + seed)
        lost.append(detect(features, labels, pool).outside.mean())
    assert np.mean(np.array(lost) > 0) <= 0.1
    assert max(lost) < 0.2


def test_a_pool_that_lies_apart_as_a_whole_stays() -> None:
    features, labels = clusters((50, 50, 0))
    pool, _ = clusters((0, 0, 200), seed=1)
    found = detect(features, labels, pool)
    assert (found.distances > fit_limit(held_out_distances(features, labels)).value).mean() > 0.9
    assert found.limit == inf
    assert not found.outside.any()


@pytest.mark.parametrize("per_class", [1, 2, 10])
def test_too_few_labels_leave_everything(per_class: int) -> None:
    features, labels = clusters((per_class, per_class, 0))
    pool, _ = clusters((20, 20, 20), seed=1)
    assert not detect(features, labels, pool).outside.any()
    assert detect(features, labels, pool[:0]).outside.shape == (0,)


# --- known silent bugs


def test_limit_comes_from_held_out_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outofclass, "FEW", 4)
    rng = np.random.default_rng(0)
    means = 0.5 * rng.normal(size=(2, 60))
    labels, classes = np.arange(12) % 2, np.arange(400) % 2
    features = means[labels] + rng.normal(size=(12, 60))
    pool = means[classes] + rng.normal(size=(400, 60))
    alone = [
        mean_distances(np.delete(features, i, 0), np.delete(labels, i), features[[i]])[0]
        for i in range(12)
    ]
    np.testing.assert_allclose(held_out_distances(features, labels), alone)
    found = detect(features, labels, pool)
    assert not found.outside.any()
    seen = fit_limit(mean_distances(features, labels, features))
    assert seen.share < (found.distances > seen.value).mean() <= MOST  # else the bug does not show
