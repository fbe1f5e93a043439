"""Losses and what balances them: pure functions of tensors, each beside its paper."""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the batch of ``weight * H(target, softmax(logits))``, from logits (B, K).

    The sum is divided by the batch size, not by the sum of the weights (B,), so that an image of
    weight zero (a target below its threshold) lowers the loss as it does in FixMatch (Sohn et
    al. 2020, eq. 4) instead of lending its share to the others. The targets (B, K) are
    probabilities, or these times the weight of each class. With weights, an empty batch gives 0.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # not in bfloat16
    losses = -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1)
    return losses.mean() if weights is None else (losses * weights).sum() / max(1, len(losses))


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    weights: Tensor | None = None,
) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, mean over the batch.

    Knowledge distillation (Hinton, Vinyals, Dean 2015, arXiv:1503.02531).

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


def inverse_frequency(counts: Tensor) -> Tensor:
    """Class weights (K,) in inverse proportion to ``counts`` (K,); their mean over images is 1.

    A mean of 1 keeps the size of the loss, and with it the meaning of the learning rate and of
    the penalty. A class without images gets the weight 0, but at least one class must have some;
    fractions of images are allowed.
    """
    seen = counts > 0
    weights = counts.sum() / (seen.sum() * counts.where(seen, counts.new_ones(())))
    return weights * seen


def log_prior(counts: Tensor, *, smoothing: float = 1.0) -> Tensor:
    """Logarithm (K,) of the class frequencies, smoothed so that no class is impossible.

    ``smoothing`` images are added to each class's ``counts`` (K,), which may be fractions.
    """
    smoothed = counts + smoothing
    return (smoothed / smoothed.sum()).log()


def adjust_logits(logits: Tensor, log_prior: Tensor | None) -> Tensor:
    """``logits`` (B, K) plus ``log_prior`` (K,), for the training loss alone.

    Logit adjustment (Menon et al. 2021, arXiv:2007.07314, eq. 10 with tau = 1).

    A model that must explain the classes' frequencies by this constant has no reason to learn
    them: its own logits, without the constant, minimise the balanced error. None adds nothing.
    """
    return logits if log_prior is None else logits + log_prior
