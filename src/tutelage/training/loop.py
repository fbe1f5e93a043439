"""The one training loop. Methods are step functions; see ``tutelage.steps``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.config import TrainConfig
from tutelage.models.classifier import EMA, Classifier
from tutelage.models.zoo import param_groups
from tutelage.system.errors import TutelageError
from tutelage.system.process import Terminated, deferred
from tutelage.system.ranks import any_of, current
from tutelage.training.batch import Batch, Step
from tutelage.training.best import Best
from tutelage.training.checkpoint import Checkpoint, Checkpoints
from tutelage.training.pace import Pace
from tutelage.training.together import parallel, whole_batch


@dataclass
class Result:
    """What a training run leaves."""

    model: Classifier  # the averaged (EMA) model, in eval mode
    history: list[dict[str, float]]  # the metrics of each logged step


def learning_rate_factor(step: float, steps: int, warmup: int) -> float:
    """Linear warm-up to 1, then half a cosine to 0; a pure function of the step."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def make_optimizer(
    model: Classifier, config: TrainConfig, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW over the model's parameter groups (head, trunk layers, no decay on norms)."""
    groups = param_groups(
        model,
        lr_head=config.lr_head,
        lr_trunk=config.lr_trunk,
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
    )
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=device.type == "cuda")


def train(
    model: Classifier,
    batches: Iterable[Batch],
    step: Step,
    config: TrainConfig,
    *,
    device: torch.device,
    on_step: Callable[[int, dict[str, float] | None], None] | None = None,
    checkpoints: Checkpoints | None = None,
    resumed: Checkpoint | None = None,
    pace: Pace | None = None,
    best: Best | None = None,
) -> Result:
    """Train ``model``, in place, for ``config.steps`` steps and return its moving average.

    The body is long so that a step reads in one piece, from the learning rate to the checkpoint.
    With several ranks (``tutelage.system.ranks``) each trains on its share of every batch, and all
    end with the same model. On cuda the forward runs in bfloat16.

    What ``step`` remembers from step to step is its ``state_dict``. ``on_step`` is called with each
    step's number (from 1), and every ``config.log_every`` steps with its metrics, else None. The
    training is saved to ``checkpoints`` as it goes, and when SIGTERM comes, which raises
    ``Terminated``; it goes on from ``resumed``, one of them, with ``batches`` that begin after its
    steps. ``pace`` may end it earlier; then its learning rates fall faster. ``best`` looks at the
    average meanwhile: its best state is returned, and it ends what only makes the model worse.
    """
    model.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(model, config, device)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    training = Training(
        model, EMA(model, config.ema_decay), optimizer, step, pace or Pace(config.steps), best
    )
    number = done = 0 if resumed is None else training.restore(resumed)
    if best is not None and resumed is None:
        best.begin(training.ema.model)
    learner = parallel(model)
    whole = config.schedule_steps or config.steps
    warmup = max(1, round(config.warmup * whole))
    first_bad = torch.full((), config.steps + 1, device=device)
    numbers = takewhile(training.goes_on, count(done + 1))
    with deferred() as asked_to_stop:
        for number, batch in zip(numbers, batches, strict=False):
            place = config.schedule_first + training.pace.planned_step(number) - 1
            factor = learning_rate_factor(place, whole, warmup)
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * factor
            bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
            with bfloat16, whole_batch(batch.view_sizes):
                loss, metrics = step(learner, batch.to(device))
            optimizer.zero_grad(set_to_none=True)
            # Every rank has the loss of the whole batch, but only its own part of the gradient;
            # ``parallel`` takes the mean of the parts.
            (loss * current().world).backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(training.trained, config.clip_norm)
            finite = torch.isfinite(loss.detach()) & torch.isfinite(norm)
            first_bad = torch.where(finite, first_bad, first_bad.clamp_max(number))
            logged = number % config.log_every == 0 or number == training.pace.steps
            stopping = any_of(asked_to_stop())
            saved = checkpoints is not None and (stopping or checkpoints.due())
            # Reading a value back stalls a GPU's queue, so there it waits for the next log line.
            if device.type == "cpu" or logged or saved:
                _require_finite(int(first_bad), config)
            optimizer.step()
            training.ema.update(model)
            row = None
            if logged:
                row = {"step": float(number), "grad_norm": float(norm)}
                row.update({name: float(value) for name, value in metrics.items()})
                training.history.append(row)
            if on_step is not None:
                on_step(number, row)
            training.after(number)
            if saved and checkpoints is not None:
                checkpoints.save(number, *training.state())
            if stopping:
                raise Terminated
    if training.goes_on(number + 1):
        raise TutelageError(f"the batches ran out after step {number} of {training.pace.steps}")
    average = training.ema.model
    return Result(average if best is None else best.restore(average), training.history)


