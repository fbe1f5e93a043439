"""Which unlabelled images to label next: those that the model doubts, one of each kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tutelage.stats.metrics import Floats, Ints

BATCH = 50  # images that are chosen, and best labelled, together
KMEANS_STEPS = 15
MOST = 50_000  # pool images that are looked at; drawn at random from a larger pool


def doubt(probs: Floats) -> Floats:
    """One minus the lead (N,) of the likeliest class over the next: 0 is sure, 1 is torn.

    Margin sampling (Scheffer et al. 2001). Unlike entropy it does not depend on the classes that
    an image surely does not belong to.
    """
    ordered = np.sort(probs, axis=1)
    return np.asarray(1 - (ordered[:, -1] - ordered[:, -2]))


def next_to_label(probs: Floats, features: Floats, count: int, *, seed: int = 0) -> Ints:
    """Positions (at most ``count``,) of images in the order in which to label them.

    A k-means that weighs every image by its doubt makes clusters, and the image in the middle of
    each is chosen (Zhdanov 2019, "Diverse mini-batch Active Learning", arXiv:1901.05954), clusters
    with the most doubt first: an image that stands for many doubtful ones teaches more than a
    doubtful oddity. The first ``BATCH`` images come from as many clusters. The next come from twice
    as many, of which only those without a chosen image count, and so on. The calibrated beliefs
    about the pool are (M, K), its features (M, D).
    """
    rng = np.random.default_rng(seed)
    weights = doubt(probs)
    looked = np.flatnonzero(weights > 0)
    if len(looked) > MOST:
        looked = np.sort(rng.choice(looked, MOST, replace=False))
    points, weights = features[looked], weights[looked]
    chosen: list[int] = []
    wanted = min(count, len(looked))
    while len(chosen) < wanted:
        upto = min(len(chosen) + BATCH, wanted)
        distances = _kmeans(points, weights, -(-upto // BATCH) * BATCH, rng)
        found = _middles(distances, weights, chosen)[: upto - len(chosen)]
        if not found:  # every cluster is one image, or copies of it, and each has been chosen
            break
        chosen += found
    return np.asarray(looked[chosen], dtype=np.int64)


def _middles(distances: Floats, weights: Floats, chosen: list[int]) -> list[int]:
    """The most central point of each cluster without a chosen one, by falling weight."""
    own = distances.argmin(axis=1)
    total = np.bincount(own, weights=weights, minlength=distances.shape[1])
    total[own[chosen]] = 0.0
    order = [k for k in np.argsort(-total, kind="stable") if total[k] > 0]
    members = (np.flatnonzero(own == k) for k in order)
    return [int(m[distances[m, k].argmin()]) for k, m in zip(order, members, strict=True)]


def _kmeans(points: Floats, weights: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Squared distances (M, at most ``count``) of weighted points to the centres of clusters.

    Starts as k-means++ does (Arthur and Vassilvitskii 2007).
    """
    picks: list[int] = []
    score = weights.copy()
    nearest = np.full(len(points), np.inf)
    while len(picks) < count and (total := score.sum()) > 0:
        picks.append(int(rng.choice(len(points), p=score / total)))
        nearest = np.minimum(nearest, np.square(points - points[picks[-1]]).sum(axis=1))
        score = weights * nearest
    centers = points[picks]
    for _ in range(KMEANS_STEPS):
        own = _squared_distances(points, centers).argmin(axis=1)
        total = np.bincount(own, weights=weights, minlength=len(centers))
        sums = np.stack(
            [np.bincount(own, weights * column, minlength=len(centers)) for column in points.T],
            axis=1,
        )
        filled = total > 0
        centers = np.where(filled[:, None], sums / np.where(filled, total, 1.0)[:, None], centers)
    return _squared_distances(points, centers)


def _squared_distances(points: Floats, centers: Floats) -> Floats:
    squared = np.square(points).sum(axis=1)[:, None] + np.square(centers).sum(axis=1)
    return np.asarray(squared - 2 * points @ centers.T)


@dataclass(frozen=True)
class Suggestion:
    """Which unlabelled images to label first, and why."""

    order: Ints  # (n,) positions among the candidates, the first to label first
    why: list[str]  # (n,) plain words for each


def first_to_label(
    features: Floats, count: int, *, labeled: Floats | None = None, seed: int = 0
) -> Suggestion:
    """The most typical image of each of ``count`` clusters, large clusters first."""
    rng = np.random.default_rng(seed)
    everything = features if labeled is None else np.concatenate([features, labeled])
    points = everything.astype(np.float64)
    points = (points - points.mean(axis=0)) / (points.std(axis=0) + 1e-3)
    clusters = count if labeled is None else count + len(labeled)
    distances = _kmeans(points, np.ones(len(points)), clusters, rng)
    own = distances.argmin(axis=1)
    order: list[int] = []
    why: list[str] = []
    sizes = np.bincount(own, minlength=distances.shape[1])
    for cluster in np.argsort(-sizes, kind="stable"):
        members = np.flatnonzero(own == cluster)
        if len(members) == 0 or members[-1] >= len(features) or len(order) == count:
            continue
        order.append(int(members[distances[members, cluster].argmin()]))
        why.append(f"typical of {len(members)} images like it that no label covers")
    for position in range(len(features)):
        if len(order) < count and position not in order:
            order.append(position)
            why.append("to fill the budget")
    return Suggestion(np.asarray(order, dtype=np.int64), why)
