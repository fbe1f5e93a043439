"""The page's own arithmetic: paired changes, class-wise scores, reliability, rounds of labels.

Shape letters: n test images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
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
    return paired_change(*wins_and_losses(before.correct, after.correct), after.labels.size)


def wins_and_losses(was: NDArray[np.bool_], now: NDArray[np.bool_]) -> tuple[int, int]:
    """Images that are right only ``now``, and those that only were."""
    return int((now & ~was).sum()), int((was & ~now).sum())


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
    sums = (part.tolist() for part in (matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)))
    return [
        ClassRow(
            name,
            images,
            predicted,
            precision=hits / predicted if predicted else None,
            recall=wilson(hits, images) if images else None,
            f1=2 * hits / (images + predicted) if images else None,
        )
        for name, hits, images, predicted in zip(classes, *sums, strict=True)
    ]


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


class Confusion(NamedTuple):
    """The confusion matrix: true classes by predicted ones, in the order of ``classes``."""

    classes: list[tuple[int, str]]  # number among all classes, from 1, and name
    counts: list[list[int]]  # of images; with ``rest``, a last row and column sum up the others
    rest: int  # classes that are not shown


def confusion(matrix: NDArray[np.int64], classes: Sequence[str], most: int = 20) -> Confusion:
    """Of more than ``most`` classes, those in the most mistakes are shown."""
    mistaken = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * matrix.diagonal()
    shown = np.sort(np.argsort(-mistaken, kind="stable")[:most])
    group = np.full(len(matrix), len(shown))
    group[shown] = np.arange(len(shown))
    rest = len(matrix) - len(shown)
    counts = np.zeros((len(shown) + (rest > 0),) * 2, dtype=np.int64)
    np.add.at(counts, (group[:, None], group), matrix)
    return Confusion([(int(k) + 1, classes[k]) for k in shown], counts.tolist(), rest)


class Bin(NamedTuple):
    """Answers of similar confidence: how sure they were, and how often right."""

    confidence: float
    accuracy: Interval
    images: int


def reliability_bins(test: StageTest, bins: int = 10) -> list[Bin]:
    """Answers in ``bins`` of equal width by confidence; empty ones are left out.

    The reliability diagram of Guo et al., "On calibration of modern neural networks" (2017).
    """
    confidence, correct = test.probs.max(axis=1), test.correct
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    found = []
    for b in np.unique(place):
        here = place == b
        count = int(here.sum())
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
    """The rows of each round, which follow each other, summed over its classes."""
    found = []
    for number, group in groupby(rows, key=lambda row: row["round"]):
        of_round = list(group)
        selected, pool, known = (
            sum(row[name] for row in of_round) for name in ("selected", "pool", "known")
        )
        right = sum(round((row["precision"] or 0) * row["known"]) for row in of_round)
        sure = sum((row["mean_confidence"] or 0) * row["selected"] for row in of_round)
        kept = all(row["accepted"] for row in of_round)
        precision = wilson(right, known) if known else None
        confidence = sure / selected if selected else None
        found.append(Round(number, kept, selected, pool, precision, confidence))
    return found
