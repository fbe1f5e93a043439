"""The relatives of FixMatch: other rules for how much the target of a pool image counts.

Each takes the place of ``FixMatch`` in ``OnlineStep``. Its buffers are the statistics that its
paper names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.steps.fixmatch import Targets, WeakViews, confident, harden, running_mean

UNUSED = -1


class FlexMatch(nn.Module):
    """Lower thresholds for classes that few pool images reached ``threshold`` in.

    Curriculum pseudo-labels (Zhang et al. 2021, "FlexMatch", arXiv:2110.08263).
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
        self.register_buffer("marks", torch.full((n_pool + 1,), UNUSED, device=device))

    def forward(self, weak: WeakViews) -> Targets:
        """Weight 1 where the aligned confidence reaches the present threshold of its class."""
        effect = learning_effect(self.marks[:-1], self.n_classes)
        thresholds = flexible_thresholds(effect, self.n_pool, self.threshold)
        sure = confident(weak.aligned, self.threshold).bool()
        self.marks[torch.where(sure, weak.ids, -1)] = weak.aligned.argmax(dim=1)
        return Targets(weak.aligned, confident(weak.aligned, thresholds))


def learning_effect(marks: Tensor, n_classes: int) -> Tensor:
    """Learning effect sigma (K,): how many pool images bear each class's mark (eq. 5, Algorithm 1).

    ``marks`` (N,) int64 hold the last class each was confidently assigned to, or UNUSED (-1).
    """
    counts = marks.new_zeros(n_classes + 1).scatter_add_(0, marks + 1, torch.ones_like(marks))
    return counts[1:]


def flexible_thresholds(effect: Tensor, n_pool: int, threshold: float) -> Tensor:
    """T (K,) from sigma (K,): ``M(beta) * threshold`` with ``M(x) = x / (2 - x)`` (eq. 12).

    beta is sigma over its largest value, or over the number of unused images while that is larger
    (the warm-up, eq. 11), so that all thresholds rise from 0. ``n_pool`` counts all pool images,
    used or not; ``threshold`` is that of the class learnt best.
    """
    unused = n_pool - effect.sum()
    beta = effect / torch.maximum(effect.max(), unused).clamp_min(1)
    return beta / (2 - beta) * threshold


class FreeMatch(nn.Module):
    """Thresholds from the model's own running confidence.

    Wang et al. 2023, "FreeMatch", arXiv:2205.07246.
    The global threshold is compared with aligned confidences and so follows them. The class-wise
    statistics are of the predictions before alignment, which evens out just what they measure.
    ``fairness`` is the step's penalty.
    """

    confidence: Tensor
    marginal: Tensor
    histogram: Tensor

    def __init__(
        self, n_classes: int, *, momentum: float = 0.999, device: torch.device | None = None
    ) -> None:
        """All statistics start at 1 / K; the momentum is the authors', if none is given."""
        super().__init__()
        self.momentum = momentum
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
        thresholds = adaptive_thresholds(self.confidence, self.marginal)
        return Targets(weak.aligned, confident(weak.aligned, thresholds))

    def fairness(self, strong_logits: Tensor, used: Tensor) -> Tensor:
        """The self-adaptive fairness loss, with the authors' weight."""
        return 0.01 * fairness_loss(strong_logits, used, self.marginal, self.histogram)


def adaptive_thresholds(confidence: Tensor, marginal: Tensor) -> Tensor:
    """Thresholds (K,): the global one times each class's marginal over the largest (eq. 7).

    ``confidence`` () and ``marginal`` (K,) are running means over the pool: of the largest
    probability (eq. 5), and of all probabilities (eq. 6).
    """
    return marginal / marginal.max() * confidence


def fairness_loss(logits: Tensor, used: Tensor, marginal: Tensor, histogram: Tensor) -> Tensor:
    """``-H(SumNorm(marginal / histogram), SumNorm(mean / counts))`` (eq. 11).

    ``mean`` and ``counts`` are the mean probabilities and the histogram of best guesses of the
    strong views (logits (P, K)) that are used: ``used`` (P,) is 1.0 where the weak view is
    confident, else 0.0 (eq. 9). ``marginal`` (K,) is as in ``adaptive_thresholds``, ``histogram``
    (K,) the running share of each class among the weak views' best guesses (eq. 10).

    A class that is the best guess for no used image has no ratio and is left out; the authors' code
    gives it a ratio of 0 and a constant in place of log 0, with the same gradient. The sign is the
    paper's and that code's: the cross-entropy is maximised.
    """
    probs = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
    best = F.one_hot(probs.argmax(dim=1), probs.shape[1])
    counts = (best * used[:, None]).sum(dim=0)
    present = counts > 0
    ratios = (probs * used[:, None]).sum(dim=0) / counts.clamp_min(1) * present
    shares = ratios / ratios.sum().clamp_min(1e-12)
    expected = marginal / histogram
    expected = expected / expected.sum()
    return (expected * torch.where(present, shares, 1.0).log()).sum()


class SoftMatch(nn.Module):
    """A truncated Gaussian of the confidence instead of a threshold.

    Chen et al. 2023, "SoftMatch", arXiv:2301.10921. Targets are the predictions before alignment,
    which decides weights only. The paper aligns to uniform classes (section 3.3): give the step a
    uniform prior.
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
        spread = squared_deviations(confidence)
        self.mean = running_mean(self.mean, confidence, self.momentum)
        self.variance = running_mean(self.variance, spread, self.momentum)
        weights = truncated_gaussian(confidence, self.mean, self.variance)
        return Targets(weak.probs, weights)


def truncated_gaussian(confidence: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Weights (P,) in (0, 1]: 1 from the mean up, a Gaussian's flank below it.

    The paper's formula has ``2 * variance`` under the squared distance. The authors' code divides
    the variance by ``n_sigma ** 2 = 4`` first, so its flank is twice as steep.

    ``confidence`` (P,) is each weak view's largest probability after uniform alignment, ``mean``
    and ``variance`` () are its running statistics.
    """
    short = (confidence - mean).clamp_max(0)
    return torch.exp(-short.square() / (2 * variance.clamp_min(1e-12)))


def squared_deviations(confidence: Tensor) -> Tensor:
    """Values (P,) whose mean is the unbiased variance of ``confidence`` (P,); 0 for one image."""
    count = len(confidence)
    return (confidence - confidence.mean()).square() * (count / max(1, count - 1))
