"""Small trainings of every kind, in float64, to be repeated on ranks or cut off and resumed."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from torch import Tensor, nn

from tutelage.augment import RandAugment, Strong, Weak
from tutelage.config import TrainConfig
from tutelage.steps.distillation import DistillationStep
from tutelage.steps.online import make_online_step
from tutelage.steps.supervised import supervised_step
from tutelage.training.batch import Batch
from tutelage.training.checkpoint import Checkpoint, Checkpoints, Trainings
from tutelage.training.loader import Loader, Views
from tutelage.training.loop import Result, train

ONLINE = ("fixmatch", "flexmatch", "freematch", "softmatch", "mean-teacher")
KINDS = ("supervised", "distillation", *ONLINE)
STEPS = 6

Figures = tuple[dict[str, Tensor], list[dict[str, float]]]
"""Weights, statistics and what the step remembers; and the metrics."""


@dataclasses.dataclass
class Double:
    """A step on float64 views; its state is that of the step within."""

    step: Any

    def __call__(self, model: nn.Module, batch: Batch) -> Any:
        """Cast what was float32, then the step."""
        parts = {
            field.name: _double(getattr(batch, field.name)) for field in dataclasses.fields(batch)
        }
        return self.step(model, Batch(**parts))

    def state_dict(self) -> dict[str, Tensor]:
        """Of the step."""
        return self.step.state_dict() if hasattr(self.step, "state_dict") else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Of the step."""
        if state:
            self.step.load_state_dict(state)


def _double(part: Any) -> Any:
    if isinstance(part, tuple):
        return tuple(map(_double, part))
    floating = isinstance(part, Tensor) and part.is_floating_point()
    return part.double() if floating else part


def _step(kind: str) -> Any:
    if kind == "supervised":
        return supervised_step
    if kind == "distillation":
        return DistillationStep(tiny.classifier(seed=9).double().eval(), 2.0, 0.7)
    prior = torch.tensor([0.25, 0.75]).double()
    options = {"n_pool": 20, "steps": STEPS, "threshold": 0.6, "hard": False}
    return make_online_step(kind, prior, **options)


def start(kind: str) -> tuple[Any, Loader, Any, TrainConfig]:
    """Model, loader, step and settings of one kind; the same each time."""
    images, labels = tiny.two_classes(26)
    online = kind in ONLINE
    strong = Strong(augment=RandAugment(2, 9.0))
    views = Views(strong, 32, mix="cutmix", teacher_sizes=(32,) if kind == "distillation" else ())
    if kind == "mean-teacher":
        views = Views(strong, 32, weak=Weak())
    elif online:
        views = Views(Weak(), 32, strong=strong)
    loader = Loader(
        tiny.canvases(images),
        tiny.examples(np.arange(6), labels[:6]),
        tiny.examples(np.arange(6, 26), np.full(20, -1)),
        views,
        batch_size=9,
        labeled_per_batch=4,
        seed=3,
    )
    model = tiny.classifier().double()
    # Before a norm its gradient is 0 but for rounding, which AdamW would blow up to a whole step.
    model.trunk[0].register_parameter("bias", None)
    model.set_noise(0.3, 0.0)
    config = TrainConfig(STEPS, lr_head=1e-2, lr_trunk=1e-2, log_every=2, ema_decay=0.9)
    return model, loader, Double(_step(kind)), config


def trained(kind: str, **options: Any) -> Figures:
    """The outcome of a whole training."""
    model, loader, step, config = start(kind)
    torch.manual_seed(5)
    return _figures(train(model, loader, step, config, device=tiny.CPU, **options), step)


def _figures(result: Result, step: Double) -> Figures:
    remembered = {f"step.{name}": tensor for name, tensor in step.state_dict().items()}
    return copy.deepcopy({**result.model.state_dict(), **remembered}), result.history


class Cut(Exception):
    """A sudden death."""


def cut_off(kind: str, folder: Path, after: int, **options: Any) -> Checkpoint:
    """The checkpoint that a training leaves which dies after so many steps."""
    model, loader, step, config = start(kind)

    def batches() -> Iterator[Batch]:
        yield from itertools.islice(loader, after)
        raise Cut

    torch.manual_seed(5)
    checkpoints = Checkpoints(folder, Trainings(0.0, print))
    with suppress(Cut):
        options = {**options, "checkpoints": checkpoints}
        train(model, batches(), step, config, device=tiny.CPU, **options)
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == after
    return newest


def continued(kind: str, resumed: Checkpoint, **options: Any) -> Figures:
    """The outcome of a training that goes on from there, in a new process."""
    model, loader, step, config = start(kind)
    batches = loader.after(resumed.step)
    result = train(model, batches, step, config, device=tiny.CPU, resumed=resumed, **options)
    return _figures(result, step)
