"""Metrics from probabilities and true labels; numpy only, so an exported model needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.stats.intervals import wilson
from tutelage.stats.results import Figures
from tutelage.system.words import counted

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
    return float(log_losses(probs, labels).mean())


def log_losses(probs: Floats, labels: Ints) -> Floats:
    """(N,) negative log-likelihoods of the true classes, in nats."""
    chosen = probs[np.arange(len(labels)), labels].astype(float)
    return np.asarray(-np.log(np.clip(chosen, 1e-12, 1.0)))


def metrics(probs: Floats, labels: Ints, predicted: Ints | None = None) -> Figures:
    """The figures of ``probs`` (N, K), as metrics.json writes them, of at least one image.

    ``predicted`` (N,) are the answers; without it, the likeliest classes.
    """
    n = len(labels)
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


def lost_images(wins: int, losses: int) -> bool:
    """Whether a model lost more images against another than chance explains (one-sided, 5%).

    The difference is ``(wins - losses) / n`` and its standard error, if there is no true
    difference, ``sqrt(wins + losses) / n`` (McNemar 1947).
    """
    return bool(losses - wins > 1.645 * np.sqrt(wins + losses))


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
    # Standard error of ``nll_after - nll_before``; None where it is not known.
    nll_error: float | None = None

    @property
    def accepted(self) -> bool:
        """False when the stage lost images, or likelihood.

        Of 20 images hardly one changes sides, so ``lost_images`` alone would let a slow harm pass;
        the likelihood moves with every image. It does not count where the folds' models were
        trained for fewer steps than the stage's own.
        """
        less_likely = self.nll_after > self.nll_before and not self.shortened
        return not (lost_images(self.wins, self.losses) or less_likely)

    @property
    def reason(self) -> str:
        """The verdict in words, with what was compared and on how many images."""
        if self.n == 0:
            return "it was not judged, because there are no held-out labels to compare on"
        more = self.wins - self.losses
        amount = "as many" if not more else f"{abs(more)} {'more' if more > 0 else 'fewer'}"
        said = f"it gets {amount} of {counted(self.n, 'held-out image')} right "
        said += f"{'than' if more else 'as'} the step before"
        figures = (
            f"accuracy {self.before:.1%} to {self.after:.1%}, "
            f"log-loss {self.nll_before:#.3g} to {self.nll_after:#.3g}"
        )
        if lost_images(self.wins, self.losses):
            return f"{said}, by more than chance explains ({figures})"
        said += ", which may be chance" if more < 0 else ""
        change = self.nll_after - self.nll_before
        if not self.accepted:
            start, but = ("", "but") if more > 0 else ("it shows no gain: ", "and")
            chance = ""
            if self.nll_error is not None:
                within = change <= 1.645 * self.nll_error
                chance = ", which may be chance" if within else ", more than chance explains"
            lower = f"{but} gives the true labels lower probabilities{chance}"
            return f"{start}{said}, {lower} ({figures})"
        if change < 0:
            said += f", {'but' if more < 0 else 'and'} gives the true labels higher probabilities"
        if change > 0:
            figures += ", which does not count: these models were trained for fewer steps"
        return f"{said} ({figures})"


def compare(before: Floats, after: Floats, labels: Ints, *, shortened: bool = False) -> Comparison:
    """Compare calibrated held-out probabilities (N, K) of a stage with its predecessor's."""
    was = before.argmax(axis=1) == labels
    now = after.argmax(axis=1) == labels
    n = len(labels)
    if n == 0:
        return Comparison(0, 0, 0, 0.0, 0.0, 0.0, 0.0, shortened)
    change = log_losses(after, labels) - log_losses(before, labels)
    return Comparison(
        n=n,
        wins=int((now & ~was).sum()),
        losses=int((was & ~now).sum()),
        before=float(was.mean()),
        after=float(now.mean()),
        nll_before=nll(before, labels),
        nll_after=nll(after, labels),
        shortened=shortened,
        nll_error=float(change.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
    )
