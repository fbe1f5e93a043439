"""Batches of made-up images, as ``tutelage watch`` sees them. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tutelage.watch.look import COMPONENTS, MEASURES, ROW, Seen
from tutelage.watch.reference import Reference

CLASSES = ("a", "b", "c")


def seen(n: int, *, seed: int = 4, **changed: Any) -> tuple[Seen, np.ndarray]:
    """What is seen of n undisturbed images, and their labels; single columns can be changed."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), n)
    confidence = 1 - 0.6 * rng.beta(0.6, 2.4, n)
    wrong = rng.random(n) > confidence
    columns = {
        "predicted": np.where(wrong, (labels + 1) % len(CLASSES), labels),
        "confidence": confidence,
        "energy": rng.normal(size=n),
        "features": rng.normal(size=(n, COMPONENTS)),
        "pixels": rng.normal(size=(n, len(MEASURES))),
    }
    images = np.zeros(n, ROW)
    for name, values in {**columns, **changed}.items():
        images[name] = values
    return images, labels


def reference(n: int = 300, *, learned: bool = False, labelled: int | None = None) -> Reference:
    """A reference of undisturbed images, of which the first ones are labelled, or all."""
    images, labels = seen(n, seed=1)
    known = np.arange(n) < (n if labelled is None else labelled)
    labels = np.where(known, labels, -1)
    return Reference(images, np.arange(n), labels, "test images", learned, CLASSES)


def write_pictures(folder: Path, n: int, *, blue: int = 40, seed: int = 0) -> Path:
    """n noisy pictures, red or green in turn; ``blue`` is the mean of the third channel."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        name = "rg"[i % 2]
        mean = np.array([200, 60, blue] if i % 2 == 0 else [60, 200, blue])
        pixels = (mean + rng.normal(0, 12, (12, 15, 3)) + rng.normal(0, 8)).clip(0, 255)
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:03d}.png")
    return folder
