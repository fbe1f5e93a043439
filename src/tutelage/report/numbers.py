"""The page's own arithmetic: paired changes, class-wise scores, reliability, rounds of labels.

Shape letters: n test images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tutelage.report.model import PseudoRow, StageTest
from tutelage.stats.intervals import Interval, paired_change, wilson


def stage_change(before: StageTest | None, after: StageTest | None) -> Interval | None:
    """``paired_change`` between two stages; None unless both were tested on the same images."""
    if before is None or after is None or not after.labels.size:
        return None
    if not np.array_equal(before.labels, after.labels):
        return None
    return paired_change(*wins_and_losses(before, after), after.labels.size)


def wins_and_losses(before: StageTest, after: StageTest) -> tuple[int, int]:
    """Test images that only ``after`` got right, and those that only ``before`` did."""
    was, now = before.correct, after.correct
    return int((now & ~was).sum()), int((was & ~now).sum())


class Baseline(NamedTuple):
    """Always answering the most frequent class of the test images."""

    name: str  # that class
    accuracy: float
    change: Interval  # from it to the model, on the same images


def baseline(test: StageTest, classes: Sequence[str]) -> Baseline:
    """The model of ``test`` against always answering the most frequent class."""
    counts = np.bincount(test.labels, minlength=len(classes))
    most = int(counts.argmax())
    usual = test.labels == most
    wins, losses = int((test.correct & ~usual).sum()), int((~test.correct & usual).sum())
    n = test.labels.size
    return Baseline(classes[most], float(counts[most] / n), paired_change(wins, losses, n))


class ClassRow(NamedTuple):
    """One class's scores; None where the test images cannot say."""

    name: str
    images: int
    predicted: int
    precision: float | None
    recall: Interval | None
    f1: float | None


def class_rows(matrix: NDArray[np.int64], classes: Sequence[str]) -> list[ClassRow]:
    """Scores of each class from its confusion ``matrix`` (K, K).

    A class without test images has no recall and no F1; one never predicted has no precision.
    """
    rows = []
    for k, name in enumerate(classes):
        hits, images, predicted = (
            int(count) for count in (matrix[k, k], matrix[k].sum(), matrix[:, k].sum())
        )
        rows.append(
            ClassRow(
                name,
                images,
                predicted,
                precision=hits / predicted if predicted else None,
                recall=wilson(hits, images) if images else None,
                f1=2 * hits / (images + predicted) if images else None,
            )
        )
    return rows


class Mistake(NamedTuple):
    """``images`` of class ``true`` were called ``predicted``: a ``share`` of all of that class."""

    true: str
    predicted: str
    images: int
    share: float


def mistakes(matrix: NDArray[np.int64], classes: Sequence[str], limit: int) -> list[Mistake]:
    """The ``limit`` commonest confusions of ``matrix`` (K, K), most frequent first."""
    wrong = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    return [
        Mistake(classes[t], classes[p], int(wrong[t, p]), float(wrong[t, p] / matrix[t].sum()))
        for t, p in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[t, p]
    ]


class Bin(NamedTuple):
    """Answers of similar confidence: how sure they were, and how often right."""

    confidence: float
    accuracy: Interval
    images: int


def reliability_bins(test: StageTest, bins: int = 10) -> list[Bin]:
    """Answers in ``bins`` of equal width by confidence; empty ones are left out.

    The reliability diagram of Guo et al., "On calibration of modern neural networks" (2017).
    """
    confidence, correct = test.probs.max(axis=1, initial=0.0), test.correct
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    found = []
    for b in range(bins):
        here = place == b
        count = int(here.sum())
        if count:
            accuracy = wilson(int(correct[here].sum()), count)
            found.append(Bin(float(confidence[here].mean()), accuracy, count))
    return found


class Round(NamedTuple):
    """One round of pseudo-labelling over all classes."""

    number: int
    accepted: bool  # whether it was kept
    selected: int
    pool: int
    precision: Interval | None
    confidence: float | None


def rounds(rows: Sequence[PseudoRow]) -> list[Round]:
    """The rows of each round summed over its classes, in the order of the rounds."""
    return [
        _round(number, [row for row in rows if row["round"] == number])
        for number in sorted({row["round"] for row in rows})
    ]


def _round(number: int, rows: Sequence[PseudoRow]) -> Round:
    known = right = 0
    sure = [(r["mean_confidence"], r["selected"]) for r in rows]
    counted = [(mean, count) for mean, count in sure if mean is not None and count]
    for row in rows:
        if row["precision"] is not None:
            judged = row.get("known", row["selected"])
            known += judged
            right += round(row["precision"] * judged)
    total = sum(count for _, count in counted)
    return Round(
        number,
        accepted=all(row["accepted"] for row in rows),
        selected=sum(row["selected"] for row in rows),
        pool=sum(row["pool"] for row in rows),
        precision=wilson(right, known) if known else None,
        confidence=sum(mean * count for mean, count in counted) / total if total else None,
    )
