"""Small runs, prepared and ready for any stage, and what their stages give to the training loop."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from tutelage.chain import (
    frozen,
    pipeline,
    plan,
    pool,
    prepare,
    student,
    trained,
    types,
)
from tutelage.chain.machine import Speed
from tutelage.chain.plan import Work
from tutelage.config import RunConfig, TrainConfig, make_config
from tutelage.data.open import read_catalog
from tutelage.heads.bank import Bank
from tutelage.models import forward
from tutelage.models.classifier import Columns
from tutelage.stats import unknown as outofclass
from tutelage.stats.pseudo_labels import PseudoLabels
from tutelage.training.loader import Loader

SPEED = Speed("cpu", forward=0.05, train=0.15, forward_size=128, train_size=128)
SETTINGS = {
    "teacher": "test_efficientnet",
    "weights": "none",
    "input_size": 32,
    "canvas": 32,
    "labels_per_class": 4,
    "student": "cut:2",
    "rounds": 1,
}
LADDER = {**SETTINGS, "minutes": 0.7, "trunk": "frozen"}
CHAIN = ("probe", "fine-tune", "transfer", "self-train", "student-alone", "student")
"""The arms that a ladder trains on one pretrained trunk."""


@dataclass
class Fit:
    """One call of the training loop that a stage wanted to make."""

    run: Any
    model: Any
    step: Any
    loader: Loader
    settings: TrainConfig


def settings() -> list[str]:
    """The name of every setting a user has."""
    return [name for group in RunConfig().to_dict().values() for name in group]


def untraced(*_: Any) -> None:
    """In the place of a session of onnxruntime: torch answers.

    To trace a model takes longer than all that tests ask of it; tests/models/test_forward.py and
    the run that tests share do trace.
    """


@contextmanager
def quick() -> Iterator[pytest.MonkeyPatch]:
    """A known machine, and trainings of four steps; what patches it, for more of that kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "current_speed", lambda *_: SPEED)
        patch.setattr(plan, "STEPS", (4,))
        patch.setattr(forward, "_session", untraced)
        yield patch


@contextmanager
def quickly(opening: Callable[[], Any], cache: Path) -> Iterator[Any]:
    """The same as ``opening``, in a process of a cluster that knows nothing of these tests."""
    with quick() as patch:
        patch.setenv("TUTELAGE_CACHE", str(cache))
        with opening() as work:
            yield work


def prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "run", **settings: Any
) -> types.Run:
    """A run on a tiny data set, ready for its first stage."""
    data = tmp_path / "data"
    if not data.exists():
        tiny.write_data(data)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "current_speed", lambda *_: SPEED)
    monkeypatch.setattr(forward, "_session", untraced)
    config = make_config("run", {**SETTINGS, **settings})
    return prepare.prepare(
        "run", read_catalog(data), str(data), tmp_path / name, config, quiet=True
    )


def captured_fits(monkeypatch: pytest.MonkeyPatch) -> list[Fit]:
    """What stages give to the training loop from now on; models come back untrained."""
    fits: list[Fit] = []

    def note(
        run: Any, model: Any, step: Any, loader: Any, settings: Any, label: str, *rest: Any
    ) -> Any:
        fits.append(Fit(run, model, step, loader, settings))
        after = copy.deepcopy(model).eval()
        for best in rest[1:]:
            if best is not None:
                best.begin(after)
        return after

    monkeypatch.setattr(trained, "fit", note)
    return fits


def some_beliefs(task: types.Task, seed: int = 0) -> np.ndarray:
    """Made-up logits over the pool."""
    return np.random.default_rng(seed).normal(size=(len(task.pool), task.n_classes))


def half_foreign(task: types.Task, monkeypatch: pytest.MonkeyPatch) -> frozen.Features:
    """Made-up features: the two classes apart, every other pool image apart from both.

    The eight labels of these tests are enough to see it: more would only take longer.
    """
    monkeypatch.setattr(outofclass, "FEW", 4)
    number = np.arange(len(task.pool))
    return made_up(np.where(number % 2, 2, number // 2 % 2), task.labels, width=3, noise=0.05)


def made_up(
    unlabeled: np.ndarray, labeled: np.ndarray, *, width: int = 4, noise: float = 0.1
) -> frozen.Features:
    """Features in which an image's cluster is the number given for it."""
    rng = np.random.default_rng(0)

    def bank(kinds: np.ndarray) -> Bank:
        views = np.eye(width)[kinds] + noise * rng.normal(size=(2, len(kinds), width))
        return Bank(tuple(torch.from_numpy(views).float()))

    labels, images = bank(labeled), bank(unlabeled)
    center = torch.cat([labels.views[0], images.views[0]])
    found = frozen.feature_metrics(center, Columns(slice(width), slice(0)), None)
    metrics = {name: (metric,) for name, metric in found.items()}
    return frozen.Features(labels, images, labels, metrics)


def label_pool(
    run: types.Run,
    chain: pipeline.Pipeline,
    teacher: types.Beliefs,
    temperature: float = 1.0,
) -> list[Any]:
    """Pseudo-labels as a round of the chain makes them."""
    return pool.label_pool(run, teacher, temperature, chain.detections)


def trunk_fit(
    run: types.Run, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> tuple[Fit, PseudoLabels]:
    """What a trained round of self-training gives to the loop."""
    fits = captured_fits(monkeypatch)
    known = np.eye(run.task.n_classes)[run.task.judged_labels] + 0.1
    folds = [some_beliefs(run.task, seed) for seed in range(len(run.task.folds))]
    beliefs = types.Beliefs(list(folds), known)
    detections = pool.detect_unknown(run, half_foreign(run.task, monkeypatch))
    labels = pool.label_pool(run, beliefs, 1.0, detections)[:1]
    weight = torch.randn(run.base.head.weight.shape, generator=torch.Generator().manual_seed(0))
    head = frozen.Head(weight, torch.zeros(run.task.n_classes))
    work = Work(kind, steps=2, batch_size=8, size=32)
    alone = run.on(folds=run.task.folds[:1])
    outcome = trained.train_trunk(alone, [head], labels, work, "round", judged_folds=0)
    assert outcome.pseudo_labels is not None
    return fits[0], outcome.pseudo_labels


def student_fit(run: types.Run, monkeypatch: pytest.MonkeyPatch, teacher: Any = None) -> Fit:
    """What distillation gives to the loop."""
    fits = captured_fits(monkeypatch)
    work = dataclasses.replace(run.plan.student, batch_size=8)
    run.plan = dataclasses.replace(run.plan, student=work)
    teacher = copy.deepcopy(run.base) if teacher is None else teacher
    student.distill(run, [teacher], work)
    return fits[0]


def teacher_of(task: types.Task, classes: np.ndarray, judged: np.ndarray) -> types.Beliefs:
    """One that takes the pool and the judged images for these classes, in every fold."""
    return types.Beliefs([4 * np.eye(2)[classes] for _ in task.folds], 4 * np.eye(2)[judged])


def ask_clusters(
    run: types.Run,
    features: frozen.Features,
    teacher: types.Beliefs,
    detections: list[Any] | None = None,
) -> pool.Clustered:
    """What the clusters say to a calibrated teacher."""
    detections = detections or [None] * len(run.task.folds)
    return pool.ask_clusters(run, features, "plain", teacher, 1.0, detections)
