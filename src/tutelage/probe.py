"""A linear head on frozen features: the baseline, and the cheap student of early rounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A linear map of features in which a plain L2 penalty is a good one.

    ``(x - mean) @ factor`` has a mean squared norm of 1 over the images it was fitted on, so that
    one range of penalties serves every trunk.

    Attributes:
        mean: (D,).
        factor: (D, D) or, for a diagonal map, (D,).
    """

    mean: Tensor
    factor: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Map features (..., D)."""
        centred = features - self.mean
        return centred * self.factor if self.factor.ndim == 1 else centred @ self.factor


def plain_metric(features: Tensor) -> Metric:
    """Every feature scaled to unit variance over ``features`` (N, D): the usual probe."""
    mean = features.mean(dim=0)
    # The small constant keeps a feature that is almost always zero from being blown up.
    scale = 1.0 / (features.std(dim=0, correction=0) + 1e-3)
    return Metric(mean, scale / _rms_norm((features - mean) * scale))


def pretrained_metric(features: Tensor, pretrained_head: Tensor) -> Metric:
    """The plain metric and that of the pretrained classifier's outputs, half each.

    The fc layer that transfer cuts off still says which directions of feature space tell things
    apart. A head ``w = A W_fc`` with a penalty on ``A`` prefers those directions; averaging that
    Gram matrix with the plain one keeps every direction reachable.

    Args:
        features: (N, D).
        pretrained_head: (K', D) weight of the pretrained fc layer.
    """
    plain = plain_metric(features)
    centred = features - plain.mean
    gram = (pretrained_head.T @ pretrained_head).double()
    outputs = (centred.double() @ gram * centred.double()).sum(dim=1).mean()
    mixed = 0.5 * torch.diag(plain.factor.double() ** 2) + 0.5 * gram / outputs
    factor = torch.linalg.cholesky(mixed).to(features.dtype)
    return Metric(plain.mean, factor)


def _rms_norm(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=1).mean().sqrt().clamp_min(1e-6)


@dataclass(frozen=True)
class Head:
    """A linear head in feature space: ``logits = features @ weight.T + bias``."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features (N, D)."""
        return features @ self.weight.T + self.bias


def fit_head(
    features: Tensor,
    targets: Tensor,
    weights: Tensor,
    metric: Metric,
    *,
    strength: float,
    iterations: int = 100,
) -> Head:
    """Multinomial logistic regression on soft targets, by L-BFGS.

    Minimises ``strength * sum(weights * H(targets, softmax)) + 0.5 * ||weight||^2`` in the
    metric's coordinates (``strength`` is scikit-learn's C). Deterministic: starts from zero, full
    batches.

    Args:
        features: (N, D).
        targets: (N, K) probabilities.
        weights: (N,).
        metric: coordinates of the penalty.
        strength: weight of the data against the penalty.
        iterations: L-BFGS iterations at most.
    """
    inputs = metric(features)
    n_classes = targets.shape[1]
    weight = torch.zeros(n_classes, inputs.shape[1], requires_grad=True)
    bias = torch.zeros(n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        history_size=10,
        tolerance_grad=1e-4,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        log_probs = torch.log_softmax(inputs @ weight.T + bias, dim=1)
        data = -(weights * (targets * log_probs).sum(dim=1)).sum()
        loss = strength * data + 0.5 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        factor = metric.factor
        raw = weight * factor if factor.ndim == 1 else weight @ factor.T
        return Head(raw.contiguous(), bias - raw @ metric.mean)
