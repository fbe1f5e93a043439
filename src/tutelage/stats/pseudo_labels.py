"""From a teacher's beliefs about the pool to pseudo-labels, aligned to the class frequencies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from tutelage.stats.metrics import Floats, Ints
from tutelage.stats.unknown import Detection

SHARPENING = 0.5  # T of MixMatch
ALIGNMENT_STEPS = 20
PRIOR_IMAGES = 4.0  # images per class that the labels' own frequencies count as
PRIOR_STEPS = 200


def align_to_prior(probs: Floats, prior: Floats, *, strength: float = 1.0) -> Floats:
    """Move the mean of beliefs (N, K) about the pool toward ``prior`` (K,): distribution alignment.

    ``strength`` 0 leaves the beliefs alone and 1 makes their mean the prior. Between them the
    target is the normalised geometric mean of the two: labels that were picked class by class
    say little about how frequent the classes are in the pool. Rows and column means are scaled in
    turn (Sinkhorn and Knopp 1967).
    """
    if strength == 0 or len(probs) == 0:
        return probs
    marginal = np.clip(probs.mean(axis=0), 1e-6, None)
    target = marginal ** (1 - strength) * prior**strength
    target = target / target.sum()
    aligned = probs.astype(float)
    for _ in range(ALIGNMENT_STEPS):
        aligned = aligned * (target / np.clip(aligned.mean(axis=0), 1e-9, None))
        aligned = aligned / aligned.sum(axis=1, keepdims=True)
    return np.asarray(aligned)


@dataclass(frozen=True)
class PseudoLabels:
    """Beliefs about the pool, and which of its images the student may learn from."""

    probs: Floats  # (N, K) calibrated, aligned
    labels: NDArray[np.int64]  # (N,) most likely class
    confidence: Floats  # (N,) probability of that class
    accepted: NDArray[np.bool_]  # (N,)
    distances: Floats  # (N,) from the classes, as ``tutelage.stats.unknown`` measures them
    limit: float  # images farther away are out of class and never accepted; infinite if none are

    @property
    def outside(self) -> NDArray[np.bool_]:
        """(N,) which images belong to none of the classes."""
        return np.asarray(self.distances > self.limit)

    def targets(self, kind: str) -> Floats:
        """Training targets (N, K): "hard" (one-hot), "soft" (the beliefs), or "sharpened"."""
        if kind == "hard":
            return np.asarray(np.eye(self.probs.shape[1])[self.labels])
        return sharpen(self.probs) if kind == "sharpened" else self.probs

    def some(self, count: int, seed: int) -> PseudoLabels:
        """The same with at most ``count`` of the accepted images, drawn at random."""
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(self.accepted))[:count]
        return dataclasses.replace(self, accepted=np.isin(np.arange(len(self.labels)), drawn))

    def reasons(self) -> list[str]:
        """Why each image was taken or left, for the audit table."""
        return [self._reason(number) for number in range(len(self.labels))]

    def _reason(self, number: int) -> str:
        if self.outside[number]:
            return f"out of class: distance {self.distances[number]:.3f} above {self.limit:.3f}"
        if self.accepted[number]:
            return "accepted"
        return "no time to learn from it"


def sharpen(probs: Floats) -> Floats:
    """Probabilities (N, K) to the power ``1 / SHARPENING``, normalised.

    They are surer than the beliefs, so that the student goes on from its teacher, but an image that
    could be of either class still could (Berthelot et al. 2019, "MixMatch", eq. 7).
    """
    power = probs ** (1.0 / SHARPENING)
    return np.asarray(power / power.sum(axis=1, keepdims=True))


def revise(labels: PseudoLabels, probs: Floats) -> PseudoLabels:
    """Pseudo-labels after another look: the mean of the earlier and the new beliefs.

    ``probs`` (A, K) are the new beliefs about the accepted images, in their order. Each training
    errs on different images, so the mean of two is right more often (temporal ensembling: Laine and
    Aila 2017, arXiv:1610.02242). How frequent each class is believed to be stays, and so does the
    choice of accepted images.
    """
    believed = labels.probs[labels.accepted]
    revised = labels.probs.copy()
    revised[labels.accepted] = align_to_prior((believed + probs) / 2, believed.mean(axis=0))
    return dataclasses.replace(
        labels, probs=revised, labels=revised.argmax(axis=1), confidence=revised.max(axis=1)
    )


def select(probs: Floats, detection: Detection | None = None) -> PseudoLabels:
    """Pseudo-labels from beliefs (N, K); all images but those out of class are accepted."""
    detection = detection or Detection(np.zeros(len(probs)), inf)
    return PseudoLabels(
        probs,
        labels=probs.argmax(axis=1),
        confidence=probs.max(axis=1),
        accepted=~detection.outside,
        distances=detection.distances,
        limit=detection.limit,
    )


def confusion_rates(probs: Floats, labels: Ints, n_classes: int) -> Floats:
    """(K, K): column k is the mean held-out belief about images of true class k.

    One uniform belief is added to each class, so that a class without held-out images is uniform.
    Held-out ``probs`` are (J, K), their true classes (J,).
    """
    columns = []
    for k in range(n_classes):
        members = probs[labels == k]
        columns.append((members.sum(axis=0) + 1.0 / n_classes) / (len(members) + 1.0))
    return np.stack(columns, axis=1)


def estimate_prior(mean_belief: Floats, rates: Floats, labels: Ints) -> Floats:
    """How frequent the classes are in the pool, from the teacher's ``mean_belief`` (K,) about it.

    The mean belief is a mixture of the columns of ``rates`` (K, K), which ``confusion_rates``
    gives; its proportions are found by expectation maximisation, with a Dirichlet prior of
    ``PRIOR_IMAGES`` a class at the labels' own frequencies, smoothed by one image. The number of
    ``labels`` (n,) is how much the evidence counts. The idea is black-box shift estimation (Lipton
    et al. 2018), made positive and regularised because few labels make the rates uncertain. A class
    without labels gets 0: nothing that the teacher learnt could tell its images from those of the
    others.
    """
    n_classes = len(mean_belief)
    labelled = np.bincount(labels, minlength=n_classes)
    start = (labelled + 1) / (labelled + 1).sum() * (labelled > 0)
    prior = start
    for _ in range(PRIOR_STEPS):
        share = rates * prior
        share = share / share.sum(axis=1, keepdims=True)
        counts = len(labels) * (mean_belief[:, None] * share).sum(axis=0)
        prior = counts + PRIOR_IMAGES * n_classes * start
        prior = prior / prior.sum()
    return np.asarray(prior)
