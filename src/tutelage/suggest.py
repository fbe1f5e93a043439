"""Which unlabelled images to label next: those the model doubts, spread over what there is."""

from __future__ import annotations

import numpy as np

from tutelage.metrics import Floats, Ints


def doubt(probs: Floats) -> Floats:
    """One minus the lead of the likeliest class over the next (N,): 0 is sure, 1 is torn.

    Margin sampling (Scheffer et al. 2001); unlike entropy it asks nothing about the classes that
    an image is not.
    """
    ordered = np.sort(probs, axis=1)
    return np.asarray(1 - (ordered[:, -1] - ordered[:, -2]))


def next_to_label(
    probs: Floats, features: Floats, labeled: Floats, count: int, *, seed: int = 0
) -> Ints:
    """Positions (at most ``count``,) in the order in which to label them.

    Greedy: each is drawn with probability in proportion to its doubt times the squared distance
    from the nearest image that is labelled or already chosen (k-means++: Arthur and Vassilvitskii
    2007; weighted by doubt as BADGE weighs by gradients: Ash et al. 2020, arXiv:1906.03671).

    Args:
        probs: (M, K) calibrated beliefs about the pool.
        features: (M, D) of the pool.
        labeled: (n, D) of the labelled images.
        count: how many to choose.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    weights = doubt(probs)
    nearest = np.full(len(features), np.inf)
    for row in labeled:
        nearest = np.minimum(nearest, _squared_distances(features, row))
    chosen: list[int] = []
    for _ in range(min(count, len(features))):
        anything_near = len(labeled) > 0 or len(chosen) > 0
        score = weights * nearest if anything_near else weights.copy()
        score[chosen] = 0.0
        total = score.sum()
        if total <= 0:
            break
        pick = int(rng.choice(len(score), p=score / total))
        chosen.append(pick)
        nearest = np.minimum(nearest, _squared_distances(features, features[pick]))
    return np.array(chosen, dtype=np.int64)


def _squared_distances(features: Floats, row: Floats) -> Floats:
    return np.asarray(np.square(features - row).sum(axis=1))
