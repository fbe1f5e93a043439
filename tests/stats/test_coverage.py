import math

import pytest
import torch
from torch import Tensor

from tutelage.stats.coverage import (
    LEAST_POOL,
    LEAST_SOURCES,
    METRICS,
    Interval,
    coverage,
    coverage_of_equals,
    density,
    distances,
    holes,
    kernel_distances,
    measure,
    radii,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_figures_agree_with_loops_over_points() -> None:
    pool, views = normal(30, 3), normal(25, 3, seed=1) * 1.5
    among = [sorted(float((a - b).norm()) for b in pool) for a in pool]
    for k in (1, 3, 5):
        within = [
            [float((x - y).norm()) <= row[k] for y in views]
            for x, row in zip(pool, among, strict=True)
        ]
        cross, of_pool = distances(pool, views), radii(distances(pool, pool), k)
        assert of_pool.tolist() == pytest.approx([row[k] for row in among])
        assert coverage(cross, of_pool) == pytest.approx(sum(map(any, within)) / 30)
        assert density(cross, of_pool, k) == pytest.approx(sum(map(sum, within)) / 25 / k)


def test_equal_clouds_are_all_covered_and_far_ones_not_at_all() -> None:
    pool = normal(40, 4)
    same = measure(pool, {"same": pool[None]}, seed=0, halves=10)["same"].values
    assert same["coverage"].value == 1
    assert abs(same["distance"].value) < 0.05
    far = measure(pool, {"far": normal(2, 6, 4) + 100}, seed=0, halves=10)["far"].values
    assert far["coverage"].value == far["density"].value == 0
    assert far["distance"].value > 0.5


def test_expected_coverage_is_what_fresh_draws_cover() -> None:
    found = []
    for seed in range(40):
        pool, fresh = normal(60, 3, seed=seed), normal(25, 3, seed=1000 + seed)
        found.append(coverage(distances(pool, fresh), radii(distances(pool, pool), 5)))
    assert sum(found) / 40 == pytest.approx(coverage_of_equals(60, 25, 5), abs=0.03)
    assert coverage_of_equals(10, 0) == 0


def kernel_distance(pool: Tensor, views: Tensor) -> float:
    """Of (N, D) and (V, n, D), by loops, with the width of the pool."""
    apart = distances(pool, pool)
    width = apart[torch.triu_indices(len(pool), len(pool), 1).unbind()].median()

    def k(a: Tensor, b: Tensor) -> float:
        return float(torch.exp(-0.5 * ((a - b).norm() / width) ** 2))

    (n_views, n), size = views.shape[:2], len(pool)
    real = [k(pool[i], pool[j]) for i in range(size) for j in range(size) if i != j]
    fake = [
        k(views[u, i], views[v, j])
        for i in range(n) for j in range(n) if i != j
        for u in range(n_views) for v in range(n_views)
    ]  # fmt: skip
    both = [k(x, y) for x in pool for y in views.flatten(0, 1)]
    return sum(real) / len(real) + sum(fake) / len(fake) - 2 * sum(both) / len(both)


def test_kernel_distance_leaves_out_pairs_of_one_image() -> None:
    pool, views = normal(12, 3), normal(3, 5, 3, seed=1) + 0.5
    flat = views.flatten(0, 1)
    apart = distances(pool, pool), distances(pool, flat), distances(flat, flat)
    sources = torch.tensor([[1.0, 1, 1, 1, 1], [1, 0, 1, 1, 0]]).double()
    found = kernel_distances(*apart, torch.ones(2, 12).double(), sources)
    expected = [kernel_distance(pool, views[:, row.bool()]) for row in sources]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_kernel_distance_is_unbiased_though_views_of_an_image_are_close() -> None:
    found, naive = [], []
    for seed in range(150):
        pool = normal(20, 3, seed=seed)
        views = normal(1, 6, 3, seed=500 + seed) + 0.3 * normal(4, 6, 3, seed=900 + seed)
        pool = pool + 0.3 * normal(20, 3, seed=1300 + seed)
        found.append(measure(pool, {"v": views}, seed=0, halves=2)["v"].values["distance"].value)
        loose = measure(pool, {"v": views.view(1, 24, 3)}, seed=0, halves=2)["v"]
        naive.append(loose.values["distance"].value)
    mean, error = float(torch.tensor(found).mean()), float(torch.tensor(found).std()) / 150**0.5
    assert abs(mean) < 3 * error
    assert float(torch.tensor(naive).mean()) > 5 * error  # as if all views were of other images


def draw(seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A pool, and views of images that lie beside it."""
    pool, images = normal(80, 4, seed=seed), normal(1, 12, 4, seed=7000 + seed) + 0.5
    return pool, {"v": images + 0.4 * normal(4, 12, 4, seed=9000 + seed), "one": images}


def test_intervals_hold_the_mean_over_other_images_and_pools() -> None:
    drawn = [measure(*draw(seed), seed=seed, halves=40) for seed in range(60)]
    for metric in METRICS:
        values = [one["v"].values[metric] for one in drawn]
        mean = sum(v.value for v in values) / 60
        assert sum(v.low <= mean <= v.high for v in values) >= 51, metric  # 57 are expected
        assert sum(v.high - v.low for v in values) / 60 < 6 * torch.tensor(values)[:, 0].std()
        changes = [one["v"].minus(one["one"], metric) for one in drawn]
        mean = sum(c.value for c in changes) / 60
        assert sum(c.low <= mean <= c.high for c in changes) >= 51, metric


def test_halves_are_of_whole_images_so_equal_views_change_no_interval() -> None:
    pool, clouds = draw(0)
    three = clouds["one"].repeat(3, 1, 1)
    one = measure(pool, {"three": three, "one": clouds["one"]}, seed=0, halves=50)
    for metric in METRICS:
        torch.testing.assert_close(one["three"].halves[metric], one["one"].halves[metric])
        assert one["three"].values[metric] == pytest.approx(one["one"].values[metric])


def test_measuring_repeats_and_pairs_the_halves() -> None:
    pool, clouds = draw(0)
    first, again = (measure(pool, clouds, seed=3, halves=20) for _ in range(2))
    alone = measure(pool, {"v": clouds["v"]}, seed=3, halves=20)["v"]
    other = measure(pool, clouds, seed=4, halves=20)["v"]
    for metric in METRICS:
        assert first["v"].values[metric] == again["v"].values[metric] == alone.values[metric]
        assert first["v"].minus(alone, metric) == Interval(0, 0, 0)
        assert other.values[metric].value == alone.values[metric].value
    assert not torch.equal(other.halves["coverage"], alone.halves["coverage"])


def test_the_least_images_are_enough() -> None:
    found = measure(normal(LEAST_POOL, 2), {"a": normal(1, LEAST_SOURCES, 2)}, seed=0)["a"].values
    assert all(math.isfinite(end) for interval in found.values() for end in interval)


def test_a_planted_hole_is_found_before_an_outlier() -> None:
    seen, hole = normal(60, 2), 0.3 * normal(12, 2, seed=1) + torch.tensor([20.0, 0.0])
    pool = torch.cat([seen, hole, torch.tensor([[0.0, 60.0]])])
    views = normal(200, 2, seed=2)
    found = holes(pool, views, count=5)
    assert 60 <= found[0].row < 72
    assert found[0].distance > 15
    assert all(one.distance > one.radius for one in found)
    for place, later in enumerate(found):  # not one more of a hole that is shown
        apart = [float((pool[one.row] - pool[later.row]).norm()) for one in found[:place]]
        assert all(a > one.radius for a, one in zip(apart, found, strict=False))
    assert holes(pool, pool, count=5) == []
    copies = torch.cat([seen, torch.full((8, 2), 50.0)])  # a radius of 0
    assert holes(copies, views, count=3)[0].row >= 60