@dataclass
class Training:
    """All that a training's next step depends on, besides its batch and its number."""

    model: Classifier
    ema: EMA[Classifier]
    optimizer: torch.optim.Optimizer
    step: Step
    pace: Pace
    best: Best | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def goes_on(self, number: int) -> bool:
        """Whether step ``number`` is to be made."""
        return number <= self.pace.steps and not (self.best is not None and self.best.in_vain)

    def after(self, number: int) -> None:
        """Look at the time, and at the average, after step ``number``."""
        self.pace.after(number)
        if self.best is not None:
            self.best.after(number, self.pace.steps, self.ema.model)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts for a checkpoint: weights, average, moments, generators, statistics.

        The schedule and the order of the images are functions of the step's number.
        """
        tensors = {"generator": torch.get_rng_state()}
        if self.trained[0].is_cuda:  # whose own generator then draws the noise
            tensors["generator.cuda"] = torch.cuda.get_rng_state()
        remembered = self.step.state_dict() if hasattr(self.step, "state_dict") else {}
        parts = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "step": remembered,
            "best": {} if self.best is None else self.best.state_dict(),
            **{f"optimizer.{i}": self.optimizer.state[p] for i, p in enumerate(self.trained)},
        }
        for part, state in parts.items():
            tensors |= {f"{part}.{name}": value for name, value in state.items()}
        return tensors, {"history": self.history}

    def restore(self, saved: Checkpoint) -> int:
        """Put everything back as it was saved, and return the number of steps made by then."""

        def part(name: str) -> dict[str, Tensor]:
            start = f"{name}."
            found = saved.tensors.items()
            return {key.removeprefix(start): t for key, t in found if key.startswith(start)}

        self.model.load_state_dict(part("model"))
        self.ema.load_state_dict(part("ema"))
        if hasattr(self.step, "load_state_dict"):
            self.step.load_state_dict(part("step"))
        if self.best is not None:
            self.best.load_state_dict(part("best"))
        self.pace.resume(saved.step)
        for i, parameter in enumerate(self.trained):
            for name, value in part(f"optimizer.{i}").items():
                # In the optimiser's own memory layout, or sums would round differently.
                like = parameter if value.shape == parameter.shape else value
                self.optimizer.state[parameter][name] = torch.empty_like(like).copy_(value)
        torch.set_rng_state(saved.tensors["generator"])
        if self.trained[0].is_cuda and "generator.cuda" in saved.tensors:
            torch.cuda.set_rng_state(saved.tensors["generator.cuda"])
        self.history = list(saved.facts["history"])
        return saved.step

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that learn, in the optimiser's order."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _require_finite(first_bad: int, config: TrainConfig) -> None:
    if first_bad <= config.steps:
        raise TutelageError(
            f"the loss or its gradient was not finite at step {first_bad} of {config.steps}; "
            f"lower the learning rates (now {config.lr_head:g} head, {config.lr_trunk:g} trunk) "
            "or look for broken images"
        )
