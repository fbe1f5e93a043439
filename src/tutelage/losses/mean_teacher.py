"""Consistency with an averaged teacher (Tarvainen & Valpola 2017, "Mean Teacher", 1703.01780)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
