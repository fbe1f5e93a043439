"""DIST: match relations, not values (Huang et al. 2022, arXiv:2205.10536)."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.losses.distillation import batch_mean


def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float,
    beta: float = 1.0,
    gamma: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """``beta * inter + gamma * intra``: one minus Pearson's correlation of probabilities.

    The inter-class term correlates each image's K probabilities, the intra-class term each
    class's B probabilities over the batch. A correlation does not see scale and shift, so a
    student need not be as sure as its teacher. That also makes its gradient independent of T at
    high temperatures, so that there is no T^2 here, as in the paper's definition. Of two
    classes, any two rows that agree on the better one correlate perfectly: only the intra-class
    term teaches. The teacher's logits are detached.

    Weights: the inter-class term is the weighted mean over images of every other loss here. The
    intra-class term correlates over the images in proportion to their weights, so that one of
    weight 0 is as if it were not in the batch, and counts as much as the mean weight. The loss
    therefore scales with a common factor of the weights.

    Args:
        student_logits: (B, K).
        teacher_logits: (B, K).
        temperature: T > 0 of both softmaxes.
        beta: weight of the inter-class term.
        gamma: weight of the intra-class term.
        weights: (B,) or None for all ones.
    """
    precise = torch.promote_types(student_logits.dtype, torch.float32)  # not in bfloat16
    teacher = torch.softmax(teacher_logits.detach().to(precise) / temperature, dim=1)
    student = torch.softmax(student_logits.to(precise) / temperature, dim=1)
    rows = student.new_ones(len(student)) if weights is None else weights.to(precise)
    inter = batch_mean(1.0 - correlation(student, teacher, torch.ones_like(student[0])), rows)
    intra = (1.0 - correlation(student.T, teacher.T, rows)).mean() * rows.mean()
    return beta * inter + gamma * intra


def correlation(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Pearson's correlation (R,) of the rows of ``a`` and ``b`` (R, N), weighted by (N,).

    A row without variance correlates with nothing: 0, without gradient through its variance.
    """
    shares = weights / weights.sum().clamp_min(1e-12)
    a, b = (rows - (shares * rows).sum(dim=1, keepdim=True) for rows in (a, b))
    # Clamped before the root: a root's slope at 0 is infinite.
    spread_a, spread_b = ((shares * x * x).sum(dim=1).clamp_min(1e-12).sqrt() for x in (a, b))
    return (shares * a * b).sum(dim=1) / (spread_a * spread_b)
