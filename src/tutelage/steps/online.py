"""Online pseudo-labels: what the weak view of a pool image says, its strong view learns.

``OnlinePseudoLabelStep`` is what the methods share. What differs is how a weak view's
probabilities become a weight; FixMatch, FlexMatch, FreeMatch and SoftMatch are objects that do
only this, each with the state that its paper names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tutelage.losses import flexmatch, freematch, softmatch
from tutelage.losses.cross_entropy import cross_entropy
from tutelage.losses.fixmatch import confident, harden
from tutelage.losses.remixmatch import align
from tutelage.steps.mean_teacher import MeanTeacherStep
from tutelage.training.batch import Batch, Metrics, Step
from tutelage.training.together import whole


@dataclass(frozen=True)
class WeakViews:
    """What the weak views of a batch say; nothing here has a gradient.

    Attributes:
        probs: (B, K).
        aligned: (B, K) the same, aligned to the step's prior: what a threshold is compared with.
        pool: (B,) 1.0 for images of the pool, 0.0 for labelled ones.
        ids: (B,) as in ``Batch``.
    """

    probs: Tensor
    aligned: Tensor
    pool: Tensor
    ids: Tensor | None


class Beliefs(NamedTuple):
    """What the strong views learn: probabilities (B, K) and weights (B,)."""

    probs: Tensor
    weights: Tensor


Method = Callable[[WeakViews], Beliefs]
Penalty = Callable[[Tensor, Tensor], Tensor]
_METHOD = "method."  # before the names of what the method remembers


class Statistics:
    """An object whose tensors are what it remembers from step to step."""

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors by the names of their attributes."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with those of a ``state_dict``."""
        for name, value in state.items():
            setattr(self, name, value.to(getattr(self, name).device))


