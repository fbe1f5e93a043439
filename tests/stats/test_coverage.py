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
    farthest,
    gaussian_kernel,
    holes,
    measure,
    precision,
    radii,
    recall,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LINE = torch.tensor([[0.0], [1.0], [3.0], [10.0]])  # radii of the nearest: 1, 1, 2, 7
VIEWS = torch.tensor([[0.5], [3.0], [30.0]])  # radii of the nearest: 2.5, 2.5, 27


def test_figures_worked_by_hand() -> None:
    cross = distances(LINE, VIEWS)
    of_pool, of_views = radii(distances(LINE, LINE), 1), radii(distances(VIEWS, VIEWS), 1)
    assert of_pool.tolist() == [1, 1, 2, 7]
    assert of_views.tolist() == [2.5, 2.5, 27]
    # 0.5 is in the balls of 0 and 1; 3 in those of 3 and 10; 30 in none.
    assert precision(cross, of_pool) == pytest.approx(2 / 3)
    assert density(cross, of_pool, 1) == pytest.approx((2 + 2 + 0) / 3)
    assert coverage(cross, of_pool) == 1
    # Only 10 is more than 2.5 from 0.5 and 3, but it is 20 from 30.
    assert recall(cross, of_views) == 1
    assert recall(cross[:, :2], of_views[:2]) == pytest.approx(3 / 4)


def test_figures_agree_with_loops_over_points() -> None:
    pool, views = normal(30, 3), normal(25, 3, seed=1) * 1.5
    among = [sorted(float((a - b).norm()) for b in pool) for a in pool]
    own = [sorted(float((a - b).norm()) for b in views) for a in views]
    for k in (1, 3, 5):
        ball, around = [row[k] for row in among], [row[k] for row in own]
        within = [[float((x - y).norm()) <= ball[i] for y in views] for i, x in enumerate(pool)]
        backward = [[float((x - y).norm()) <= around[j] for j, y in enumerate(views)] for x in pool]
        cross, of_pool = distances(pool, views), radii(distances(pool, pool), k)
        hit = [any(row[j] for row in within) for j in range(25)]
        assert precision(cross, of_pool) == pytest.approx(sum(hit) / 25)
        assert coverage(cross, of_pool) == pytest.approx(sum(map(any, within)) / 30)
        assert density(cross, of_pool, k) == pytest.approx(sum(map(sum, within)) / 25 / k)
        of_views = radii(distances(views, views), k)
        assert recall(cross, of_views) == pytest.approx(sum(map(any, backward)) / 30)


def test_equal_clouds_are_all_covered_and_far_ones_not_at_all() -> None:
    pool = normal(40, 4)
    same = measure(pool, {"same": pool[None]}, seed=0, halves=10)["same"].values
    assert [same[m].value for m in ("coverage", "precision", "recall")] == [1, 1, 1]
    far = measure(pool, {"far": normal(2, 6, 4) + 100}, seed=0, halves=10)["far"].values
    assert [far[m].value for m in ("coverage", "density", "precision", "recall")] == [0, 0, 0, 0]
    assert far["distance"].value > 0.5
    assert abs(same["distance"].value) < 0.05


def test_chunks_change_nothing() -> None:
    a, b = normal(23, 7), normal(11, 7, seed=1)
    whole = distances(a, b)
    assert whole.shape == (23, 11)
    for chunk in (1, 5, 23):
        torch.testing.assert_close(distances(a, b, chunk=chunk), whole, rtol=1e-6, atol=0)


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
    kernel = gaussian_kernel(distances(pool, pool), distances(pool, flat), distances(flat, flat), 3)
    everything = kernel.distance(torch.ones(1, 12).double(), torch.ones(1, 5).double())
    assert float(everything) == pytest.approx(kernel_distance(pool, views), abs=1e-6)
    some = torch.tensor([1.0, 0, 1, 1, 0]).double()[None]
    expected = kernel_distance(pool, views[:, some[0].bool()])
    assert float(kernel.distance(torch.ones(1, 12).double(), some)) == pytest.approx(
        expected, abs=1e-6
    )


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
    for metric in ("coverage", "density", "precision", "distance"):
        values = [one["v"].values[metric] for one in drawn]
        mean = sum(v.value for v in values) / 60
        assert sum(v.low <= mean <= v.high for v in values) >= 51, metric  # 57 are expected
        assert sum(v.high - v.low for v in values) / 60 < 6 * torch.tensor(values)[:, 0].std()
        changes = [one["v"].minus(one["one"], metric) for one in drawn]
        mean = sum(c.value for c in changes) / 60
        assert sum(c.low <= mean <= c.high for c in changes) >= 51, metric


