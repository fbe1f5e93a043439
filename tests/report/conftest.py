"""A small run with made-up answers, as the pipeline would hand it to the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tutelage.report.html import render
from tutelage.report.model import (
    ClassSheets,
    DeploymentRow,
    PseudoRow,
    Report,
    Sheet,
    StageTest,
    Thumb,
)
from tutelage.stats.metrics import Comparison

ReportMaker = Callable[..., Report]
LADDER = {"probe": (0.7, True), "transfer": (0.8, True), "self-train-1": (0.75, False),
          "student": (0.79, True)}  # fmt: skip


@pytest.fixture(scope="session")
def make_report() -> ReportMaker:
    """``make_report(stages, classes=..., n=...)``: stages as name -> (share right, accepted)."""
    return _make_report


def _make_report(
    stages: dict[str, tuple[float, bool]] = LADDER,
    *,
    classes: tuple[str, ...] = ("ant", "bee"),
    n: int = 200,
    labels: np.ndarray | None = None,
    test: bool = True,
    **fields: Any,
) -> Report:
    labels = np.arange(n) % len(classes) if labels is None else labels
    predictions, entries = {}, []
    for name, (share, accepted) in stages.items():
        right = np.arange(len(labels)) < share * len(labels)
        probs = np.full((len(labels), len(classes)), 0.2 / max(len(classes) - 1, 1))
        answer = np.where(right, labels, (labels + 1) % len(classes))
        probs[np.arange(len(labels)), answer] = 0.8
        predictions[name] = StageTest(probs, labels)
        figures = {"n": len(labels), "accuracy": share, "accuracy_ci95": [share - 0.05, share],
                   "majority": 0.4, "balanced_accuracy": share - 0.02,
                   "macro_f1": share - 0.01, "ece": 0.0512, "nll": 0.4321}  # fmt: skip
        entries.append(
            {
                "name": name,
                "accepted": accepted,
                "seconds": 75.0,
                "parameters": 1234567,
                "val": {**figures, "n": 40},
                "test": figures if test else None,
            }
        )
    kept = [entry for entry in entries if entry["accepted"]]
    teachers = [entry for entry in kept if entry["name"] != "student"]
    leakage = {"pairs": 0, "without": {}}
    metrics = {"stages": entries, "final": kept[-1], "teacher": teachers[-1], "leakage": leakage}
    return Report(
        title="A run",
        command="tutelage run photos --out runs/a",
        created="2025-01-01 00:00",
        metrics=metrics,
        classes=classes,
        predictions=predictions if test else {},
        **fields,
    )


@pytest.fixture
def without_figures() -> Callable[..., Report]:
    """``without_figures(report, *stages)``: as if those stages had not been judged."""
    return _without_figures


def _without_figures(report: Report, *stages: str) -> Report:
    bare: dict[str, Any] = {"val": None, "test": None}
    entries = [
        {**entry, **bare} if entry["name"] in stages else entry
        for entry in report.metrics["stages"]
    ]
    named = {entry["name"]: entry for entry in entries}
    models = {role: named[report.metrics[role]["name"]] for role in ("final", "teacher")}
    return dataclasses.replace(report, metrics={**report.metrics, "stages": entries, **models})


@pytest.fixture
def full_fields() -> dict[str, Any]:
    """Every optional part of a report, filled."""
    return _full_fields()


@pytest.fixture(scope="session")
def full_page() -> str:
    """The page of a report with all of them."""
    return render(_make_report(**_full_fields()))


def _full_fields() -> dict[str, Any]:
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    pseudo: PseudoRow = {"round": 1, "accepted": False, "class": "ant", "selected": 30,
                         "pool": 40, "precision": 0.5, "known": 30,
                         "mean_confidence": 0.97}  # fmt: skip
    sizes: list[DeploymentRow] = [
        {"name": name, "parameters": count, "bytes": 4 * count, "latency_ms_p50": time,
         "latency_ms_p05": time - 1, "format": "ONNX"}
        for name, count, time in (("teacher", 4_000_000, 12.0), ("student", 1_000_000, 4.0))
    ]  # fmt: skip
    return {
        "pseudo": [pseudo],
        "sheets": [Sheet("Views", "What the student saw.", [Thumb(image, name="views/photo.png")])],
        "to_review": [
            Thumb(image, "labelled ant, probably bee: 71% likely to be wrong", "train/ant/odd.png")
        ],
        "class_sheets": [
            ClassSheets(
                "ant",
                [Sheet("Wrong answers", "1 of 9.", [Thumb(image, "taken for bee", "a.png")])],
                "1 of 9 test images wrong",
            ),
            ClassSheets(
                "bee",
                [Sheet("Pseudo-labels", "", [Thumb(image, "90%", "b.png", "rejected round")])],
            ),
        ],
        "files": ["student.onnx", "student/", "MODEL_CARD.md"],
        "folder": "runs/a",
        "notes": ["The figure is optimistic for a new plant."],
        "skipped": [("broken.jpg", "cut short"), ("empty.jpg", "empty"), ("no.png", "a text")],
        "reasons": {"transfer": "it wins more"},
        "comparisons": {"transfer": Comparison(40, 6, 2, 0.7, 0.8, 0.5, 0.4)},
        "deployment": sizes,
        "settings": {"seed": 7, "teacher": {"lr": 0.01}, "limit": None},
    }