class OnlinePseudoLabelStep(Statistics):
    """Cross-entropy on labels plus ``unlabeled_weight`` times that on weighted beliefs.

    A batch holds labelled images (weight > 0) and pool images (weight 0) together, and all
    views go through the network in one forward, so that batch norm sees one batch. Beliefs are
    aligned to ``prior`` (Berthelot et al. 2020, "ReMixMatch") before a method judges them: judging
    first would select by the very bias that alignment removes.
    """

    def __init__(
        self,
        prior: Tensor,
        method: Method,
        *,
        unlabeled_weight: float = 1.0,
        hard: bool = True,
        momentum: float = 0.99,
        penalty: Penalty | None = None,
    ) -> None:
        """A step with its own running mean of beliefs.

        Args:
            prior: (K,) the class distribution that beliefs over the pool are aligned to.
            method: from weak views to beliefs; it may keep state from step to step.
            unlabeled_weight: of the pool's cross-entropy.
            hard: train on the best guess instead of the probabilities.
            momentum: of the running mean of the pool's probabilities.
            penalty: from the strong views' logits (B, K) and the weights used (B,), 0 off the
                pool, to a term of the loss.
        """
        self.prior = prior
        self.method = method
        self.unlabeled_weight = unlabeled_weight
        self.hard = hard
        self.momentum = momentum
        self.penalty = penalty
        self.marginal = prior.clone()

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
        """One step; ``batch.weak`` and ``batch.images`` are two views of the same images."""
        if batch.weak is None:
            raise ValueError("online pseudo-labels need the weak view of the batch")
        weak_logits, strong_logits = (
            whole(part) for part in model(torch.cat([batch.weak, batch.images])).chunk(2)
        )
        with torch.no_grad():
            pool = (batch.weights == 0).float()
            probs = torch.softmax(weak_logits.float(), dim=1)
            self.marginal = _running(self.marginal, probs, pool, self.momentum)
            aligned = align(probs, self.marginal, self.prior)
            beliefs = self.method(WeakViews(probs, aligned, pool, batch.ids))
            targets = harden(beliefs.probs) if self.hard else beliefs.probs
            used = beliefs.weights * pool
        # Means are over each kind's own images: how many labels share the batch must not
        # change the weight of a label.
        labels = batch.weights.sum().clamp_min(1e-6) / len(batch.weights)
        supervised = cross_entropy(weak_logits, batch.targets, batch.weights) / labels
        share = pool.mean().clamp_min(1e-6)
        unsupervised = cross_entropy(strong_logits, targets, used) / share
        loss = supervised + self.unlabeled_weight * unsupervised
        if self.penalty is not None:
            loss = loss + self.penalty(strong_logits, used)
        return loss, {
            "loss": loss.detach(),
            "pseudo_labeled": used.sum() / pool.sum().clamp_min(1),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """The running mean of beliefs, and what the method remembers."""
        state = super().state_dict()
        if isinstance(self.method, Statistics):
            state |= {f"{_METHOD}{name}": t for name, t in self.method.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with those of a ``state_dict``."""
        own = {name: t for name, t in state.items() if not name.startswith(_METHOD)}
        super().load_state_dict(own)
        if isinstance(self.method, Statistics):
            self.method.load_state_dict(
                {name.removeprefix(_METHOD): state[name] for name in state.keys() - own.keys()}
            )


@dataclass(frozen=True)
class FixMatch:
    """One threshold for all (Sohn et al. 2020)."""

    threshold: float

    def __call__(self, weak: WeakViews) -> Beliefs:
        """Weight 1 where the aligned confidence reaches the threshold."""
        return Beliefs(weak.aligned, confident(weak.aligned, self.threshold))


class FlexMatch(Statistics):
    """Lower thresholds for classes that few pool images reached ``threshold`` in (Zhang 2021).

    As in the paper's Algorithm 1 a batch is judged by the marks of earlier batches, an image keeps
    its mark until it is confident again, and marks are set at ``threshold``, not at the lowered
    one. Until the first mark every threshold is 0.
    """

    def __init__(
        self, n_classes: int, n_pool: int, threshold: float, device: torch.device | None = None
    ) -> None:
        """No image of the pool is marked yet."""
        self.n_classes = n_classes
        self.n_pool = n_pool
        self.threshold = threshold
        # The last slot, -1, takes the marks of labelled and unsure images and is never counted:
        # selecting the others by a mask would make a GPU wait for their number.
        self.marks = torch.full((n_pool + 1,), flexmatch.UNUSED, device=device)

    def __call__(self, weak: WeakViews) -> Beliefs:
        """Weight 1 where the aligned confidence reaches its class's threshold of now."""
        if weak.ids is None:
            raise ValueError("FlexMatch needs the ids of the batch's images")
        effect = flexmatch.learning_effect(self.marks[:-1], self.n_classes)
        thresholds = flexmatch.class_thresholds(effect, self.n_pool, self.threshold)
        sure = confident(weak.aligned, self.threshold).bool()
        self.marks[torch.where(sure, weak.ids, -1)] = weak.aligned.argmax(dim=1)
        return Beliefs(weak.aligned, confident(weak.aligned, thresholds))


class FreeMatch(Statistics):
    """Thresholds from the model's own running confidence (Wang et al. 2023).

    The global threshold is compared with aligned confidences and so follows them. The class-wise
    statistics are of the beliefs before alignment, which evens out just what they measure.
    ``fairness`` is the step's penalty.
    """

    def __init__(
        self,
        n_classes: int,
        *,
        momentum: float = 0.999,
        fairness_weight: float = 0.01,
        device: torch.device | None = None,
    ) -> None:
        """All statistics start at 1 / K; the defaults are the authors'."""
        self.momentum = momentum
        self.fairness_weight = fairness_weight
        self.confidence = torch.full((), 1 / n_classes, device=device)
        self.marginal = torch.full((n_classes,), 1 / n_classes, device=device)
        self.histogram = self.marginal.clone()

    def __call__(self, weak: WeakViews) -> Beliefs:
        """Update the statistics, then weigh the batch by them (Algorithm 1)."""
        confidence = weak.aligned.amax(dim=1)
        self.confidence = _running(self.confidence, confidence, weak.pool, self.momentum)
        self.marginal = _running(self.marginal, weak.probs, weak.pool, self.momentum)
        self.histogram = _running(self.histogram, harden(weak.probs), weak.pool, self.momentum)
        thresholds = freematch.class_thresholds(self.confidence, self.marginal)
        return Beliefs(weak.aligned, confident(weak.aligned, thresholds))

    def fairness(self, strong_logits: Tensor, used: Tensor) -> Tensor:
        """``fairness_weight`` times the self-adaptive fairness loss."""
        loss = freematch.fairness_loss(strong_logits, used, self.marginal, self.histogram)
        return self.fairness_weight * loss


class SoftMatch(Statistics):
    """A truncated Gaussian of the confidence instead of a threshold (Chen et al. 2023).

    Targets are the beliefs before alignment. The paper aligns to uniform classes: give the step a
    uniform prior.
    """

    def __init__(
        self, n_classes: int, *, momentum: float = 0.999, device: torch.device | None = None
    ) -> None:
        """The mean starts at 1 / K and the variance at 1, as in the paper."""
        self.momentum = momentum
        self.mean = torch.full((), 1 / n_classes, device=device)
        self.variance = torch.ones((), device=device)

    def __call__(self, weak: WeakViews) -> Beliefs:
        """Update mean and variance, then weigh the batch by them."""
        confidence = weak.aligned.amax(dim=1)
        mean, variance = softmatch.confidence_moments(confidence, weak.pool)
        self.mean = _toward(self.mean, mean, weak.pool, self.momentum)
        self.variance = _toward(self.variance, variance, weak.pool, self.momentum)
        weights = softmatch.truncated_gaussian(confidence, self.mean, self.variance)
        return Beliefs(weak.probs, weights)


def _running(average: Tensor, values: Tensor, pool: Tensor, momentum: float) -> Tensor:
    """``average`` (...) moved toward the mean of ``values`` (B, ...) over the pool's images."""
    total = (values.movedim(0, -1) * pool).sum(dim=-1)  # a product of matrices would be bfloat16
    return _toward(average, total / pool.sum().clamp_min(1), pool, momentum)


def _toward(average: Tensor, value: Tensor, pool: Tensor, momentum: float) -> Tensor:
    """``average`` moved toward a batch's ``value``; it stays where the batch has no pool image."""
    return torch.where(pool.any(), momentum * average + (1 - momentum) * value, average)


MOMENTUM = 0.99  # of online statistics: the papers' 0.999 is for a million steps, not thousands


def make_online_step(
    method: str, prior: Tensor, *, n_pool: int, steps: int, threshold: float, hard: bool
) -> Step:
    """The step of one online method, with its state at the start.

    Args:
        method: a choice of the setting ``online``.
        prior: (K,) estimated class distribution of the pool, on the device of the run.
        n_pool: images in the pool.
        steps: length of the round.
        threshold: of FixMatch, and of FlexMatch's best class.
        hard: pseudo-labels are best guesses; Mean Teacher has none and compares probabilities.
    """
    if method == "mean-teacher":
        # The authors ramp up for 40,000 of 150,000 steps.
        return MeanTeacherStep(ramp_steps=steps * 4 // 15)
    k, device = len(prior), prior.device
    step = partial(OnlinePseudoLabelStep, hard=hard, momentum=MOMENTUM)
    if method == "fixmatch":
        return step(prior, FixMatch(threshold))
    if method == "flexmatch":
        return step(prior, FlexMatch(k, n_pool, threshold, device))
    if method == "freematch":
        free = FreeMatch(k, momentum=MOMENTUM, device=device)
        return step(prior, free, penalty=free.fairness)
    if method == "softmatch":
        uniform = torch.full_like(prior, 1 / k)
        return step(uniform, SoftMatch(k, momentum=MOMENTUM, device=device))
    raise ValueError(f"'{method}' is no online method")
