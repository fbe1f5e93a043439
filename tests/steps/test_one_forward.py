from typing import Any

import tiny
import torch
from torch import Tensor, nn

from tutelage.steps.distillation import DistillationStep
from tutelage.steps.fixmatch import FixMatch, OnlineStep
from tutelage.steps.mean_teacher import MeanTeacherStep
from tutelage.steps.supervised import supervised_step
from tutelage.training.batch import Batch


class _Counted(nn.Module):
    """Counts forwards; its batch norm remembers whose statistics it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm2d(3, momentum=1.0)
        self.head = nn.Linear(3, 2)
        self.forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        out: Tensor = self.head(self.norm(images).flatten(2).square().mean(dim=2))
        return out


def _one_forward(step: Any, batch: Batch, seen: Tensor) -> None:
    model = _Counted().train()
    step(model, batch)
    assert model.forwards == 1
    assert model.norm.running_mean is not None
    torch.testing.assert_close(model.norm.running_mean, seen.mean(dim=(0, 2, 3)))


def _labeled_and_pool() -> Batch:
    """Three labelled images and five of the pool, whose statistics differ."""
    batch = tiny.batches(1)[0]
    weights = torch.tensor([1.0] * 3 + [0.0] * 5)
    scale = torch.where(weights > 0, 1.0, 0.3)[:, None, None, None]
    images = batch.images * scale
    second = images.flip(3) * 0.9
    return Batch(
        images,
        batch.targets,
        weights,
        teacher_images=(images,),
        weak=second,
        strong=second[3:],
        ids=torch.arange(5),
    )


def test_online_step_makes_one_forward() -> None:
    batch = _labeled_and_pool()
    assert batch.strong is not None
    step = OnlineStep(torch.full((2,), 0.5), FixMatch(0.5))
    _one_forward(step, batch, torch.cat([batch.images, batch.strong]))


def test_mean_teacher_step_makes_one_forward() -> None:
    batch = _labeled_and_pool()
    _one_forward(MeanTeacherStep(ramp_steps=0), batch, batch.images)


def test_supervised_step_makes_one_forward() -> None:
    batch = _labeled_and_pool()
    _one_forward(supervised_step, batch, batch.images)


def test_distillation_step_makes_one_forward() -> None:
    batch = _labeled_and_pool()
    teacher = tiny.classifier().eval()
    _one_forward(DistillationStep(teacher, 2.0, 0.5), batch, batch.images)
