"""Which unlabelled images a person should label first: the few that all others are nearest to.

Greedy k-medoids: each choice brings the images as much nearer to one with a label as any could.
This is facility location (Wei, Iyer and Bilmes 2015, "Submodularity in Data Subset Selection and
Active Learning") and, with a distance in place of a kernel, MaxHerding (Bae et al. 2024,
arXiv:2407.12212, algorithm 1). benchmarks/log.md compares it with other rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tutelage.stats.metrics import Floats, Ints
from tutelage.system.errors import TutelageError

DIRECTIONS = 32  # principal directions in which images are compared
OVERSAMPLED = 16  # further directions that are carried along, so that the 32 are accurate
POWERS = 4  # iterations towards the principal directions
STOOD_FOR = 8192  # images whose distances count; drawn at random from a larger pool
BLOCK = 64  # images that are compared with all of these at a time: 2 MiB, which a cache holds
FARTHEST = 2.0  # the largest distance of two unit vectors
SAME = 1e-3  # distance of unit vectors below which float32 tells no two images apart
ROUNDING = 1e-6  # of such distances, on average


def first_to_label(
    features: Floats, count: int, *, labeled: Floats | None = None, seed: int = 0
) -> tuple[Ints, list[str]]:
    """Choose ``count`` of the unlabelled images (N, D) to label, without a model.

    Their positions (n,), the first ones first, come with a few plain words on each; every
    beginning of the list is a choice by itself.

    Every feature is standardised. What the ``labeled`` images (L, D) stand for needs no others, and
    no image is chosen that is a copy of a chosen or labelled one. So there are fewer than ``count``
    if the pool has fewer different images; in a large pool ``STOOD_FOR`` or a few more at most.
    """
    known = features[:0] if labeled is None else labeled
    points, labeled_points = directions(features, known, seed=seed)
    order = _medoids(points, np.ones(len(points), np.float32), count, labeled_points, seed)
    return order, _reasons(points, order, labeled_points)


def doubt(probs: Floats) -> Floats:
    """One minus the lead (N,) of the likeliest class over the next: 0 is sure, 1 is torn.

    Margin sampling (Scheffer et al. 2001). Unlike entropy it does not depend on the classes that
    an image surely does not belong to.
    """
    ordered = np.sort(probs, axis=1)
    return np.asarray(1 - (ordered[:, -1] - ordered[:, -2]))


def next_to_label(
    probs: Floats, features: Floats, count: int, *, labeled: Floats, seed: int = 0
) -> Ints:
    """Positions (at most ``count``,) of images in the order in which to label them after a run.

    As ``first_to_label``, but every image counts as much as the model doubts it by its calibrated
    beliefs ``probs`` (N, K), and images without doubt are not chosen.
    """
    points, known = directions(features, labeled, seed=seed)
    return _medoids(points, doubt(probs).astype(np.float32), count, known, seed)


def directions(features: Floats, labeled: Floats, *, seed: int) -> tuple[Floats, Floats]:
    """Unit vectors (N, d) and (L, d) of standardised images in d <= 32 principal directions.

    Random subspace iteration (Halko, Martinsson and Tropp 2011, arXiv:0909.4061, algorithm 4.4) on
    at most ``STOOD_FOR`` of the N + L images.
    """
    rng = np.random.default_rng(seed)
    n, total = len(features), len(features) + len(labeled)
    if not all(np.isfinite(f[part]).all() for f in (features, labeled) for part in _blocks(len(f))):
        raise TutelageError(
            "a feature is infinite or not a number, so images cannot be compared; a trunk that "
            "overflows in half precision makes such features: make them in float32"
        )
    if total == 0:
        return np.zeros((0, 1), np.float32), np.zeros((0, 1), np.float32)
    rows = np.sort(rng.permutation(total)[:STOOD_FOR])
    sample = np.concatenate([features[rows[rows < n]], labeled[rows[rows >= n] - n]])
    sample = sample.astype(np.float32, copy=False)
    mean = sample.mean(axis=0)
    # The small constant keeps a feature that is almost always zero from being blown up.
    scale = 1 / (sample.std(axis=0) + 1e-3)
    sample = (sample - mean) * scale
    width = min(DIRECTIONS + OVERSAMPLED, *sample.shape)
    basis = rng.standard_normal((sample.shape[1], width), dtype=np.float32)
    for _ in range(POWERS):
        basis, _ = np.linalg.qr(sample.T @ (sample @ basis))
    _, _, turned = np.linalg.svd(sample @ basis, full_matrices=False)
    basis = scale[:, None] * (basis @ turned[:DIRECTIONS].T)
    return _unit(features, mean, basis), _unit(labeled, mean, basis)


def _unit(features: Floats, mean: Floats, basis: Floats) -> Floats:
    """Unit vectors (N, d) float32 of features (N, D), without a second array of that size."""
    points = np.empty((len(features), basis.shape[1]), np.float32)
    for part in _blocks(len(features)):
        points[part] = (features[part] - mean) @ basis
    points /= np.linalg.norm(points, axis=1, keepdims=True) + 1e-12
    return points


def _medoids(points: Floats, weights: Floats, count: int, labeled: Floats, seed: int) -> Ints:
    """Greedy choice of points (N, d) that lowers the weighted sum of distances to the nearest most.

    A point that is chosen now lowers the sum by at least as much as it would later. So an old gain
    is an upper bound, and only candidates whose bound is above the best gain are looked at again
    (Minoux 1978, "Accelerated Greedy Algorithms for Maximizing Submodular Set Functions").
    """
    candidates = np.flatnonzero(weights > 0)
    stood_for = candidates
    if len(candidates) > STOOD_FOR:
        stood_for = np.random.default_rng(seed).choice(candidates, STOOD_FOR, replace=False)
    others, weights = points[stood_for], weights[stood_for]
    nearest = np.full(len(others), FARTHEST, np.float32)

    def lower(labels: Floats) -> None:
        np.minimum(nearest, _distances(labels, others).min(axis=0), out=nearest)
        nearest[nearest < SAME] = 0

    def gains(rows: Ints) -> Floats:
        saved = _distances(points[rows], others)
        np.subtract(nearest, saved, out=saved)
        return np.asarray(np.maximum(saved, 0, out=saved) @ weights)

    for part in _blocks(len(labeled)):
        lower(labeled[part])
    bounds = np.concatenate(
        [np.zeros(0, np.float32), *(gains(candidates[part]) for part in _blocks(len(candidates)))]
    )
    # A copy saves no more than this, by rounding alone.
    least = max(SAME * weights.max(initial=0), ROUNDING * weights.sum())
    chosen: list[int] = []
    while len(chosen) < min(count, len(candidates)):
        best = _best(bounds, lambda tried: gains(candidates[tried]))
        if bounds[best] <= least:  # what is left are copies of what was chosen or has a label
            break
        chosen.append(int(candidates[best]))
        bounds[best] = 0.0
        lower(points[chosen[-1:]])
    return np.asarray(chosen, dtype=np.int64)


def _best(bounds: Floats, again: Callable[[Ints], Floats]) -> int:
    """The position of the largest gain; ``bounds`` (N,) that are looked at ``again`` get lower."""
    best, most = 0, -np.inf
    old = bounds.copy()
    tried_at_once = min(BLOCK, len(old))
    while old.max() > most:
        tried = np.sort(np.argpartition(-old, tried_at_once - 1)[:tried_at_once])
        bounds[tried] = again(tried)
        old[tried] = -np.inf
        found = int(tried[bounds[tried].argmax()])
        if bounds[found] > most:
            best, most = found, float(bounds[found])
    return best


def _reasons(points: Floats, order: Ints, labeled: Floats) -> list[str]:
    """What each chosen point stands for: the points that are nearest to it, not to another one."""
    if not len(order):
        return []
    known = np.concatenate([points[order], labeled])
    sizes = np.zeros(len(known), dtype=np.int64)
    for part in _blocks(len(points)):
        nearest = _distances(points[part], known).argmin(axis=1)
        sizes += np.bincount(nearest, minlength=len(known))
    return [
        f"the most typical of {alike} images that are alike, none of them labelled"
        if alike > 1
        else "stands for itself alone among the chosen images"
        for alike in sizes[: len(order)]
    ]


def _distances(points: Floats, others: Floats) -> Floats:
    """Euclidean distances (N, M) of unit vectors (N, d) and (M, d)."""
    squared = points @ others.T
    squared *= -2
    squared += 2
    return np.asarray(np.sqrt(np.maximum(squared, 0, out=squared), out=squared))


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))
