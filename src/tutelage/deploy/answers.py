"""A model's answers about images in memory, as people and programs get them. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """One image's answer.

    Attributes:
        image: as it was named.
        label: most likely class; "unknown" where it was rejected.
        confidence: probability of the most likely class.
        probabilities: class -> probability.
        rejected: the image looks like none of the classes; None where nobody asked.
    """

    image: str
    label: str
    confidence: float
    probabilities: dict[str, float]
    rejected: bool | None = None


def answer(
    opened: Any, names: Sequence[str], pixels: Sequence[np.ndarray], *, reject: bool
) -> list[Prediction]:
    """Predictions for images in memory.

    Args:
        opened: an ``OnnxModel`` or a ``TorchModel``.
        names: N names.
        pixels: N uint8 RGB images (H, W, 3).
        reject: also say which look like none of the classes; the model must have a threshold.
    """
    rejected: list[bool | None] = [None] * len(names)
    if reject:
        probabilities, energy = opened.answers(pixels)
        rejected = [bool(e > opened.unknown_threshold) for e in energy]
    else:
        probabilities = opened.probabilities(pixels)
    rows = []
    for name, probs, out in zip(names, probabilities, rejected, strict=True):
        best = int(probs.argmax())
        label = _unknown(opened.classes) if out else opened.classes[best]
        by_class = dict(zip(opened.classes, (float(p) for p in probs), strict=True))
        rows.append(Prediction(name, label, float(probs[best]), by_class, out))
    return rows


def _unknown(classes: Sequence[str]) -> str:
    """The label of a rejected image: no class may have it."""
    label = "unknown"
    while label in classes:
        label = f"({label})"
    return label
