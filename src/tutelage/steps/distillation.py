"""Distillation: the student mimics the teacher on the same view (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.batch import Batch, Metrics
from tutelage.losses.cross_entropy import cross_entropy
from tutelage.losses.distillation import kd_loss


@dataclass(frozen=True)
class DistillationStep:
    """``(1 - a) * CE(labels) + a * T^2 KL(teacher || student)``; unlabelled images have only KL.

    Attributes:
        teacher: views (B, 3, H', W') in [0, 1] to logits (B, K). It is an argument, never a part
            of the student: it normalises its own input and is called without gradient.
        temperature: T of the softened outputs.
        alpha: weight of the teacher where a label is known.
    """

    teacher: Callable[[Tensor], Tensor]
    temperature: float
    alpha: float

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """One step; a label weighs 1, a missing one 0, and a mixture of the two in between."""
        if batch.teacher_images is None:
            raise ValueError("distillation needs the batch's view at the teacher's resolution")
        with torch.no_grad():
            teacher_logits = self.teacher(batch.teacher_images)
        logits = model(batch.images)
        hard = cross_entropy(logits, batch.targets, batch.weights)
        soft = kd_loss(
            logits,
            teacher_logits,
            temperature=self.temperature,
            weights=1.0 - (1.0 - self.alpha) * batch.weights,
        )
        loss = (1.0 - self.alpha) * hard + soft
        agree = (logits.argmax(dim=1) == teacher_logits.argmax(dim=1)).float().mean()
        return loss, {"loss": loss.detach(), "kl": soft.detach(), "teacher_agreement": agree}