def test_more_views_of_the_same_images_do_not_shrink_an_interval_to_nothing() -> None:
    pool, clouds = draw(0)
    many = clouds["one"].repeat(30, 1, 1) + 0.01 * normal(30, 12, 4)
    widths = []
    for views in (clouds["one"], many):
        value = measure(pool, {"v": views}, seed=0)["v"].values["precision"]
        widths.append(value.high - value.low)
    assert widths[1] > 0.7 * widths[0]  # 360 independent views would have a fifth of it


def test_halves_are_of_whole_images() -> None:
    # Two images at each of 4 places, 3 equal views each: the views of a half are at full threes.
    pool = normal(24, 2)
    places = torch.arange(4.0).repeat_interleave(2)[:, None] * torch.tensor([[1.0, 0.0]])
    views = places[None].repeat(3, 1, 1)
    one = measure(pool, {"three": views, "one": views[:1]}, seed=0, halves=50)
    for metric in ("coverage", "density", "precision", "distance"):
        torch.testing.assert_close(one["three"].halves[metric], one["one"].halves[metric])
        assert one["three"].values[metric] == pytest.approx(one["one"].values[metric])


def test_measuring_repeats_and_pairs_the_halves() -> None:
    pool, clouds = draw(0)
    first, again = (measure(pool, clouds, seed=3, halves=20) for _ in range(2))
    alone = measure(pool, {"v": clouds["v"]}, seed=3, halves=20)["v"]
    other = measure(pool, clouds, seed=4, halves=20)["v"]
    for metric in METRICS:
        assert first["v"].values[metric] == again["v"].values[metric] == alone.values[metric]
        assert torch.equal(first["v"].halves[metric], alone.halves[metric])
        assert first["v"].minus(alone, metric) == Interval(0, 0, 0)
        assert other.values[metric].value == alone.values[metric].value
    assert not torch.equal(other.halves["coverage"], alone.halves["coverage"])


def test_the_least_images_are_enough() -> None:
    found = measure(normal(LEAST_POOL, 2), {"a": normal(1, LEAST_SOURCES, 2)}, seed=0)["a"].values
    assert all(math.isfinite(end) for interval in found.values() for end in interval)


def test_a_planted_hole_is_found_before_an_outlier() -> None:
    seen, hole = normal(60, 2), 0.3 * normal(12, 2, seed=1) + torch.tensor([20.0, 0.0])
    outlier = torch.tensor([[0.0, 60.0]])
    pool = torch.cat([seen, hole, outlier])
    views = normal(200, 2, seed=2)
    found = holes(pool, views, count=5)
    assert 60 <= int(found.rows[0]) < 72
    assert not found.alone[0]
    assert float(found.distance[0]) > 15
    assert (found.distance > found.radius).all()
    apart = (pool[found.rows][:, None] - pool[found.rows]).norm(dim=2)
    for later in range(1, len(found.rows)):  # not one more of a hole that is shown
        assert (apart[:later, later] > found.radius[:later]).all()
    alone = farthest(pool, views, count=5)
    assert int(alone.rows[0]) == 72
    assert alone.alone[0]
    assert len(holes(pool, pool, count=5).rows) == 0
    copies = torch.cat([seen, torch.full((8, 2), 50.0)])  # a radius of 0
    assert int(holes(copies, views, count=3).rows[0]) >= 60
