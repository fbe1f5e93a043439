"""Knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv:1503.02531)."""

from __future__ import annotations

import torch
from torch import Tensor


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    weights: Tensor | None = None,
) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, mean over the batch.

    T^2 keeps the size of the gradient independent of T (section 2 of the paper), so that the
    balance with the cross-entropy term does not shift when T is changed. The teacher's logits
    are detached: gradients go only into the student. Logits are (B, K), T > 0, and ``weights``
    (B,) or None for all ones.
    """
    precise = torch.promote_types(student_logits.dtype, torch.float32)  # not in bfloat16
    teacher = torch.log_softmax(teacher_logits.detach().to(precise) / temperature, dim=1)
    student = torch.log_softmax(student_logits.to(precise) / temperature, dim=1)
    divergence = (teacher.exp() * (teacher - student)).sum(dim=1) * temperature**2
    # A weight of 0 does not raise the others.
    return divergence.mean() if weights is None else (divergence * weights).sum() / len(divergence)
