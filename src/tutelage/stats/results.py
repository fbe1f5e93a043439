"""What metrics.json holds: of a run, and of each draw of a ladder. Accuracies are fractions."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class Figures(TypedDict):
    """How good a model is on labelled images, as ``stats.metrics.metrics`` finds it."""

    n: int  # images
    accuracy: float
    accuracy_ci95: list[float]  # the ends of its 95% interval
    majority: float  # accuracy of always answering the most frequent class
    balanced_accuracy: float
    macro_f1: float
    ece: float
    nll: float


class Stage(TypedDict):
    """One stage of a run."""

    name: str  # "probe", "transfer", "self-train-1", ..., "student"
    accepted: bool  # it became the teacher, or is the student
    seconds: float
    parameters: int
    val: Figures | None  # on held-out labels; None where none was held out from it
    test: Figures | None  # computed after the last decision; None without test images


class Leakage(TypedDict):
    """What copies there are, and what they do to the figures."""

    test: int  # test images with a copy in another split
    val: int
    two_labels: int  # pairs under two labels
    left_out: int  # images left out of training
    pairs: int
    without: dict[str, Figures]  # by stage: on the test images that are no copies, if some are


class RunMetrics(TypedDict):
    """The metrics.json of a run."""

    stages: list[Stage]
    final: Stage  # the student, or without one the teacher
    teacher: Stage | None  # the last stage that was accepted; None where one was given
    leakage: Leakage


class ArmMetrics(TypedDict):
    """One arm of a ladder in one draw."""

    arm: str
    stage: str  # whose model it is
    kept: bool | None  # by held-out labels; None where nothing is decided
    seconds: float  # its own work took
    total_seconds: float  # with all that it builds on
    parameters: int
    latency_ms: float | None  # of one image on one core; None where it was not timed
    test: Figures


class DrawnPoint(TypedDict):
    """One draw's accuracies at a number of labels."""

    labels: int
    without: float  # of transfer, which sees labels only
    within: float  # of the teacher after self-training on the unlabelled images
    own: bool  # whether this is the number of labels that the ladder was asked for


class DrawMetrics(TypedDict):
    """The metrics.json of a draw, but for the curve, which is added when its points are known."""

    seed: int
    labeled: int
    notes: list[str]
    plan: dict[str, Any]  # what of the plan decides on the figures
    versions: dict[str, str]
    arms: list[ArmMetrics]
    curve: NotRequired[list[DrawnPoint]]
