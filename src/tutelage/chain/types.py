"""What the stages of the chain hand to each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.chain.clock import Clock
from tutelage.chain.load import LoadedData
from tutelage.chain.plan import RunPlan
from tutelage.data.runfolder import RunFolder
from tutelage.data.split import folds
from tutelage.models.classifier import Classifier
from tutelage.stats.metrics import Comparison, Floats, Ints
from tutelage.stats.pseudo_labels import PseudoLabels
from tutelage.system.console import Console
from tutelage.system.tracking import Tracking
from tutelage.training.checkpoint import Trainings
from tutelage.training.loader import Canvases, Examples, Rows

ROUND = "self-train-"  # begins the names of the rounds of self-training


@dataclass(frozen=True)
class Fold:
    """The part of the labels that a model may learn from, and the part that judges it."""

    keep: NDArray[np.bool_]  # (n,) bool, the labels it may learn from
    judges: Rows  # positions among the judged images that it has not seen


@dataclass(frozen=True)
class Task:
    """All that training and choosing may see: no test images."""

    canvases: Canvases  # pixels by store row
    labeled: Rows  # (n,) store rows with labels
    labels: Ints  # (n,) their classes
    pool: Rows  # (M,) store rows without labels
    judged: Rows  # (J,) store rows that stages are compared on: the labelled ones by folds, or val
    judged_labels: Ints  # (J,) their classes
    # First the one that keeps all labels, whose model is delivered; then those that hold some out.
    folds: tuple[Fold, ...]
    n_classes: int  # K

    def labeled_examples(self, fold: Fold) -> Examples:
        """The labels that a fold may learn from."""
        targets = one_hot(self.labels[fold.keep], self.n_classes)
        return Examples(self.labeled[fold.keep], targets, torch.ones(len(targets)))

    def unlabeled_examples(self, rows: Rows) -> Examples:
        """Images of the pool (N,) without targets, for steps whose targets come from a model."""
        n = len(rows)
        return Examples(rows, torch.zeros(n, self.n_classes), torch.zeros(n))


def one_hot(labels: Ints, n_classes: int) -> Tensor:
    """(n, K) float32 targets."""
    return torch.eye(n_classes)[torch.from_numpy(np.asarray(labels, dtype=np.int64))]


def make_folds(labels: Ints, n_val: int, n_folds: int, seed: int) -> tuple[Fold, ...]:
    """Folds for choices on ``val`` if there is one, else on the labels themselves.

    A class with a single label always stays in training and is not judged: without that label
    there would be nothing to learn the class from.
    """
    everything = np.ones(len(labels), dtype=bool)
    if n_val:
        return (Fold(everything, np.arange(n_val)),)
    counts = np.bincount(labels)
    judged = np.flatnonzero(counts[labels] >= 2)
    made = [Fold(everything, np.arange(0))]
    if len(judged) >= 2:
        ids = folds(labels[judged], n_folds, seed)
        for fold in range(int(ids.max()) + 1):
            held_out = judged[ids == fold]
            keep = everything.copy()
            keep[held_out] = False
            made.append(Fold(keep, held_out))
    return tuple(made)


@dataclass
class Beliefs:
    """What one stage believes."""

    # Per fold, (M, K) logits over the pool, the mean of the centre view and its mirror image; None
    # for a fold that was not run.
    pool: list[Floats | None]
    judged: Floats  # (J, K) held-out logits of the centre view; NaN rows where no fold judged

    @property
    def known(self) -> NDArray[np.bool_]:
        """(J,) which judged images have a held-out prediction."""
        return np.asarray(np.isfinite(self.judged).all(axis=1))


@dataclass
class Outcome:
    """What a stage made: its model on all labels, its beliefs, and what it learned from."""

    model: Classifier  # its spec holds the fitted temperature
    beliefs: Beliefs  # about the pool and the judged images
    frozen: bool  # the trunk is the pretrained one, unchanged
    pseudo_labels: PseudoLabels | None = None  # of the pool, on all labels, if it used any
    # What was chosen on held-out labels, for later stages and the report.
    choice: dict[str, Any] = dataclasses.field(default_factory=dict)
    remark: str = ""  # why it was kept, in words, if it is not compared with the stage before


@dataclass(frozen=True)
class Finished:
    """One finished stage, as its folder holds it."""

    name: str  # as in metrics.json
    accepted: bool  # it became the teacher (or is the student)
    reason: str  # why, in words
    seconds: float  # how long it took
    comparison: Comparison | None  # with its predecessor; None for the first and the student
    outcome: Outcome


def is_round(stage: Finished) -> bool:
    """Whether a stage is a round of self-training."""
    return stage.name.startswith(ROUND)


@dataclass
class Run(LoadedData):
    """Everything that a run holds while it works; stages copy its ``base``."""

    folder: RunFolder  # claimed
    console: Console  # prints and records progress
    plan: RunPlan  # what fits into the minutes
    task: Task  # what training and choosing may see
    notes: list[str]  # what the user must know before relying on the model
    facts: list[str]  # what was decided or given, and is nothing to worry about
    tracking: Tracking  # the trackers that figures are also sent to
    trainings: Trainings  # where checkpoints within a training are kept
    clock: Clock  # what is spent of the minutes

    @property
    def seed(self) -> int:
        """The seed of the labelled subset, the folds, the views and the noise."""
        return self.config.data.seed

    def changed(self, group: str, **values: Any) -> Run:
        """The same run with some settings of one group changed."""
        return dataclasses.replace(self, config=self.config.changed(group, **values))

    def on(self, **values: Any) -> Run:
        """The same run with a changed task, such as fewer folds or no pool."""
        return dataclasses.replace(self, task=dataclasses.replace(self.task, **values))

    def progress(
        self, label: str, total: int, unit: str = "step"
    ) -> AbstractContextManager[Callable[..., None]]:
        """Show what is counted in the progress bar."""
        return self.console.bar(label, total, unit)

    def part(self, name: str) -> AbstractContextManager[None]:
        """Show in the progress bar that this part of the run works."""
        return self.console.progress.part(name)

    def note(self, text: str) -> None:
        """Say what the user must know now, and again in the report."""
        self.notes.append(text)
        self.console.note(text)

    def tell(self, text: str) -> None:
        """Say what was decided, now and in the report's details."""
        self.facts.append(text)
        self.console.note(text)

    def close(self) -> None:
        """End the trackers, and let other processes into the folder."""
        self.tracking.close()
        self.folder.unlock()
