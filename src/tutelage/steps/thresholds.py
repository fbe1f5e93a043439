"""The relatives of FixMatch: other rules for how much the target of a pool image counts.

Each takes the place of ``FixMatch`` in ``OnlineStep``. Its buffers are the statistics that its
paper names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tutelage.losses import flexmatch, freematch, softmatch
from tutelage.steps.fixmatch import Targets, WeakViews, confident, harden, running_mean


class FlexMatch(nn.Module):
    """Lower thresholds for classes that few pool images reached ``threshold`` in (Zhang 2021).

    As in the paper's Algorithm 1 a batch is judged by the marks of earlier batches, an image keeps
    its mark until it is confident again, and marks are set at ``threshold``, not at the lowered
    one. Until the first mark every threshold is 0.
    """

    marks: Tensor

    def __init__(
        self, n_classes: int, n_pool: int, threshold: float, device: torch.device | None = None
    ) -> None:
        super().__init__()
        self.n_classes, self.n_pool, self.threshold = n_classes, n_pool, threshold
        # The last slot, -1, takes the marks of unsure images and is never counted: selecting the
        # others by a mask would make a GPU wait for their number.
        self.register_buffer("marks", torch.full((n_pool + 1,), flexmatch.UNUSED, device=device))

    def forward(self, weak: WeakViews) -> Targets:
        """Weight 1 where the aligned confidence reaches the present threshold of its class."""
        effect = flexmatch.learning_effect(self.marks[:-1], self.n_classes)
        thresholds = flexmatch.flexible_thresholds(effect, self.n_pool, self.threshold)
        sure = confident(weak.aligned, self.threshold).bool()
        self.marks[torch.where(sure, weak.ids, -1)] = weak.aligned.argmax(dim=1)
        return Targets(weak.aligned, confident(weak.aligned, thresholds))


class FreeMatch(nn.Module):
    """Thresholds from the model's own running confidence (Wang et al. 2023).

    The global threshold is compared with aligned confidences and so follows them. The class-wise
    statistics are of the predictions before alignment, which evens out just what they measure.
    ``fairness`` is the step's penalty.
    """

    confidence: Tensor
    marginal: Tensor
    histogram: Tensor

    def __init__(
        self,
        n_classes: int,
        *,
        momentum: float = 0.999,
        fairness_weight: float = 0.01,
        device: torch.device | None = None,
    ) -> None:
        """All statistics start at 1 / K; the defaults are the authors'."""
        super().__init__()
        self.momentum, self.fairness_weight = momentum, fairness_weight
        uniform = torch.full((n_classes,), 1 / n_classes, device=device)
        self.register_buffer("confidence", uniform[0].clone())
        self.register_buffer("marginal", uniform)
        self.register_buffer("histogram", uniform.clone())

    def forward(self, weak: WeakViews) -> Targets:
        """Update the statistics, then weigh the batch by them (Algorithm 1)."""
        confidence = weak.aligned.amax(dim=1)
        self.confidence = running_mean(self.confidence, confidence, self.momentum)
        self.marginal = running_mean(self.marginal, weak.probs, self.momentum)
        self.histogram = running_mean(self.histogram, harden(weak.probs), self.momentum)
        thresholds = freematch.adaptive_thresholds(self.confidence, self.marginal)
        return Targets(weak.aligned, confident(weak.aligned, thresholds))

    def fairness(self, strong_logits: Tensor, used: Tensor) -> Tensor:
        """``fairness_weight`` times the self-adaptive fairness loss."""
        loss = freematch.fairness_loss(strong_logits, used, self.marginal, self.histogram)
        return self.fairness_weight * loss


class SoftMatch(nn.Module):
    """A truncated Gaussian of the confidence instead of a threshold (Chen et al. 2023).

    Targets are the predictions before alignment. The paper aligns to uniform classes: give the
    step a uniform prior.
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self, n_classes: int, *, momentum: float = 0.999, device: torch.device | None = None
    ) -> None:
        """The mean starts at 1 / K and the variance at 1, as in the paper."""
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.full((), 1 / n_classes, device=device))
        self.register_buffer("variance", torch.ones((), device=device))

    def forward(self, weak: WeakViews) -> Targets:
        """Update mean and variance, then weigh the batch by them."""
        confidence = weak.aligned.amax(dim=1)
        spread = softmatch.squared_deviations(confidence)
        self.mean = running_mean(self.mean, confidence, self.momentum)
        self.variance = running_mean(self.variance, spread, self.momentum)
        weights = softmatch.truncated_gaussian(confidence, self.mean, self.variance)
        return Targets(weak.probs, weights)
