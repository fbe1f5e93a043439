"""Distillation: the student mimics the teacher on the same view (Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tutelage.losses.cross_entropy import cross_entropy
from tutelage.losses.dist import dist_loss
from tutelage.losses.distillation import kd_loss
from tutelage.losses.dkd import dkd_loss, target_class
from tutelage.losses.hints import hint_loss
from tutelage.losses.standardize import standardize
from tutelage.training.batch import Batch, Metrics
from tutelage.training.together import whole


class Answer(NamedTuple):
    """What a teacher says of a view: logits (B, K), and its features (B, D) if they are hints."""

    logits: Tensor
    features: Tensor | None = None


@dataclass(frozen=True)
class DistillationStep:
    """``(1 - a) * CE(labels) + a * T^2 KL(teacher || student)``; unlabelled images have only KL.

    Attributes:
        teacher: views of the batch, one for each model behind it, (B, 3, H', W') in [0, 1] -> what
            it answers. It is an argument, never a part of the student: it normalises its own
            input and is called without gradient.
        temperature: T of the softened outputs.
        alpha: weight of the teacher where a label is known.
        kd: what stands in KL's place: "kd" (KL itself), "dkd" or "dist".
        standardize: whether both models' logits are standardised before they are compared.
        hint_weight: of the hint loss, on every image; 0 takes no hints. The student then is a
            ``Classifier`` whose ``connector`` leads from its features to the teacher's.
        cache: answers by the key of their batch, for batches that come again; None for no cache.
    """

    teacher: Callable[..., Answer]
    temperature: float
    alpha: float
    kd: str = "kd"
    standardize: bool = False
    hint_weight: float = 0.0
    cache: dict[Hashable, Answer] | None = None

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """One step; a label weighs 1, a missing one 0, and a mixture of the two in between."""
        with torch.no_grad():
            answer = self._ask(batch)
        if self.hint_weight:
            logits, hint = _with_hint(model, batch, answer)
        else:
            logits = whole(model(batch.images))
            hint = logits.new_zeros(())
        hard = cross_entropy(logits, batch.targets, batch.weights)
        soft = self._soft(logits, answer.logits, batch)
        loss = (1.0 - self.alpha) * hard + soft + self.hint_weight * hint
        agree = (logits.argmax(dim=1) == answer.logits.argmax(dim=1)).float().mean()
        return loss, {
            "loss": loss.detach(),
            self.kd: soft.detach(),
            "hint": hint.detach(),
            "teacher_agreement": agree,
        }

    def _ask(self, batch: Batch) -> Answer:
        """The teacher's answer to a batch, from the cache if it was asked before."""
        if not batch.teacher_images:
            raise ValueError("distillation needs the batch's view at the teacher's resolution")
        if self.cache is None:
            return self._whole_answer(batch)
        if batch.key is None:
            raise ValueError("a cached teacher needs batches with a key")
        if batch.key not in self.cache:
            self.cache[batch.key] = self._whole_answer(batch)
        return self.cache[batch.key]

    def _whole_answer(self, batch: Batch) -> Answer:
        answer = self.teacher(*batch.teacher_images)
        features = None if answer.features is None else whole(answer.features)
        return Answer(whole(answer.logits), features)

    def _soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """The distillation loss of logits (B, K)."""
        options: dict[str, Any] = {}
        if self.kd == "dkd":
            options["target"] = target_class(batch.targets, batch.weights, teacher)
        if self.standardize:
            student, teacher = standardize(student), standardize(teacher)
        losses: dict[str, Callable[..., Tensor]] = {
            "kd": kd_loss,
            "dkd": dkd_loss,
            "dist": dist_loss,
        }
        return losses[self.kd](
            student,
            teacher,
            temperature=self.temperature,
            weights=1.0 - (1.0 - self.alpha) * batch.weights,
            **options,
        )


def _with_hint(model: Any, batch: Batch, answer: Answer) -> tuple[Tensor, Tensor]:
    """The student's logits (B, K) and the hint loss, from one forward."""
    if answer.features is None:
        raise ValueError("hints need a teacher that gives its features")
    logits, hints = model(batch.images, hints=True)
    return whole(logits), hint_loss(whole(hints), answer.features)
