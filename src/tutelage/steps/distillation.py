"""Distillation: the student mimics its teachers on the same view (Hinton et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage.losses import cross_entropy, kd_loss
from tutelage.models.classifier import Classifier
from tutelage.models.forward import Forward
from tutelage.training.batch import Batch, Metrics
from tutelage.training.together import whole


@dataclass(frozen=True)
class DistillationStep:
    """``(1 - a) * CE(labels) + a * T^2 KL(teacher || student)``; unlabelled images have only KL.

    The teacher turns views of the batch, one for each model behind it, (B, 3, H', W') in [0, 1],
    into logits (B, K). It is an argument, never a part of the student: it normalises its own input
    and is called without gradient.
    """

    teacher: Callable[..., Tensor]
    temperature: float  # T of the softened outputs
    alpha: float  # weight of the teacher where a label is known

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """One step; a label weighs 1, a missing one 0, and a mixture of the two in between."""
        if not batch.teacher_images:
            raise ValueError("distillation needs the batch's view at the teacher's resolution")
        with torch.no_grad():
            wanted = whole(self.teacher(*batch.teacher_images))
        logits = whole(model(batch.images))
        hard = cross_entropy(logits, batch.targets, batch.weights)
        share = 1.0 - (1.0 - self.alpha) * batch.weights  # the teacher's weight for each image
        soft = kd_loss(logits, wanted, temperature=self.temperature, weights=share)
        loss = (1.0 - self.alpha) * hard + soft
        agree = (logits.argmax(dim=1) == wanted.argmax(dim=1)).float().mean()
        return loss, {
            "loss": loss.detach(),
            "kd": soft.detach(),
            "teacher_agreement": agree,
        }


class Teachers:
    """Frozen snapshots of one or more models of the same classes, whose mean the student mimics.

    The logits are the log of the mean of the models' calibrated probabilities, each model at its
    own resolution, normalisation and temperature (averaged as in Hinton et al. 2015, section 3).
    For one model these are its log-probabilities.
    """

    def __init__(self, models: Sequence[Classifier]) -> None:
        """Take the snapshots; each runs on the device that its model is on."""
        # The side of the view that each model wants, and each alone: views -> logits (B, K).
        self.sizes = tuple(model.spec.input_size for model in models)
        self.members = tuple(_calibrated(model) for model in models)

    def __call__(self, *views: Tensor) -> Tensor:
        """Logits (B, K) from each model's view (B, 3, size, size) of the same B images."""
        return mean_logits([ask(view) for ask, view in zip(self.members, views, strict=True)])


def _calibrated(model: Classifier) -> Callable[[Tensor], Tensor]:
    forward, temperature = Forward(model), model.spec.temperature
    return lambda images: forward(images) / temperature


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """Log (B, K) of the mean of the probabilities of several models' logits (B, K) each."""
    # Log-softmax of half precision would round away small probabilities.
    log_probs = torch.stack([torch.log_softmax(each.float(), dim=1) for each in logits])
    return log_probs.logsumexp(dim=0) - math.log(len(logits))
