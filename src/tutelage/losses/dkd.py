"""Decoupled knowledge distillation (Zhao et al. 2022, arXiv:2203.08679)."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.losses.distillation import batch_mean


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    target: Tensor,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """``T^2 * (alpha * TCKD + beta * NCKD)``, mean over the batch (eq. 8 of the paper).

    TCKD is the divergence of the two probabilities (target class, any other class); NCKD that
    of the distributions over the other classes alone. Plain distillation is their sum with the
    teacher's ``1 - p(target)`` in place of ``beta`` (eq. 7): where the teacher is sure, it says
    little about the other classes. Of two classes there is one other, NCKD is 0, and at alpha = 1
    this is plain distillation. The teacher's logits are detached.

    Args:
        student_logits: (B, K), K at least 2.
        teacher_logits: (B, K).
        target: (B,) the target class of each image; see ``target_class``.
        temperature: T > 0.
        alpha: weight of TCKD.
        beta: weight of NCKD. The paper has 8 on CIFAR-100 (T = 4) and 0.5 on ImageNet (T = 1).
        weights: (B,) or None for all ones.
    """
    precise = torch.promote_types(student_logits.dtype, torch.float32)  # not in bfloat16
    teacher = torch.log_softmax(teacher_logits.detach().to(precise) / temperature, dim=1)
    student = torch.log_softmax(student_logits.to(precise) / temperature, dim=1)
    positions = torch.arange(student.shape[1] - 1, device=student.device)
    others = positions + (positions >= target[:, None])  # (B, K - 1) all classes but the target
    tckd = _divergence(_binary(teacher, target, others), _binary(student, target, others))
    nckd = _divergence(_among(teacher, others), _among(student, others))
    return batch_mean((alpha * tckd + beta * nckd) * temperature**2, weights)


def target_class(targets: Tensor, weights: Tensor, teacher_logits: Tensor) -> Tensor:
    """Classes (B,): an image's label, or the teacher's top class where there is no single label.

    The paper knows the label of every image. A pool image has none, and a mixed image has two, or
    one that describes only a part of it: there the teacher's best guess takes its place.

    Args:
        targets: (B, K) probabilities.
        weights: (B,) weight of each target; 1 for a label that no partner shares.
        teacher_logits: (B, K).
    """
    confidence, label = targets.max(dim=1)
    known = confidence * weights > 1.0 - 1e-4  # a mixture's shares are rounded
    return torch.where(known, label, teacher_logits.argmax(dim=1))


def _binary(log_probs: Tensor, target: Tensor, others: Tensor) -> Tensor:
    """Log-probabilities (B, 2) of the target class and of all others together."""
    rest = log_probs.gather(1, others).logsumexp(dim=1, keepdim=True)
    return torch.cat([log_probs.gather(1, target[:, None]), rest], dim=1)


def _among(log_probs: Tensor, others: Tensor) -> Tensor:
    """Log-probabilities (B, K - 1) of the other classes, given that it is one of them."""
    return torch.log_softmax(log_probs.gather(1, others), dim=1)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL (B,) of log-probabilities."""
    return (teacher.exp() * (teacher - student)).sum(dim=1)
