"""A model's answers for images in memory, as people and programs get them. Imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tutelage.data.decode import UnreadableImage
from tutelage.system.cores import cores
from tutelage.system.errors import TutelageError

KNOWN = 20  # classes that an error names
CLASSES_SHOWN = 10  # in a summary
IN_FLIGHT = 1024  # images given to the threads at once; bounds the results that wait in memory
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        image: its name.
        label: most likely class, or the one that the decision threshold gives; "unknown" if the
            image was rejected.
        confidence: probability of that class.
        probabilities: class -> probability.
        rejected: the image looks like none of the classes; None if rejection was not asked for.
    """

    image: str
    label: str
    confidence: float
    probabilities: dict[str, float]
    rejected: bool | None = None


def answer(
    opened: Any,
    names: Sequence[str],
    pixels: Sequence[np.ndarray],
    *,
    reject: bool,
    threshold: tuple[str, float] | None = None,
) -> list[Prediction]:
    """Predictions of an ``OnnxModel`` or a ``TorchModel`` for N named images, uint8 (H, W, 3).

    With ``reject`` they also say which images look like none of the classes; the model must have a
    threshold for them. ``threshold`` takes the place of the model's own decision threshold.
    """
    rejected: list[bool | None] = [None] * len(names)
    if reject:
        probabilities, energy = opened.answers(pixels)
        rejected = [bool(e > opened.unknown_threshold) for e in energy]
    else:
        probabilities = opened.probabilities(pixels)
    chosen = decide(probabilities, opened.classes, threshold or opened.decision_threshold)
    rows = []
    for name, probs, best, out in zip(names, probabilities, chosen, rejected, strict=True):
        label = _unknown(opened.classes) if out else opened.classes[best]
        by_class = dict(zip(opened.classes, (float(p) for p in probs), strict=True))
        rows.append(Prediction(name, label, float(probs[best]), by_class, out))
    return rows


def decide(
    probabilities: np.ndarray, classes: Sequence[str], threshold: tuple[str, float] | None
) -> np.ndarray:
    """Indices (N,) of the classes that images are called after, from their probabilities (N, K).

    That is the likeliest class. With a threshold (class, P) it is this class where its probability
    is at least P, and the likeliest of the others elsewhere.
    """
    if threshold is None:
        return np.asarray(probabilities.argmax(axis=1))
    name, least = threshold
    own = list(classes).index(name)
    others = probabilities.copy()
    others[:, own] = -1.0
    return np.where(probabilities[:, own] >= least, own, others.argmax(axis=1))


def threshold_text(threshold: tuple[str, float]) -> str:
    """The text of a decision threshold (class, P), as ``read_threshold`` takes it."""
    return "{}={:g}".format(*threshold)


def read_threshold(text: str, classes: Sequence[str]) -> tuple[str, float]:
    """A decision threshold (class, P) from its text, ``defective=0.3``.

    Raises:
        TutelageError: the class is not the model's, or P is no probability.
    """
    name, _, number = text.rpartition("=")
    if name not in classes:
        known = ", ".join(classes[:KNOWN]) + (", ..." if len(classes) > KNOWN else "")
        raise TutelageError(
            f"--threshold {text}: expected CLASS=P, such as {classes[0]}=0.3, with one of the "
            f"model's classes: {known}"
        )
    try:
        least = float(number)
    except ValueError:
        least = -1.0
    if not 0 <= least <= 1:
        raise TutelageError(
            f"--threshold {text}: {number!r} is no probability; expected a number from 0 to 1, "
            f"such as {name}=0.3"
        )
    return name, least


def each_image(
    work: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result | UnreadableImage | OSError]:
    """Yield the results of ``work`` in the order of the items, or the error of an unreadable image.

    Several threads call it, on all cores: one image is decoded while another is classified, since
    Pillow and onnxruntime let other threads go on while they compute.
    """

    def attempt(item: Item) -> Result | UnreadableImage | OSError:
        try:
            return work(item)
        except (UnreadableImage, OSError) as error:
            return error

    if len(items) == 1:  # starting threads takes longer than a small model
        yield attempt(items[0])
        return
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(items), IN_FLIGHT):
            yield from pool.map(attempt, items[start : start + IN_FLIGHT])


def reason_of(error: UnreadableImage | OSError) -> str:
    """Why an image cannot be read, without its name."""
    return str(getattr(error, "strerror", None) or error)


def decided_otherwise(rows: Sequence[Prediction]) -> int:
    """How many images a decision threshold calls by another class than the likeliest."""
    return sum(
        not row.rejected and row.label != max(row.probabilities, key=row.probabilities.__getitem__)
        for row in rows
    )


def summary(rows: Sequence[Prediction], skipped: int) -> str:
    """How many images there were, how many could not be read, and how many each class has."""
    total = len(rows) + skipped
    classes = Counter(row.label for row in rows).most_common()
    parts = [f"{name} ({count:,})" for name, count in classes[:CLASSES_SHOWN]]
    if rest := classes[CLASSES_SHOWN:]:
        parts.append(f"{len(rest):,} other classes ({sum(count for _, count in rest):,})")
    aside = f", {skipped:,} of them skipped" if skipped else ""
    return f"{total:,} image{'s' * (total != 1)}{aside}: {', '.join(parts)}"


def _unknown(classes: Sequence[str]) -> str:
    """The label of rejected images, which is not the name of any class."""
    label = "unknown"
    while label in classes:
        label = f"({label})"
    return label
