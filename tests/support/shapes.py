"""A folder of coloured shapes, and the settings of a run on it that takes seconds. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disc", "square", "triangle")
SETTINGS: dict[str, Any] = {
    "teacher": "test_efficientnet",
    "weights": "none",
    "input_size": 32,
    "canvas": 32,
    "student": "cut:2",
    "minutes": 30,  # so much that every plan is the largest one, and kept, on any machine
    "trunk": "frozen",
    "rounds": 1,
}
FINISHED = {
    **SETTINGS,
    "labels_per_class": 4,
    "rounds": 2,
    "seed": 3,
}
"""Of the run that tests share: two rounds, so that a kill can fall between them.

On this draw of labels both rounds are kept; a first one that lost would end them.
"""
STUDENT_STEPS = 24
"""That the student learns the shapes in; a plan for so few images gives it 75."""


@contextmanager
def short_student() -> Iterator[None]:
    """Plans as they are, but for a student of so few steps. Imports torch."""
    from tutelage.chain import plan

    with patch.object(plan, "STEPS", (STUDENT_STEPS,)):
        yield


def write_shapes(
    root: Path,
    *,
    train: int | tuple[int, ...] = 8,
    pool: int = 18,
    val: int = 0,
    test: int = 6,
    mode: str = "RGB",
    side: int = 32,
) -> Path:
    """``train`` images a class (or one number for each), ``val`` and ``test`` a class, a pool."""
    rng = np.random.default_rng(0)
    counts = train if isinstance(train, tuple) else (train,) * 3
    for k, name in enumerate(CLASSES):
        for folder, count in ((f"train/{name}", counts[k]), (f"val/{name}", val),
                              (f"test/{name}", test)):  # fmt: skip
            for i in range(count):
                draw_shape(root / folder / f"{name}{i}{suffix(i)}", k, rng, mode, side)
    for i in range(pool):
        draw_shape(root / "unlabeled" / f"{i:02d}{suffix(i)}", i % 3, rng, mode, side)
    return root


def suffix(number: int) -> str:
    """JPEG and PNG in turn."""
    return (".png", ".jpg")[number % 2]


def draw_shape(
    path: Path, kind: int, rng: np.random.Generator, mode: str = "RGB", side: int = 32
) -> None:
    """One shape in its colour, somewhere on a noisy ground; every third is wider than high."""
    width = side + side // 4 * int(rng.integers(3) == 0)
    noise = rng.integers(40, 120, (side, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    x, y = (int(v) for v in rng.integers(1, side // 2 - 1, 2))
    right, bottom = x + side // 2, y + side // 2
    colour = tuple(210 if channel == kind else 60 for channel in range(3))
    pen = ImageDraw.Draw(image)
    if kind == 0:
        pen.ellipse((x, y, right, bottom), fill=colour)
    elif kind == 1:
        pen.rectangle((x, y, right, bottom), fill=colour)
    else:
        pen.polygon([(x, bottom), (right, bottom), ((x + right) // 2, y)], fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert(mode).save(path)


def as_options(settings: dict[str, Any]) -> list[str]:
    """The same settings on a command line."""
    return [w for name, v in settings.items() for w in (f"--{name.replace('_', '-')}", str(v))]


def read_metrics(run: Path) -> dict[str, Any]:
    """metrics.json without the seconds, which no two runs share."""
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    for entry in (*metrics["stages"], metrics["final"], metrics["teacher"]):
        del entry["seconds"]
    return metrics


def read_stage(run: Path, name: str) -> dict[str, Any]:
    """stage.json of one stage without its seconds."""
    record: dict[str, Any] = json.loads((run / "stages" / name / "stage.json").read_text())
    del record["seconds"]
    return record


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
