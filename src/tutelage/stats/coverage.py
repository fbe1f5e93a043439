"""Do the training views fill the space of the real images? Coverage, fidelity, their intervals.

Everything is measured in a feature space: ``pool`` are features of real (unlabelled) images,
``views`` are features of what a model would be trained on.

Shape letters: N pool images, n labelled images, V views of each, M = V n views, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tutelage.stats.intervals import Interval, t_quantile

NEAREST = 5  # k of density and coverage, as in the paper
LEAST_POOL = 2 * (NEAREST + 1)  # half of it must still have k neighbours
LEAST_SOURCES = 4  # half of it must still be two images
HALVES = 200  # half samples behind an interval
METRICS = ("coverage", "density", "distance")
"""Higher is better for all but the last."""


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (A, B) of features (A, D) and (B, D), in double precision."""
    return torch.cdist(a.double(), b.double()).float()


def radii(among: Tensor, k: int) -> Tensor:
    """Distance (A,) of each point to its k-th nearest other, from distances (A, A) of all."""
    others = among.clone().fill_diagonal_(torch.inf)
    return others.kthvalue(k, dim=1).values


def density(cross: Tensor, pool_radii: Tensor, k: int) -> float:
    """Mean number of pool balls that a view lies in, over k; 1 for equal distributions.

    Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models", section 3
    (arXiv:2002.09797). It can exceed 1: views that crowd where the pool is densest.

    Distances ``cross`` are (N, M), the ``pool_radii`` (N,) to the k-th nearest other pool image.
    """
    return float((cross <= pool_radii[:, None]).sum(dim=0).float().mean() / k)


def coverage(cross: Tensor, pool_radii: Tensor) -> float:
    """Share of the pool whose ball holds a view (Naeem et al. 2020, section 3).

    The balls are the pool's, so views far from everything cover nothing, and more views of the
    same kind can only add: compare clouds with the same number of views.
    """
    return float((cross <= pool_radii[:, None]).any(dim=1).float().mean())


def coverage_of_equals(n_pool: int, n_views: int, k: int = NEAREST) -> float:
    """Expected coverage if the views are ``n_views`` fresh draws from the pool's own distribution.

    Of the other pool images and the views around a pool image, all orders are equally likely; it
    stays uncovered if its k nearest are pool images (Naeem et al. 2020, the lemma on the expected
    coverage in the appendix).
    """
    miss = 1.0
    for i in range(1, k + 1):
        miss *= (n_pool - i) / (n_views + n_pool - i)
    return 1.0 - miss


def kernel_distances(
    among: Tensor, cross: Tensor, within: Tensor, in_pool: Tensor, in_sources: Tensor
) -> Tensor:
    """Unbiased squared maximum mean discrepancies (R,) of R subsets of the images.

    Gretton et al. 2012, "A Kernel Two-Sample Test", eq. 3, with one change: pairs of views of one
    image are left out, just as pairs of an image and itself are. Two views of one image are closer
    than views of two images, so with such pairs the estimate would be too high. The width of the
    Gaussian kernel is the median distance within the pool (section 8), so that all clouds of views
    are measured by one kernel.

    Distances are (N, N), (N, V n) and (V n, V n), where views stand view by view. ``in_pool``
    (R, N) and ``in_sources`` (R, n) are 1 for the images of a subset and else 0.
    """
    rows, columns = torch.triu_indices(len(among), len(among), offset=1)
    width = among[rows, columns].median().clamp_min(1e-12).double()
    n = in_sources.shape[1]
    v = cross.shape[1] // n
    pool, both, fake = (
        torch.exp(-0.5 * (apart.double() / width) ** 2) for apart in (among, cross, within)
    )
    both = both.view(len(among), v, n).sum(dim=1)  # all views of an image together
    fake = fake.view(v, n, v, n).sum(dim=(0, 2))

    def of_pairs(kernel: Tensor, inside: Tensor) -> Tensor:
        return ((inside @ kernel) * inside).sum(dim=1) - inside @ kernel.diagonal()

    a, b = in_pool.sum(dim=1), in_sources.sum(dim=1)
    between = ((in_pool @ both) * in_sources).sum(dim=1)
    return (
        of_pairs(pool, in_pool) / (a * (a - 1))
        + of_pairs(fake, in_sources) / (b * (b - 1) * v * v)
        - 2 * between / (a * b * v)
    )


