"""Mean Teacher: the student agrees with the average of itself.

Tarvainen and Valpola 2017, arXiv:1703.01780.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tutelage.losses import cross_entropy
from tutelage.models.classifier import EMA
from tutelage.training.batch import Batch, Metrics
from tutelage.training.together import bare, whole


class MeanTeacherStep:
    """Cross-entropy on labels plus a rising weight times the distance to the teacher's outputs.

    The student sees the strong views and the teacher the weak ones, of labelled and pool images
    alike. The teacher is the student's average, batch-norm statistics included, in eval mode. The
    authors' code leaves it in train mode and its statistics unaveraged; then a teacher's answer
    about an image would depend on the images beside it, and its dropout would noise the target.
    """

    def __init__(
        self, *, ramp_steps: int, consistency_weight: float = 100.0, decay: float = 0.999
    ) -> None:
        """The teacher starts as a copy of the model of the first call.

        The consistency cost has its whole weight, the paper's on CIFAR-10 and SVHN, after
        ``ramp_steps``.
        """
        self.ramp_steps, self.consistency_weight = ramp_steps, consistency_weight
        self.decay = decay
        self.teacher: EMA[nn.Module] | None = None
        self._saved: dict[str, Tensor] = {}  # state of a teacher to go on with

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """One step; ``batch.weak`` and ``batch.images`` are two views of the same images."""
        if batch.weak is None:
            raise ValueError("Mean Teacher needs the weak view of the batch")
        first = self.teacher is None and not self._saved
        if self.teacher is None:
            self.teacher = EMA(bare(model), self.decay)
            if self._saved:
                self.teacher.load_state_dict(self._saved)
        if not first:
            self.teacher.update(bare(model))  # the optimiser has stepped since the last call
        with torch.no_grad():
            teacher_logits = whole(self.teacher.model(batch.weak))
        logits = whole(model(batch.images))
        labels = batch.weights.sum().clamp_min(1e-6) / len(batch.weights)
        supervised = cross_entropy(logits, batch.targets, batch.weights) / labels
        consistency = consistency_mse(logits, teacher_logits)
        share = ramp_up(self.teacher.updates, self.ramp_steps)
        loss = supervised + share * self.consistency_weight * consistency
        return loss, {"loss": loss.detach(), "consistency": consistency.detach()}

    def state_dict(self) -> dict[str, Tensor]:
        """The teacher's state; empty before the first step."""
        return {} if self.teacher is None else self.teacher.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with a saved teacher, from the next step on."""
        self._saved = state


def consistency_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean squared difference of the softmax outputs of logits (B, K) each (section 2, J)."""
    student, teacher = (
        torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
        for logits in (student_logits, teacher_logits)
    )
    return (student - teacher.detach()).square().mean()


def ramp_up(step: int, steps: int) -> float:
    """``exp(-5 (1 - step / steps)^2)`` until ``steps``, then 1: the consistency cost's share."""
    if step >= steps:
        return 1.0
    return math.exp(-5.0 * (1.0 - step / steps) ** 2)
