"""A linear head on frozen features: the baseline, and the cheap student of early rounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tutelage.losses import adjust_logits
from tutelage.stats.metrics import Floats


@dataclass(frozen=True)
class Metric:
    """A linear map of features in which a plain L2 penalty is a good one.

    ``(x - mean) @ factor`` has a mean squared norm of 1 over the images it was fitted on, so that
    one range of penalties serves every trunk.

    """

    mean: Tensor  # (C,)
    factor: Tensor  # (C, R) with R <= C or, for a diagonal map, (C,)
    width: int  # D, of the features it maps
    columns: slice | None = None  # which C of the D features it looks at; all if None

    def __call__(self, features: Tensor) -> Tensor:
        """Map features (..., D)."""
        centred = _columns(features, self.columns) - self.mean
        return centred * self.factor if self.factor.ndim == 1 else centred @ self.factor

    def lift(self, weight: Tensor, bias: Tensor) -> Head:
        """The head of D unmapped features that equals weight (K, R) and bias on mapped ones."""
        raw = weight * self.factor if self.factor.ndim == 1 else weight @ self.factor.T
        whole = torch.zeros(len(raw), self.width)
        _columns(whole, self.columns).copy_(raw)
        return Head(whole, bias - raw @ self.mean)


def _columns(features: Tensor, columns: slice | None) -> Tensor:
    return features if columns is None else features[..., columns]


def plain_metric(features: Tensor, columns: slice | None = None) -> Metric:
    """Every feature of ``columns`` scaled to unit variance over ``features`` (N, D)."""
    width = features.shape[1]
    features = _columns(features, columns)
    mean = features.mean(dim=0)
    # The small constant keeps a feature that is almost always zero from being blown up.
    scale = 1.0 / (features.std(dim=0, correction=0) + 1e-3)
    norm = ((features - mean) * scale).square().sum(dim=1).mean().sqrt().clamp_min(1e-6)
    return Metric(mean, scale / norm, width, columns)


def pretrained_metric(
    features: Tensor, pretrained_head: Tensor, columns: slice | None = None
) -> Metric:
    """The plain metric and that of the pretrained classifier's outputs, half each.

    The fc layer that transfer cuts off still says which directions of feature space tell things
    apart. A head ``w = A W_fc`` with a penalty on ``A`` prefers those directions; averaging this
    Gram matrix with the plain one keeps every direction reachable.

    ``pretrained_head`` (K', C) is the weight of the pretrained fc layer, of C ``columns`` of the
    ``features`` (N, D); None: of the first.
    """
    columns = columns or slice(pretrained_head.shape[1])
    plain = plain_metric(features, columns)
    features = _columns(features, columns)
    centred = features - plain.mean
    gram = (pretrained_head.T @ pretrained_head).double()
    outputs = (centred.double() @ gram * centred.double()).sum(dim=1).mean()
    mixed = 0.5 * torch.diag(plain.factor.double() ** 2) + 0.5 * gram / outputs
    factor = torch.linalg.cholesky(mixed).to(features.dtype)
    return dataclasses.replace(plain, factor=factor)


def span_metric(metric: Metric, features: Tensor) -> Metric:
    """``metric`` in as few coordinates as ``features`` (N, D) span.

    A head that is fitted on these features or on some of them is a sum of them (the penalty
    leaves nothing else), so where N < D an orthonormal basis of their span loses nothing, and
    fitting costs N / D of what it would.
    """
    mapped = metric(features)
    if mapped.shape[0] >= mapped.shape[1]:
        return metric
    basis, _ = torch.linalg.qr(mapped.T)
    factor = metric.factor
    factor = factor[:, None] * basis if factor.ndim == 1 else factor @ basis
    return dataclasses.replace(metric, factor=factor)


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
    log_prior: Tensor | None = None,
) -> Head:
    """Multinomial logistic regression on soft targets, by L-BFGS.

    Minimises ``strength * sum(weights * H(targets, softmax)) + 0.5 * ||weight||^2`` in the
    metric's coordinates (``strength`` is scikit-learn's C). Deterministic: starts from zero, full
    batches.

    ``features`` are (N, D), ``targets`` (N, K) probabilities or these times the weight of each
    class, ``weights`` (N,); ``log_prior`` (K,) is added to the logits while fitting, not in the
    head (logit adjustment).
    """
    mapped, strengths = metric(features), (strength,)
    return fit_heads(mapped, targets, weights, metric, strengths=strengths, log_prior=log_prior)[0]


def fit_joint_head(
    features: Tensor,
    targets: Tensor,
    weights: Tensor,
    metrics: Sequence[Metric],
    *,
    strength: float,
    log_prior: Tensor | None = None,
) -> Head:
    """The mean of one head for each metric, each on the columns of its own; else ``fit_head``."""
    return mean_head(
        [
            fit_head(features, targets, weights, metric, strength=strength, log_prior=log_prior)
            for metric in metrics
        ]
    )


def mean_head(heads: Sequence[Head]) -> Head:
    """The head whose logits are the mean of those of ``heads``."""
    weights, biases = ([getattr(head, name) for head in heads] for name in ("weight", "bias"))
    return Head(torch.stack(weights).mean(dim=0), torch.stack(biases).mean(dim=0))


def fit_heads(
    inputs: Tensor,
    targets: Tensor,
    weights: Tensor,
    metric: Metric,
    *,
    strengths: Sequence[float],
    log_prior: Tensor | None = None,
) -> list[Head]:
    """``fit_head`` for several strengths, each started from the solution before it.

    The objective is convex, so the start changes the solution by no more than the tolerance, but
    a neighbour's solution is near (warm starts along the path: Friedman et al. 2010, section 2.5).

    ``inputs`` (N, R) are features that ``metric`` has mapped; the heads take features that it has
    not. ``strengths`` rise, so that each start is the simpler head.
    """
    weight = torch.zeros(targets.shape[1], inputs.shape[1], requires_grad=True)
    bias = torch.zeros(targets.shape[1], requires_grad=True)

    def objective(strength: float) -> Tensor:
        weight.grad = bias.grad = None
        logits = adjust_logits(inputs @ weight.T + bias, log_prior)
        log_probs = torch.log_softmax(logits, dim=1)
        data = -(weights * (targets * log_probs).sum(dim=1)).sum()
        loss = strength * data + 0.5 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    heads = []
    for strength in strengths:
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=100,
            history_size=10,
            tolerance_grad=1e-4,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(partial(objective, strength))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            heads.append(metric.lift(weight, bias))
    return heads


def lowest_loss(losses: Floats, default: int, *, guard: float = 0.0) -> int:
    """The candidate with the least mean held-out loss.

    Few labels hardly tell good candidates apart, and the lowest of many noisy means is too
    low. ``guard`` 1 is the one-standard-error rule (Breiman et al. 1984, section 3.4.3) on
    paired differences, with a default in place of the simplest model.

    ``losses`` are (C, J), of each candidate on the same J images; J may be 0.
    """
    n = losses.shape[1]
    if n == 0:
        return default
    best = int(losses.mean(axis=1).argmin())
    if guard == 0:
        return best
    gains = losses[default] - losses[best]
    told_apart = n > 1 and gains.mean() > guard * gains.std(ddof=1) / n**0.5
    return best if told_apart else default