@dataclass(frozen=True)
class Figures:
    """How one cloud of training views lies relative to the pool."""

    values: dict[str, Interval]  # by metric
    halves: dict[str, Tensor]  # metric -> (R,) on the half samples, which all clouds share
    quantile: float  # standard errors from a value to an end of its interval
    n_views: int

    def minus(self, other: Figures, metric: str) -> Interval:
        """The difference in a metric; its interval makes use of the images that both share."""
        value = self.values[metric].value - other.values[metric].value
        half = self.quantile * float((self.halves[metric] - other.halves[metric]).std())
        return Interval(value, value - half, value + half)


def measure(
    pool: Tensor, clouds: Mapping[str, Tensor], *, seed: int, halves: int = HALVES
) -> dict[str, Figures]:
    """All metrics of several clouds of views of the same labelled images, with intervals.

    The pool is (N, D), and the clouds are (V, n, D) by name; V may differ. At least ``LEAST_POOL``
    and ``LEAST_SOURCES`` images are needed.

    The intervals say how far a figure would move with other labelled images and another pool of
    the same kind and number. Views of one image are not independent, so whole images are drawn,
    with all their views; and the figures are made of nearest neighbours, which a bootstrap ruins
    (an image drawn twice has a neighbour at distance 0). So half of the labelled images and half
    of the pool are drawn without repeats, many times: the spread of a figure over halves is its
    standard error (the delete-d jackknife with d = n / 2: Shao and Wu 1989, "A General Theory for
    Jackknife Variance Estimation"). Halves cover less than the whole, so only their spread is
    used; the ends are a t quantile of n - 1 degrees of freedom away.
    """
    n = next(iter(clouds.values())).shape[1]
    among = distances(pool, pool)
    draws = torch.Generator().manual_seed(seed)
    in_pool, in_sources = (_halves(count, halves, draws) for count in (len(pool), n))
    samples = [rows.nonzero()[:, 0] for rows in in_pool]
    near = [radii(among[rows][:, rows], NEAREST) for rows in samples]
    out = {}
    for name, views in clouds.items():
        flat = views.flatten(0, 1)
        cross, within = distances(pool, flat), distances(flat, flat)
        table = torch.empty(halves + 1, len(METRICS), dtype=torch.float64)
        table[:, -1] = kernel_distances(among, cross, within, in_pool.double(), in_sources.double())
        for number, (rows, ball) in enumerate(zip(samples, near, strict=True)):
            part = cross[rows][:, in_sources[number].repeat(len(views)).nonzero()[:, 0]]
            found = coverage(part, ball), density(part, ball, NEAREST)
            table[number, :2] = torch.tensor(found)
        out[name] = _figures(table, t_quantile(n - 1), len(views))
    return out


def _halves(count: int, halves: int, draws: torch.Generator) -> Tensor:
    """Bool (1 + R, count): all of them in the first row, a random half in each of the others."""
    rows = [torch.randperm(count, generator=draws) < count // 2 for _ in range(halves)]
    return torch.stack([torch.ones(count, dtype=torch.bool), *rows])


def _figures(table: Tensor, quantile: float, n_views: int) -> Figures:
    """From a table (1 + R, metrics) whose first row is the whole sample's."""
    values, halves = {}, {}
    for metric, column in zip(METRICS, table.T, strict=True):
        value, half = float(column[0]), quantile * float(column[1:].std())
        low, high = value - half, value + half
        if metric != "distance":  # an unbiased estimate of a distance near 0 may be negative
            low = max(0.0, low)
        values[metric] = Interval(value, low, min(1.0, high) if metric == "coverage" else high)
        halves[metric] = column[1:]
    return Figures(values, halves, quantile, n_views)


class Hole(NamedTuple):
    """A pool image that no training view is near to."""

    row: int  # its position in the pool
    distance: float  # to the nearest training view
    radius: float  # of its own ball, as for coverage


def holes(pool: Tensor, views: Tensor, *, count: int) -> list[Hole]:
    """At most ``count`` uncovered images by distance to the nearest view over their ball's radius.

    The bare distance would put lone outliers first. Divided by the radius, it puts those first that
    have company in the pool but none in training. An image inside the ball of one that is already
    in the list shows the same hole and is left out. Features are ``pool`` (N, D) and ``views``
    (M, D).
    """
    among, nearest = distances(pool, pool), distances(pool, views).amin(dim=1)
    radius = radii(among, NEAREST)
    # More than k copies of an image have a radius of 0.
    ratio = nearest / radius.clamp_min(float(radius.quantile(0.05)) + 1e-12)
    order = ratio.argsort(descending=True, stable=True)
    taken: list[int] = []
    for row in order[ratio[order] > 1].tolist():
        if len(taken) == count:
            break
        if all(among[other, row] > radius[other] for other in taken):
            taken.append(row)
    return [Hole(row, float(nearest[row]), float(radius[row])) for row in taken]
