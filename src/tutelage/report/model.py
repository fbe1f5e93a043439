"""What a report is made of: plain data, which the chain fills and ``html`` reads.

Shape letters: n test images, K classes, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from tutelage.stats.metrics import Comparison, confusion_matrix
from tutelage.stats.results import RunMetrics

# The functional form, because one key is the keyword ``class``.
PseudoRow = TypedDict(
    "PseudoRow",
    {
        "round": int,  # from 1
        "accepted": bool,  # whether the round was kept
        "class": str,  # the class the teacher gave
        "selected": int,  # pool images that trained under this class
        "pool": int,  # pool images whose likeliest class this was; a round's pool is their sum
        "precision": float | None,  # right share of the selected; None if the truth is unknown
        "known": int,  # selected images with known truth
        "mean_confidence": float | None,  # of the selected
    },
)

# What a run leaves beside the page, and what each file is.
FILES: dict[str, str] = {
    "student.onnx": "the model to deploy, with its preprocessing inside",
    "student.onnx.json": "its classes, sizes and thresholds, for programs other than tutelage",
    "student/": "the same model for torch, and for tutelage export",
    "teacher/": "its teacher, for torch and as ONNX",
    "MODEL_CARD.md": "what the model is for and how good it is, for whoever gets it",
    "metrics.json": "every figure of every stage",
    "review.parquet": "what tutelage review shows: doubtful labels, images to label next",
    "pseudo_labels.parquet": "what each round labelled, and how sure it was",
    "split.parquet": "which images were used for what",
    "duplicates.csv": "images that are there more than once",
    "skipped.csv": "files that could not be read",
    "config.json": "every setting and the plan",
    "events.jsonl": "what happened, and when",
}


class DeploymentRow(TypedDict):
    """Size and speed of one model file; latency is for one image, in milliseconds."""

    name: str  # "teacher" and "student" are compared with each other
    parameters: int
    bytes: int
    latency_ms_p50: float
    latency_ms_p05: float
    format: str


@dataclass(frozen=True)
class StageTest:
    """One stage's answers on the test images, which all stages see in the same order."""

    probs: NDArray[Any]  # (n, K)
    labels: NDArray[Any]  # (n,) true class indices

    @property
    def predicted(self) -> NDArray[np.intp]:
        """(n,) indices of the likeliest class."""
        return np.asarray(self.probs.argmax(axis=1))

    @property
    def confusion_matrix(self) -> NDArray[np.int64]:
        """(K, K) counts, true class by predicted class."""
        return confusion_matrix(self.labels, self.predicted, self.probs.shape[1])

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(n,) whether the likeliest class is the true one."""
        return np.asarray(self.predicted == self.labels)


@dataclass(frozen=True)
class Thumb:
    """One picture of a contact sheet."""

    image: NDArray[np.uint8]  # (H, W, 3)
    caption: str = ""  # what is said about it
    name: str = ""  # of the image
    mark: str = ""  # a warning that stands on the picture


@dataclass(frozen=True)
class Sheet:
    """A contact sheet; ``note`` says what to look for."""

    title: str
    note: str
    thumbs: Sequence[Thumb]


@dataclass(frozen=True)
class ClassSheets:
    """The contact sheets of one class; ``note`` says how well it is known."""

    name: str
    sheets: Sequence[Sheet]
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything the page shows."""

    title: str
    command: str  # the command line that made the run
    created: str  # date and time
    metrics: RunMetrics  # the content of metrics.json
    classes: Sequence[str]  # (K,) names in index order
    predictions: Mapping[str, StageTest] = field(default_factory=dict)  # by stage; {} without test
    # Answers on held-out labels, of the delivered model or of the teacher that it copies.
    held_out: StageTest | None = None
    pseudo: Sequence[PseudoRow] = ()  # one per round and class
    to_review: Sequence[Thumb] = ()  # the images that most need a look
    class_sheets: Sequence[ClassSheets] = ()
    sheets: Sequence[Sheet] = ()  # those that belong to no class, in reading order
    notes: Sequence[str] = ()  # warnings to read before believing the figures
    facts: Sequence[str] = ()  # what was decided or given, and is nothing to worry about
    skipped: Sequence[tuple[str, str]] = ()  # (image name, reason) of unreadable images
    # By stage after the first: why it was kept or rejected, and if it was judged, on what.
    reasons: Mapping[str, str] = field(default_factory=dict)
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    deployment: Sequence[DeploymentRow] = ()  # one per model file
    settings: Mapping[str, Any] = field(default_factory=dict)  # every setting, nested in any way
    counts: Mapping[str, int] = field(default_factory=dict)  # by role: labeled, unlabeled, ...
    folder: str = "RUN"  # the run folder, as commands name it
    files: Sequence[str] = ()  # those of ``FILES`` that lie beside the page
