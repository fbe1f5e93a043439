"""Images that belong to none of the classes: scores, and a limit from held-out labels.

The less an image looks like any class, the higher is its score. Of the scores tried on a frozen
ImageNet trunk with 4 and 25 labels a class, the cosine distance to the nearest class mean, in the
probe's metric, told CIFAR-10's other classes apart best (benchmarks/log.md). A deployed model can
compute the energy from its own logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, lgamma

import numpy as np
from numpy.typing import NDArray

from tutelage.stats.metrics import Floats, Ints

KEPT = 0.95  # share of the classes' own images that stays within the limit
FEW = 20  # held-out scores; the maximum of so few says little about the tail
MARGIN = 0.25  # beyond the maximum of few scores, as a share of its height above their median
CONFIDENCE = 0.95  # that the classes' own images do not explain what is left out
MOST = 0.9  # share of a pool; if more lies beyond the limit, the pool differs in something else


def energy(logits: Floats) -> Floats:
    """The negative log-sum-exp of the logits (Liu et al. 2020, arXiv:2010.03759, eq. 4 at T = 1).

    From logits (N, K), not divided by a temperature; (N,), high where no class has a high logit.
    """
    highest = logits.max(axis=1)
    return np.asarray(-(highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))))


def mean_distances(features: Floats, labels: Ints, others: Floats) -> Floats:
    """Cosine distance (M,), 0 to 2, of ``others`` (M, D) to the nearest mean of a class.

    The labelled images' features (n, D) are centred, in a metric where directions compare. A class
    without labels has no mean.
    """
    means = np.stack([features[labels == k].mean(axis=0) for k in np.unique(labels)])
    return np.asarray(1.0 - (_unit(others) @ _unit(means).T).max(axis=1))


def held_out_distances(features: Floats, labels: Ints) -> Floats:
    """``mean_distances`` (n',) of each labelled image to means that it is not part of.

    Only one image is left out at a time, so the means are nearly those that the pool meets. They
    are a little worse, which errs toward keeping pool images. A class's only image is not scored:
    without it there is no class to be near to.
    """
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.stack([features[labels == k].sum(axis=0) for k in classes])
    scored = np.flatnonzero(counts[index] >= 2)
    if not len(scored):
        return np.zeros(0)
    images = _unit(features[scored])
    cosines = images @ _unit(sums).T  # a sum points where its mean does
    rest = _unit(sums[index[scored]] - features[scored])
    cosines[np.arange(len(scored)), index[scored]] = (images * rest).sum(axis=1)
    return np.asarray(1.0 - cosines.max(axis=1))


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12))


@dataclass(frozen=True)
class Limit:
    """Where an image ceases to look like one of the classes.

    Over the draw of the labels, with ``CONFIDENCE``, at most ``share`` of the classes' own images
    lies beyond.
    """

    value: float  # scores above it are out of class; infinite without held-out scores
    share: float


def fit_limit(held_out: Floats) -> Limit:
    """The limit within which about ``KEPT`` of the classes' own images stay.

    It is the order statistic of rank ``k = ceil(KEPT * (n + 1))``, so that a new image lies
    beyond with probability at most ``1 - KEPT`` (Vovk et al. 2005, conformal prediction); up to
    ``FEW`` scores it is their maximum and a margin. Whatever the distribution, the share beyond
    the k-th of n scores follows Beta(n + 1 - k, k) (Wilks 1941), which gives ``share``. The scores
    (n,) are of images of the classes, from models that have not seen them.
    """
    n = len(held_out)
    if n == 0:
        return Limit(inf, 1.0)
    ordered = np.sort(held_out)
    k = min(n, ceil(KEPT * (n + 1)))
    margin = MARGIN * (ordered[-1] - np.median(ordered)) if n <= FEW else 0.0
    return Limit(float(ordered[k - 1] + margin), _upper_share(n, k))


def _upper_share(n: int, k: int) -> float:
    """The ``CONFIDENCE`` quantile of Beta(n + 1 - k, k), for whole n and k, by bisection.

    P(Beta(n + 1 - k, k) <= x) is the probability of more than ``n - k`` hits in n draws at x.
    """
    hits = np.arange(n - k + 1)
    ways = np.array([lgamma(n + 1) - lgamma(j + 1) - lgamma(n - j + 1) for j in hits])
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        few_hits = np.exp(ways + hits * np.log(x) + (n - hits) * np.log1p(-x)).sum()
        low, high = (low, x) if 1.0 - few_hits >= CONFIDENCE else (x, high)
    return high


def match_threshold(ours: Floats, theirs: Floats, threshold: float) -> float:
    """The threshold that as many of ``ours`` (N,) exceed as of ``theirs`` (N,) exceed their own.

    It lies between two of ``ours`` where ``threshold`` lies between those of ``theirs`` that have
    the same ranks, and outside of all of them by the same. So equal scores have the same threshold.
    """
    ranked, own = np.sort(theirs), np.sort(ours)
    inside = np.clip(threshold, ranked[0], ranked[-1])
    return float(np.interp(inside, ranked, own) + threshold - inside)


@dataclass(frozen=True)
class Detection:
    """How far each pool image lies from the classes, and which are too far."""

    distances: Floats  # (M,)
    limit: float  # largest distance of an image that stays; infinite if all stay

    @property
    def outside(self) -> NDArray[np.bool_]:
        """(M,) which images are out of class."""
        return np.asarray(self.distances > self.limit)


def detect(features: Floats, labels: Ints, pool: Floats) -> Detection:
    """Find the pool images that belong to no class, or none if chance explains them.

    Images are left out only if a larger share of the pool lies beyond the limit than the classes'
    own images explain. If nearly the whole pool lies there, all stay: it was taken in another way
    than the labelled images, and being far says nothing about the class. All stay, too, if only
    ``FEW`` held-out scores or fewer would set the limit: it would be their maximum, and where a
    class has two labels, each is scored by the other. Features are as ``mean_distances`` wants
    them, (n, D) of labelled images and (M, D) of the pool.
    """
    distances = mean_distances(features, labels, pool)
    held_out = held_out_distances(features, labels)
    limit = fit_limit(held_out)
    beyond = float((distances > limit.value).mean()) if len(distances) else 0.0
    found = len(held_out) > FEW and limit.share < beyond <= MOST
    return Detection(distances, limit.value if found else inf)
