"""What a training step needs from other ranks, so that many processes learn as one does.

Every rank computes the loss from the whole batch's outputs, and layers that look at more than one
image, or draw noise for each, act as if the whole batch were there: then the gradients of the ranks
add up to the gradient of one process, whatever the loss.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode

from tutelage.system.ranks import Ranks, current


def concatenated(part: Tensor) -> Tensor:
    """The parts (n, ...) of all ranks one after the other (N, ...), without a gradient.

    Only their lengths may differ.
    """
    world = current().world
    if world == 1:
        return part
    length = torch.tensor([len(part)])
    lengths = [torch.zeros_like(length) for _ in range(world)]
    distributed.all_gather(lengths, length)
    longest = max(int(each) for each in lengths)
    padded = part.new_zeros(longest, *part.shape[1:])
    padded[: len(part)] = part.detach()
    parts = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(parts, padded)
    return torch.cat([each[: int(n)] for each, n in zip(parts, lengths, strict=True)])


def whole(part: Tensor) -> Tensor:
    """A batch's outputs (B, ...) of this rank's share (b, ...); a gradient flows to these alone."""
    if current().world == 1:
        return part
    everything = concatenated(part)
    own = current().share(len(everything))
    return torch.cat([everything[: own.start], part, everything[own.stop :]])


def parallel(model: nn.Module) -> nn.Module:
    """The model with its gradients averaged over the ranks; itself where there is one."""
    if current().world == 1:
        return model
    with warnings.catch_warnings():
        # torch 2.14 has another name for it, which 2.9 does not know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        # Buffers need no broadcast: every rank's norms see the whole batch. The graph is static,
        # which lets a trunk have weights that no output depends on.
        return nn.parallel.DistributedDataParallel(
            model, broadcast_buffers=False, static_graph=True
        )


def bare(model: nn.Module) -> nn.Module:
    """The model within ``parallel``."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def whole_batch(sizes: Sequence[int]) -> AbstractContextManager[Any]:
    """A context for the forward of a batch; it does nothing in a single process.

    ``sizes`` are the images of each view in the whole batch. A forward sees this rank's share of
    the first view, then of the next one, and so on.
    """
    return nullcontext() if current().world == 1 else _WholeBatch(sizes, current())


class _WholeBatch(TorchFunctionMode):
    """Batch norm, dropout and stochastic depth as if this rank's share were the whole batch.

    Norms use the statistics of all ranks, and noise is drawn for all images on every rank, of which
    it keeps its own: all generators stay alike. Layers need not know.
    """

    def __init__(self, sizes: Sequence[int], ranks: Ranks) -> None:
        super().__init__()
        self._sizes = list(sizes)
        self._ranks = ranks

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is Tensor.bernoulli_:  # timm's stochastic depth
            return self._bernoulli(*args, **kwargs)
        return func(*args, **kwargs)

    def _batch_norm(
        self, x: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
        weight: Tensor | None = None, bias: Tensor | None = None,
        training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        if not training:
            return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
        normalised: Tensor = _Normalise.apply(x, running_mean, running_var, momentum, eps)
        shape = (1, -1, *[1] * (x.ndim - 2))
        if weight is not None:
            normalised = normalised * weight.view(shape)
        if bias is not None:
            normalised = normalised + bias.view(shape)
        return normalised.to(x.dtype)

    def _dropout(
        self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0.0:
            return x
        return x * (self._bernoulli(torch.empty_like(x), 1.0 - p) / (1.0 - p))

    def _bernoulli(self, noise: Tensor, p: float = 0.5) -> Tensor:
        """Fill ``noise`` (b, or b + p, ...) with this rank's part of the whole batch's draws."""
        drawn = noise.new_empty(sum(self._sizes), *noise.shape[1:]).bernoulli_(p)
        views = drawn.split(self._sizes)  # type: ignore[no-untyped-call]
        return noise.copy_(torch.cat([view[self._ranks.share(len(view))] for view in views]))


class _Normalise(torch.autograd.Function):
    """(x - mean) / std over the images and positions of all ranks; updates running statistics.

    Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1. Means and variances of the ranks are put
    together as in Chan, Golub and LeVeque 1979, which loses no digits where the mean is large.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        dims = [0, *range(2, x.ndim)]
        n = values.new_full((1, values.shape[1]), values.numel() / values.shape[1])
        mean = values.mean(dim=dims)[None]
        variance = values.var(dim=dims, correction=0)[None]
        counts, means, variances = concatenated(torch.stack([n, mean, variance], dim=1)).unbind(1)
        total = counts.sum(dim=0)
        mean = (counts * means).sum(dim=0) / total
        variance = (counts * (variances + (means - mean).square())).sum(dim=0) / total
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * total / (total - 1).clamp_min(1)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        shape = (1, -1, *[1] * (x.ndim - 2))
        scale = torch.rsqrt(variance + eps).view(shape)
        normalised = (values - mean.view(shape)) * scale
        ctx.save_for_backward(normalised, scale)
        ctx.total, ctx.kind = float(total[0]), x.dtype
        return normalised

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        normalised, scale = ctx.saved_tensors
        (gradient,) = gradients
        dims = [0, *range(2, gradient.ndim)]
        sums = torch.stack([gradient.sum(dim=dims), (gradient * normalised).sum(dim=dims)])
        distributed.all_reduce(sums)
        shape = (1, -1, *[1] * (gradient.ndim - 2))
        shift, along = (part.view(shape) / ctx.total for part in sums)
        inputs = (gradient - shift - normalised * along).mul(scale).to(ctx.kind)
        return inputs, None, None, None, None
