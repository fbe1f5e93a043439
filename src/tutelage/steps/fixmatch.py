"""FixMatch (Sohn et al. 2020, arXiv:2001.07685), with the alignment of ReMixMatch (1911.09785).

What the weak view of a pool image says, its strong view learns. The step and FixMatch's own rule
are here; the rules of its relatives are in ``tutelage.steps.thresholds``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tutelage.losses import cross_entropy
from tutelage.training.batch import Batch, Metrics
from tutelage.training.together import whole


class WeakViews(NamedTuple):
    """What the model says of the weak views of P pool images; nothing here has a gradient."""

    probs: Tensor  # (P, K)
    # (P, K) the same, aligned to the step's prior: what a threshold is compared with.
    aligned: Tensor
    ids: Tensor  # (P,) as in ``Batch``


class Targets(NamedTuple):
    """What the strong views learn: probabilities (P, K) and weights (P,)."""

    probs: Tensor
    weights: Tensor


Method = Callable[[WeakViews], Targets]
Penalty = Callable[[Tensor, Tensor], Tensor]


class OnlineStep(nn.Module):
    """Cross-entropy on labels, plus that on the method's targets (the paper's lambda_u is 1).

    The module is the step's memory, not a part of the model: its buffers go into checkpoints.
    """

    marginal: Tensor

    def __init__(
        self,
        prior: Tensor,
        method: Method,
        *,
        hard: bool = True,
        momentum: float = 0.99,
        penalty: Penalty | None = None,
    ) -> None:
        """A step that aligns its predictions to ``prior`` (K,), where their running mean starts.

        The method makes targets from weak views, as ``FixMatch`` does; it may have buffers too.
        With ``hard``, the step trains on the most
        probable class instead of the probabilities. A penalty makes another term of the loss from
        the strong views' logits (P, K) and the weights of their targets (P,).
        """
        super().__init__()
        self.prior, self.method, self.penalty = prior, method, penalty
        self.hard, self.momentum = hard, momentum
        self.register_buffer("marginal", prior.clone())

    def forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """One step on weak views of B images, the pool's P last, and strong views of those P."""
        if batch.strong is None or batch.ids is None:
            raise ValueError("FixMatch needs strong views of the pool's images, and their ids")
        n = len(batch) - len(batch.ids)  # labelled images
        # All views go through the network in one forward, so that batch norm sees one batch.
        views = [batch.images, batch.strong]
        parts = model(torch.cat(views)).split([len(view) for view in views])
        weak, strong = (whole(part) for part in parts)
        supervised = cross_entropy(weak[:n], batch.targets[:n], batch.weights[:n])  # eq. 3
        with torch.no_grad():
            probs = torch.softmax(weak[n:].float(), dim=1)
            self.marginal = running_mean(self.marginal, probs, self.momentum)
            # Align before thresholding, which would otherwise select by the bias that this removes.
            aligned = align(probs, self.marginal, self.prior)
            targets, weights = self.method(WeakViews(probs, aligned, batch.ids))
            if self.hard:
                targets = harden(targets)
        unsupervised = cross_entropy(strong, targets, weights)  # eq. 4
        loss = supervised + unsupervised
        if self.penalty is not None:
            loss = loss + self.penalty(strong, weights)
        return loss, {
            "loss": loss.detach(),
            "pseudo_labeled": weights.sum() / max(1, len(weights)),
        }


@dataclass(frozen=True)
class FixMatch:
    """One threshold for all classes."""

    threshold: float

    def __call__(self, weak: WeakViews) -> Targets:
        """Weight 1 where the aligned confidence reaches the threshold (the indicator of eq. 4)."""
        return Targets(weak.aligned, confident(weak.aligned, self.threshold))


def align(probs: Tensor, marginal: Tensor, prior: Tensor) -> Tensor:
    """Scale ``probs`` (P, K) by ``prior / marginal``, (K,) each (ReMixMatch, section 3.1)."""
    scaled = probs * (prior / marginal.clamp_min(1e-6))
    return scaled / scaled.sum(dim=1, keepdim=True).clamp_min(1e-12)


def confident(probs: Tensor, threshold: float | Tensor) -> Tensor:
    """1.0 where the largest of a row of ``probs`` (P, K) reaches its threshold, else 0.0: (P,).

    ``threshold`` is one number, or (K,) one per class. A confidence equal to it counts: FlexMatch
    (eq. 8) and FreeMatch (eq. 8) print ">", but their code has ">=", as FixMatch does.
    """
    best = probs.argmax(dim=1, keepdim=True)
    return (probs >= threshold).gather(1, best).squeeze(1).to(probs.dtype)


def harden(probs: Tensor) -> Tensor:
    """One-hot rows (P, K) at the largest of ``probs`` (P, K)."""
    return torch.zeros_like(probs).scatter_(1, probs.argmax(dim=1, keepdim=True), 1.0)


def running_mean(average: Tensor, values: Tensor, momentum: float) -> Tensor:
    """``average`` (...) moved toward the mean of ``values`` (P, ...); unchanged if P is 0."""
    if len(values) == 0:
        return average
    mean = values.mean(dim=0).to(average.dtype)  # as a checkpoint will restore it
    return momentum * average + (1 - momentum) * mean
