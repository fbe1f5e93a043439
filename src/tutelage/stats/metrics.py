"""Metrics from probabilities and true labels; numpy only, so an exported model needs no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson 1927); honest at 0, at 1 and at small n."""
    if n == 0:
        return (0.0, 1.0)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return (max(0.0, centre - half), min(1.0, centre + half))


def t_quantile(freedom: int) -> float:
    """97.5% point of Student's t for a whole number of degrees of freedom, at least 1."""
    low, high = 1.9, 13.0  # the normal's is 1.96, that of one degree 12.71
    for _ in range(50):
        middle = (low + high) / 2
        inside = _t_inside(middle, freedom) < 0.95
        low, high = (middle, high) if inside else (low, middle)
    return (low + high) / 2


def _t_inside(t: float, freedom: int) -> float:
    """P(-t < T < t): the finite series of Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd, square = freedom % 2, math.cos(angle) ** 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for exponent in range(odd + 2, freedom, 2):
        term *= (exponent - 1) / exponent * square
        total += term
    share = math.sin(angle) * total
    return 2 / math.pi * (angle + share) if odd else share


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of independent draws, and the ends of its 95% interval (Student 1908).

    Args:
        values: at least 2.
    """
    mean = statistics.fmean(values)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def confusion_matrix(labels: Ints, predicted: Ints, n_classes: int) -> NDArray[np.int64]:
    """Counts (K, K): rows are true classes, columns predicted ones."""
    flat = np.bincount(labels * n_classes + predicted, minlength=n_classes * n_classes)
    return flat.reshape(n_classes, n_classes).astype(np.int64)


def macro_f1(labels: Ints, predicted: Ints, n_classes: int) -> float:
    """Mean F1 over the classes that occur in ``labels`` or in ``predicted``."""
    counts = confusion_matrix(labels, predicted, n_classes)
    right = np.diag(counts).astype(float)
    support = counts.sum(axis=0) + counts.sum(axis=1)
    seen = support > 0
    return float((2 * right[seen] / support[seen]).mean())


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


def metrics(probs: Floats, labels: Ints) -> dict[str, Any] | None:
    """The figures of one evaluation, as metrics.json writes them; None without images.

    Args:
        probs: (N, K).
        labels: (N,) true classes.
    """
    n = len(labels)
    if n == 0:
        return None
    predicted = probs.argmax(axis=1)
    right = int((predicted == labels).sum())
    return {
        "n": n,
        "accuracy": right / n,
        "accuracy_ci95": list(wilson_interval(right, n)),
        "macro_f1": macro_f1(labels, predicted, probs.shape[1]),
        "ece": ece(probs, labels),
        "nll": nll(probs, labels),
    }


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of a stage with its predecessor on the same held-out images.

    Attributes:
        n: images compared.
        wins: images that only the new stage got right.
        losses: images that only the predecessor got right.
        before: accuracy of the predecessor.
        after: accuracy of the new stage.
        nll_before: mean negative log-likelihood of the predecessor's probabilities, in nats.
        nll_after: the same of the new stage's.
        shortened: the new stage's models of the folds were trained for fewer steps than its own.
    """

    n: int
    wins: int
    losses: int
    before: float
    after: float
    nll_before: float
    nll_after: float
    shortened: bool = False

    @property
    def accepted(self) -> bool:
        """False when the stage lost images, or likelihood.

        Images: more lost than chance explains (one-sided, 5%). The difference is
        ``(wins - losses) / n`` and its standard error, under no difference,
        ``sqrt(wins + losses) / n`` (McNemar 1947). Of 20 images hardly one changes sides, so that
        alone lets through what does harm slowly; the likelihood moves with every image. It is not
        asked of a model that was trained for half as long as the one it stands for.
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
        score = f"{self.wins} won, {self.losses} lost of {self.n} held-out images"
        change = f"log-loss {self.nll_before:.3f} to {self.nll_after:.3f}"
        if self._lost_images:
            return f"lost against its predecessor: {score}, {change}"
        if not self.accepted:
            return f"held-out labels became less likely than before it: {change}, {score}"
        return f"did not lose against its predecessor: {score}, {change}"


def compare(before: Floats, after: Floats, labels: Ints, *, shortened: bool = False) -> Comparison:
    """Compare two (N, K) sets of calibrated held-out probabilities image by image."""
    was = before.argmax(axis=1) == labels
    now = after.argmax(axis=1) == labels
    n = len(labels)
    return Comparison(
        n=n,
        wins=int((now & ~was).sum()),
        losses=int((was & ~now).sum()),
        before=float(was.mean()) if n else 0.0,
        after=float(now.mean()) if n else 0.0,
        nll_before=nll(before, labels) if n else 0.0,
        nll_after=nll(after, labels) if n else 0.0,
        shortened=shortened,
    )
