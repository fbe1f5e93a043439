"""Metrics from probabilities and true labels; numpy only, so an exported model needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.stats.intervals import wilson

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def confusion_matrix(labels: Ints, predicted: Ints, n_classes: int) -> NDArray[np.int64]:
    """Counts (K, K): rows are true classes, columns predicted ones."""
    flat = labels.astype(np.int64) * n_classes + predicted
    return np.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes)


def macro_f1(labels: Ints, predicted: Ints, n_classes: int) -> float:
    """Mean F1 over the classes that occur in ``labels`` or in ``predicted``."""
    counts = confusion_matrix(labels, predicted, n_classes)
    right = np.diag(counts).astype(float)
    support = counts.sum(axis=0) + counts.sum(axis=1)
    seen = support > 0
    return float((2 * right[seen] / support[seen]).mean())


def balanced_accuracy(labels: Ints, predicted: Ints, n_classes: int) -> float:
    """Mean recall over the classes that occur in ``labels``: all classes count alike."""
    counts = confusion_matrix(labels, predicted, n_classes)
    support = counts.sum(axis=1)
    seen = support > 0
    return float((np.diag(counts)[seen] / support[seen]).mean())


def ece(probs: Floats, labels: Ints, bins: int = 15) -> float:
    """Expected calibration error with equal-width, right-closed bins (Guo et al. 2017, eq. 3)."""
    confidence = probs.max(axis=1).astype(float)
    correct = (probs.argmax(axis=1) == labels).astype(float)
    index = np.clip(np.ceil(confidence * bins), 1, bins).astype(int) - 1
    gaps = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def nll(probs: Floats, labels: Ints) -> float:
    """Mean negative log-likelihood of the true classes, in nats."""
    chosen = probs[np.arange(len(labels)), labels].astype(float)
    return float(-np.log(np.clip(chosen, 1e-12, 1.0)).mean())


def metrics(probs: Floats, labels: Ints, predicted: Ints | None = None) -> dict[str, Any] | None:
    """The figures of ``probs`` (N, K), as metrics.json writes them; None without images.

    ``majority`` is the accuracy of a model that always answers the most frequent of ``labels``.
    ``predicted`` (N,) are the answers; without it, the likeliest classes.
    """
    n = len(labels)
    if n == 0:
        return None
    if predicted is None:
        predicted = probs.argmax(axis=1)
    right = int((predicted == labels).sum())
    return {
        "n": n,
        "accuracy": right / n,
        "accuracy_ci95": list(wilson(right, n)[1:]),
        "majority": int(np.bincount(labels).max()) / n,
        "balanced_accuracy": balanced_accuracy(labels, predicted, probs.shape[1]),
        "macro_f1": macro_f1(labels, predicted, probs.shape[1]),
        "ece": ece(probs, labels),
        "nll": nll(probs, labels),
    }


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of a stage with its predecessor on the same held-out images."""

    n: int
    wins: int  # images that only the new stage got right
    losses: int  # images that only the predecessor got right
    before: float  # accuracy of the predecessor
    after: float  # accuracy of the new stage
    nll_before: float  # mean negative log-likelihood of the predecessor's probabilities, in nats
    nll_after: float
    shortened: bool = False  # the folds' models were trained for fewer steps than the stage's own

    @property
    def accepted(self) -> bool:
        """False when the stage lost images, or likelihood.

        It lost images if it lost more than chance explains (one-sided, 5%). The difference is
        ``(wins - losses) / n`` and its standard error, if there is no true difference,
        ``sqrt(wins + losses) / n`` (McNemar 1947). Of 20 images hardly one changes sides, so this
        alone would let a slow harm pass; the likelihood moves with every image. The likelihood
        does not count where the folds' models were trained for fewer steps than the stage's own.
        """
        return not self._lost_images and (self.shortened or self.nll_after <= self.nll_before)

    @property
    def _lost_images(self) -> bool:
        return bool(self.losses - self.wins > 1.645 * np.sqrt(self.wins + self.losses))

    @property
    def reason(self) -> str:
        """The verdict in words."""
        if self.n == 0:
            return "no held-out labels to compare on; kept"
        score = f"of {self.n} held-out images {self.wins} won and {self.losses} lost"
        close = 0 < abs(self.nll_after - self.nll_before) < 0.001
        digits = 5 if close else 3
        change = f"log-loss {self.nll_before:.{digits}f} to {self.nll_after:.{digits}f}"
        if self._lost_images:
            return f"worse than the stage before: {score}; {change}"
        if not self.accepted:
            return f"less sure of held-out labels than the stage before: {change}; {score}"
        return f"no worse than the stage before: {score}; {change}"


def compare(before: Floats, after: Floats, labels: Ints, *, shortened: bool = False) -> Comparison:
    """Compare calibrated held-out probabilities (N, K) of a stage with its predecessor's."""
    was = before.argmax(axis=1) == labels
    now = after.argmax(axis=1) == labels
    n = len(labels)
    if n == 0:
        return Comparison(0, 0, 0, 0.0, 0.0, 0.0, 0.0, shortened)
    return Comparison(
        n=n,
        wins=int((now & ~was).sum()),
        losses=int((was & ~now).sum()),
        before=float(was.mean()),
        after=float(now.mean()),
        nll_before=nll(before, labels),
        nll_after=nll(after, labels),
        shortened=shortened,
    )
