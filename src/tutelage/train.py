"""The one training loop. Methods are step functions; see ``tutelage.steps``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from tutelage.batch import Batch, Step
from tutelage.config import TrainConfig
from tutelage.ema import EMA
from tutelage.errors import TutelageError
from tutelage.models.classifier import Classifier
from tutelage.models.zoo import param_groups


@dataclass
class Result:
    """What a training run leaves.

    Attributes:
        model: the averaged (EMA) model, in eval mode.
        steps: optimiser steps made.
        history: per logged step, its metrics as plain numbers.
    """

    model: Classifier
    steps: int
    history: list[dict[str, float]] = field(default_factory=list)


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up to 1, then half a cosine to 0; a pure function of the step."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def first_steps(depths: Sequence[int], steps: int) -> list[int]:
    """The step, from 0, at which each parameter group starts to learn; gradual unfreezing.

    The layers start one after the other from the head down, evenly over the first half of the
    steps (Howard and Ruder 2018, arXiv:1801.06146, section 3.3, has one epoch for each).

    Args:
        depths: of the groups; the smallest is the head's.
        steps: of the whole run.
    """
    layers = sorted(set(depths))
    gap = 0.5 * steps / max(1, len(layers) - 1)
    return [round(layers.index(depth) * gap) for depth in depths]


def make_optimizer(
    model: Classifier, config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW or SGD over the model's parameter groups (head, trunk layers, no decay on norms)."""
    groups = param_groups(
        model,
        lr_head=config.lr_head,
        lr_trunk=config.lr_trunk,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        layered=config.unfreeze == "gradual",
    )
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=device.type == "cuda")


def train(
    model: Classifier,
    batches: Iterable[Batch],
    step: Step,
    config: TrainConfig,
    *,
    device: torch.device,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> Result:
    """Train ``model`` for ``config.steps`` steps and return its moving average.

    Args:
        model: modified in place; moved to ``device``.
        batches: yields at least ``config.steps`` batches.
        step: ``(model, batch) -> (loss, metrics)``.
        config: optimiser, schedule, clipping, averaging.
        device: cpu or cuda; on cuda the forward runs in bfloat16.
        on_step: called with the step's number (from 1) and metrics every ``config.log_every``.

    Raises:
        TutelageError: the loss is not finite (the message names the step), or the batches ran out.
    """
    model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(model, config, device)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    starts = [0] * len(base_rates)
    if config.unfreeze == "gradual":
        starts = first_steps([group["depth"] for group in optimizer.param_groups], config.steps)
    ema = EMA(model, config.ema_decay)
    history: list[dict[str, float]] = []
    whole = config.schedule_steps or config.steps
    warmup = max(1, round(config.warmup * whole))
    first_bad = torch.full((), config.steps + 1, device=device)
    number = 0
    for number, batch in zip(range(1, config.steps + 1), batches, strict=False):
        factor = learning_rate_factor(config.schedule_first + number - 1, whole, warmup)
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * factor
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, metrics = step(model, batch.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group, start in zip(optimizer.param_groups, starts, strict=True):
            if number <= start:
                _hold(group["params"])
        norm = nn.utils.clip_grad_norm_(trained, config.clip_norm)
        finite = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        first_bad = torch.where(finite, first_bad, first_bad.clamp_max(number))
        logged = number % config.log_every == 0 or number == config.steps
        # Reading a value back stalls a GPU's queue, so there it waits for the next log line.
        if device.type == "cpu" or logged:
            _require_finite(int(first_bad), config)
        optimizer.step()
        ema.update(model)
        if logged:
            row = {"step": float(number), "grad_norm": float(norm)}
            row.update({name: float(value) for name, value in metrics.items()})
            history.append(row)
            if on_step is not None:
                on_step(number, row)
    if number < config.steps:
        raise TutelageError(f"the batches ran out after step {number} of {config.steps}")
    return Result(ema.model, config.steps, history)


def _hold(parameters: Iterable[nn.Parameter]) -> None:
    """Leave ``parameters`` out of this step.

    The optimiser skips what has no gradient: no decay, no moments. A rate of 0 would still fill
    the moments, and switching ``requires_grad`` would have a compiled model traced anew.
    """
    for parameter in parameters:
        parameter.grad = None


def _require_finite(first_bad: int, config: TrainConfig) -> None:
    if first_bad <= config.steps:
        raise TutelageError(
            f"the loss or its gradient was not finite at step {first_bad} of {config.steps}; "
            f"lower the learning rates (now {config.lr_head:g} head, {config.lr_trunk:g} trunk) "
            "or look for broken images"
        )
