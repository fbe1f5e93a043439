"""The stages of the chain. Each runs once on all labels, and once per fold to be judged.

A stage sees the training images and the images it is judged on, never the test images: a ``Task``
does not hold them.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.augment import Center
from tutelage.config import RunConfig, TransferConfig
from tutelage.data.split import folds
from tutelage.heads.bank import Bank, look
from tutelage.heads.probe import (
    Head,
    Metric,
    choose,
    fit_head,
    fit_heads,
    plain_metric,
    pretrained_metric,
    span_metric,
)
from tutelage.losses.class_weights import inverse_frequency
from tutelage.losses.logit_adjustment import log_prior
from tutelage.models.classifier import Classifier
from tutelage.models.forward import Forward
from tutelage.models.zoo import without_levels
from tutelage.stats.calibrate import fit_temperature, softmax
from tutelage.stats.metrics import Floats, Ints
from tutelage.stats.pseudo_labels import PseudoLabels
from tutelage.stats.unknown import energy, fit_limit
from tutelage.training.loader import Canvases, Examples, Rows

PROBE_STRENGTH = 10.0
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)  # rising: each fit starts from the one before
LAST = ("plain", "pretrained")  # the metrics of the trunk's last features
GUARD = 2.33  # standard errors by which what is rarely better must be better: 1%, one-sided
GUARD_LABELS = 40  # held-out labels from which on a frozen trunk needs fewer of them
IMBALANCED = 2.0  # times as many labels in the largest class as in the smallest


@dataclass(frozen=True)
class Fold:
    """One line of models through all stages.

    Attributes:
        keep: (n,) bool, the labels it may learn from.
        judges: positions among the judged images that it has not seen.
    """

    keep: NDArray[np.bool_]
    judges: Rows


@dataclass(frozen=True)
class Task:
    """All that training and choosing may see.

    Attributes:
        canvases: pixels by store row.
        labeled: (n,) store rows with labels.
        labels: (n,) their classes.
        pool: (M,) store rows without labels.
        judged: (J,) store rows that stages are compared on: the labelled images by folds, or val.
        judged_labels: (J,) their classes.
        folds: the one that keeps all labels first, then those that hold some out.
        n_classes: K.
    """

    canvases: Canvases
    labeled: Rows
    labels: Ints
    pool: Rows
    judged: Rows
    judged_labels: Ints
    folds: tuple[Fold, ...]
    n_classes: int


def make_folds(labels: Ints, n_val: int, n_folds: int, seed: int) -> tuple[Fold, ...]:
    """Chains for choices on ``val`` if there is one, else on folds of the labels.

    A class with a single label always stays in training and is not judged: without it there
    would be nothing to learn the class from.
    """
    everything = np.ones(len(labels), dtype=bool)
    if n_val:
        return (Fold(everything, np.arange(n_val)),)
    counts = np.bincount(labels)
    judged = np.flatnonzero(counts[labels] >= 2)
    chains = [Fold(everything, np.arange(0))]
    if len(judged) >= 2:
        ids = folds(labels[judged], n_folds, seed)
        for fold in range(int(ids.max()) + 1):
            held_out = judged[ids == fold]
            keep = everything.copy()
            keep[held_out] = False
            chains.append(Fold(keep, held_out))
    return tuple(chains)


@dataclass
class Beliefs:
    """What one stage believes.

    Attributes:
        pool: per chain (M, K) logits over the pool, the mean of the centre view and its mirror
            image; None for a chain that was not run.
        judged: (J, K) held-out logits of the centre view; NaN rows where no chain judged.
    """

    pool: list[Floats | None]
    judged: Floats

    @property
    def known(self) -> NDArray[np.bool_]:
        """(J,) which judged images have a held-out prediction."""
        return np.asarray(np.isfinite(self.judged).all(axis=1))


@dataclass
class Outcome:
    """A stage's model on all labels, its beliefs, and what it learned from.

    Attributes:
        model: the classifier; its spec holds the fitted temperature.
        beliefs: over the pool and the judged images.
        frozen: the trunk is the pretrained one, untouched.
        pseudo_labels: what the pool was taken for, on all labels; None without a pool.
        choice: what was chosen on held-out labels, for the stages after it and the report.
        remark: in words, for a stage that is not compared with the one before it.
    """

    model: Classifier
    beliefs: Beliefs
    frozen: bool
    pseudo_labels: PseudoLabels | None = None
    choice: dict[str, Any] = dataclasses.field(default_factory=dict)
    remark: str = ""


@dataclass(frozen=True)
class Frozen:
    """The pretrained trunk's features of the task's images, and the metrics heads are fitted in."""

    labeled: Bank
    pool: Bank
    judged: Bank
    metrics: dict[str, Metric]


def make_frozen(
    labeled: Bank, pool: Bank, judged: Bank, own: int, pretrained_head: Tensor | None
) -> Frozen:
    """Fit the metrics on the centre views of all training images, labelled or not.

    Args:
        labeled: features of the labelled images.
        pool: of the pool.
        judged: of the images that choices are made on.
        own: how many features are the trunk's own; those after them are of its middle stages.
        pretrained_head: (K', own) weight of the pretrained fc layer, if there is one.
    """
    center = torch.cat([labeled.views[0], pool.views[0]])
    return Frozen(labeled, pool, judged, head_metrics(center, own, pretrained_head))


def head_metrics(center: Tensor, own: int, pretrained_head: Tensor | None) -> dict[str, Metric]:
    """The metrics that heads are fitted in, from the centre views (N, D) of all images.

    Args:
        center: features.
        own: as in ``make_frozen``.
        pretrained_head: the same.
    """
    metrics = {"plain": plain_metric(center, slice(own))}
    if pretrained_head is not None:
        metrics["pretrained"] = pretrained_metric(center, pretrained_head)
    if center.shape[1] > own:
        metrics["levels"] = plain_metric(center, slice(own, None))
    return metrics


def _logits(head: Head, views: Sequence[Tensor]) -> Floats:
    return torch.stack([head(view) for view in views]).mean(dim=0).numpy().astype(np.float64)


def _beliefs(task: Task, heads: Sequence[Head], frozen: Frozen) -> Beliefs:
    """Beliefs of one head per chain on the frozen features."""
    pool: list[Floats | None] = [_logits(head, frozen.pool.clean()) for head in heads]
    return Beliefs(pool, _judged(task, heads, frozen))


def _judged(task: Task, heads: Sequence[Head], frozen: Frozen) -> Floats:
    """Held-out logits (J, K) of one head per chain, on the view that a model is deployed with."""
    judged = np.full((len(task.judged), task.n_classes), np.nan)
    for chain, head in zip(task.folds, heads, strict=True):
        judged[chain.judges] = _logits(head, frozen.judged.take(chain.judges).views[:1])
    return judged


def temperature_of(task: Task, beliefs: Beliefs) -> float:
    """Temperature fitted on the held-out predictions."""
    known = beliefs.known
    targets = np.eye(task.n_classes)[task.judged_labels[known]]
    return fit_temperature(beliefs.judged[known], targets)


def one_hot(labels: Ints, n_classes: int) -> Tensor:
    """(n, K) float32 targets."""
    return torch.eye(n_classes)[torch.from_numpy(np.asarray(labels, dtype=np.int64))]


def labeled_examples(task: Task, chain: Fold) -> Examples:
    """The labels that a chain may learn from."""
    targets = one_hot(task.labels[chain.keep], task.n_classes)
    return Examples(task.labeled[chain.keep], targets, torch.ones(len(targets)))


def unlabeled(task: Task, rows: Rows) -> Examples:
    """Images of the pool (N,) without targets, for steps whose targets come from a model."""
    n = len(rows)
    return Examples(rows, torch.zeros(n, task.n_classes), torch.zeros(n))


def with_head(model: Classifier, head: Head) -> Classifier:
    """A copy of ``model`` with another head; without levels that the head does not look at."""
    own = model.own_features
    if model.spec.levels and not head.weight[:, own:].any():
        model, head = without_levels(model), Head(head.weight[:, :own], head.bias)
    model = copy.deepcopy(model)
    set_head(model, head)
    return model


@torch.no_grad()
def set_head(model: Classifier, head: Head) -> None:
    """Copy a fitted head into the model's own."""
    model.head.weight.copy_(head.weight)
    model.head.bias.copy_(head.bias)


def unknown_threshold_of(beliefs: Beliefs) -> float | None:
    """The energy that about 95% of held-out predictions stay below; None without any."""
    known = beliefs.known
    return fit_limit(energy(beliefs.judged[known])).value if known.any() else None


def set_calibration(model: Classifier, temperature: float, unknown_threshold: float | None) -> None:
    """Record what makes the model's probabilities calibrated, and when it knows no answer."""
    model.spec = dataclasses.replace(
        model.spec, temperature=temperature, unknown_threshold=unknown_threshold
    )


def evaluation_look(
    canvases: Canvases,
    rows: Rows,
    model: Classifier,
    device: torch.device,
    output: Literal["logits", "features"] = "logits",
    *,
    views: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Outputs (N, ...) on the view that the model is deployed with; it ends up on the CPU.

    With 2 views, the mean of the outputs on it and on its mirror image.
    """
    forward = Forward(model.to(device), output)
    center, size = Center(model.spec.crop_pct), model.spec.input_size
    sides = [
        look(canvases, rows, center, forward, size, mirrored=mirrored, progress=progress)
        for mirrored in (False, True)[:views]
    ]
    model.cpu()
    return torch.stack(sides).mean(dim=0)


def probe(
    task: Task, base: Classifier, frozen: Frozen, config: TransferConfig | None = None
) -> Outcome:
    """Stage "probe": logistic regression on the centre view's features, nothing else.

    Where ``config`` asks to balance the classes it does, so that what follows is not compared
    with a model that was free to leave the rare ones out.
    """
    balance = _balances("none" if config is None else config.balance, task)[-1]
    heads = []
    for chain in task.folds:
        targets = one_hot(task.labels[chain.keep], task.n_classes)
        balancing = balance_of(balance, targets.sum(dim=0))
        heads.append(
            fit_head(
                frozen.labeled.views[0][chain.keep],
                balancing.targets(targets),
                torch.ones(len(targets)),
                frozen.metrics["plain"],
                strength=PROBE_STRENGTH,
                log_prior=balancing.log_prior,
            )
        )
    beliefs = _beliefs(task, heads, frozen)
    model = with_head(base, heads[0])
    set_calibration(model, temperature_of(task, beliefs), unknown_threshold_of(beliefs))
    return Outcome(model, beliefs, frozen=True)


def transfer_frozen(
    task: Task, base: Classifier, frozen: Frozen, config: TransferConfig | None = None
) -> Outcome:
    """Stage "transfer" with a frozen trunk: a new head over several augmented views.

    The metric (the trunk's own features, plain or with the pretrained fc layer as a prior; or those
    of its middle stages) and, if it is "auto", the balance are those with the best held-out
    likelihood. Another strength than the usual one, and the middle stages, must be better beyond
    chance: a few labels call them better where they are worse. ``choice["trained"]`` is what a
    trained trunk starts from: from there the middle stages must be better by more, because the
    last stages, which their head does not read, learn to be better (docs/log.md).

    Args:
        task: what may be seen.
        base: the pretrained trunk.
        frozen: its features.
        config: for ``features`` and ``balance``; None for the defaults.
    """
    config = TransferConfig() if config is None else config
    balances = _balances(config.balance, task)
    grid: list[tuple[dict[str, Any], tuple[Head, ...]]] = []
    for name in _metric_names(frozen, config):
        whole = frozen.metrics[name]
        metric = span_metric(whole, torch.cat(frozen.labeled.views))
        for balance in balances:
            paths = _paths(task, frozen, metric, balance)
            for strength, heads in zip(STRENGTHS, zip(*paths, strict=True), strict=True):
                grid.append(({"metric": name, "strength": strength, "balance": balance}, heads))
    losses = np.stack([held_out_losses(task, _judged(task, heads, frozen)) for _, heads in grid])
    if balances != ("none",):  # asked to serve all classes alike, so they are judged alike
        losses = losses * _judged_weights(task)
    # The last features come first; where the user wants none of them, all are alike.
    last = sum(choice["metric"] in LAST for choice, _ in grid) or len(grid)
    usual = [i for i in range(last) if grid[i][0]["strength"] == PROBE_STRENGTH]
    default = usual[choose(losses[usual], 0)]
    falling = guard(losses.shape[1])
    rival = choose(losses[:last], default)  # what the middle stages must be better than
    stands = choose(losses[:last], default, guard=falling)  # where they are not

    def chosen(errors: float) -> int:
        best = choose(losses, rival, guard=errors)
        return best if best >= last else stands

    best, start = chosen(falling), chosen(GUARD)
    choice, heads = {**grid[best][0], "trained": grid[start][0]}, grid[best][1]
    choice["held_out_nll"] = float(losses[best].mean()) if losses.shape[1] else 0.0
    beliefs = _beliefs(task, heads, frozen)
    model = with_head(base, heads[0])
    set_calibration(model, temperature_of(task, beliefs), unknown_threshold_of(beliefs))
    return Outcome(model, beliefs, frozen=True, choice=choice)


def guard(n: int) -> float:
    """Standard errors by which what is rarely better must be better on ``n`` held-out labels.

    What is known before, that middle stages and other strengths are rarely better, counts as some
    labels do, and more labels outweigh it: the bar of a Gaussian belief falls as ``1 / sqrt(n)``.
    Where labels are so few that it would never be met, it stays where it is.
    """
    return GUARD * math.sqrt(min(1.0, GUARD_LABELS / max(1, n)))


def _metric_names(frozen: Frozen, config: TransferConfig) -> list[str]:
    """The metrics to choose from; those of the last features where the trunk shows no others."""
    if config.features == "levels" and "levels" in frozen.metrics:
        return ["levels"]
    return [name for name in frozen.metrics if config.features == "auto" or name in LAST]


def _paths(task: Task, frozen: Frozen, metric: Metric, balance: str) -> list[list[Head]]:
    """Per chain, a head over all views of its labels for each of ``STRENGTHS``."""
    mapped = Bank(tuple(metric(view) for view in frozen.labeled.views))
    paths = []
    for chain in task.folds:
        examples = labeled_examples(task, chain)
        views = mapped.take(np.flatnonzero(chain.keep)).views
        v = len(views)
        balancing = balance_of(balance, examples.weights @ examples.targets)
        paths.append(
            fit_heads(
                torch.cat(views),
                balancing.targets(examples.targets).repeat(v, 1),
                examples.weights.repeat(v) / v,
                metric,
                strengths=STRENGTHS,
                log_prior=balancing.log_prior,
            )
        )
    return paths


def held_out_losses(task: Task, judged: Floats) -> Floats:
    """Negative log-likelihoods (J',) of held-out logits (J, K) at the fitted temperature."""
    beliefs = Beliefs([], judged)
    known = beliefs.known
    probs = softmax(judged[known], temperature_of(task, beliefs))
    true = probs[np.arange(len(probs)), task.judged_labels[known]]
    return np.asarray(-np.log(np.clip(true, 1e-12, 1.0)))


def _judged_weights(task: Task) -> Floats:
    """Weights (J',) of the judged images by which every class counts the same; their mean is 1."""
    judges = np.unique(np.concatenate([chain.judges for chain in task.folds]))
    labels = task.judged_labels[judges]
    counts = torch.from_numpy(np.bincount(labels, minlength=task.n_classes)).double()
    return np.asarray(inverse_frequency(counts).numpy()[labels])


def _balances(setting: str, task: Task) -> tuple[str, ...]:
    """The balances to try; "auto" tries an adjustment only where the labels are imbalanced."""
    if setting != "auto":
        return (setting,)
    counts = np.bincount(task.labels, minlength=task.n_classes)
    imbalanced = counts.max() >= IMBALANCED * counts.min()
    return ("none", "logit-adjustment") if imbalanced else ("none",)


@dataclass(frozen=True)
class Balancing:
    """What training does about classes of unequal frequency; never part of the model.

    Attributes:
        class_weights: (K,) weight of each class in the loss, or None.
        log_prior: (K,) to add to the logits in the loss, or None.
    """

    class_weights: Tensor | None = None
    log_prior: Tensor | None = None

    def targets(self, targets: Tensor) -> Tensor:
        """Targets (N, K) times the weight of each class."""
        return targets if self.class_weights is None else targets * self.class_weights


def balance_of(balance: str, counts: Tensor) -> Balancing:
    """The balancing called ``balance`` for ``counts`` (K,) images of each class in training."""
    if balance == "weights":
        return Balancing(class_weights=inverse_frequency(counts))
    if balance == "logit-adjustment":
        return Balancing(log_prior=log_prior(counts))
    return Balancing()


def chosen_balance(config: TransferConfig, choice: dict[str, Any]) -> str:
    """The user's balance or, if that is "auto", the one that ``transfer_frozen`` chose."""
    return str(choice.get("balance", "none")) if config.balance == "auto" else config.balance


def _head(
    task: Task,
    chain: Fold,
    frozen: Frozen,
    metric: Metric,
    strength: float,
    beliefs: tuple[Rows, Tensor] | None = None,
    *,
    balance: str = "none",
) -> Head:
    """A head over all views of the chain's labels and, if given, of the believed pool images."""
    labeled = frozen.labeled.take(np.flatnonzero(chain.keep))
    n = int(chain.keep.sum())
    targets = labeled_examples(task, chain).targets
    weights = torch.ones(n)
    views = labeled.views
    if beliefs is not None and len(beliefs[0]):
        positions, believed = beliefs
        pool = frozen.pool.take(positions)
        views = tuple(torch.cat(pair) for pair in zip(views, pool.views, strict=True))
        targets = torch.cat([targets, believed.float()])
        # Labels and beliefs weigh half each; together they grow with the share of the pool.
        total = n * (1 + 2 * len(positions) / len(frozen.pool.views[0]))
        weights = torch.cat(
            [
                torch.full((n,), total / (2 * n)),
                torch.full((len(positions),), total / (2 * len(positions))),
            ]
        )
    v = len(views)
    balancing = balance_of(balance, weights @ targets)
    return fit_head(
        torch.cat(views),
        balancing.targets(targets).repeat(v, 1),
        weights.repeat(v) / v,
        metric,
        strength=strength,
        log_prior=balancing.log_prior,
    )


def believed_targets(labels: PseudoLabels, config: RunConfig) -> tuple[Rows, Tensor]:
    """Positions (A,) of the accepted pool images, and their targets (A, K)."""
    taken = np.flatnonzero(labels.accepted)
    targets = labels.targets(config.self_train.pseudo_labels)
    return taken, torch.from_numpy(targets[taken])


def self_train_frozen(
    task: Task,
    base: Classifier,
    frozen: Frozen,
    labels: Sequence[PseudoLabels | None],
    choice: dict[str, Any],
    config: RunConfig,
) -> Outcome:
    """A round whose student is a head on the frozen trunk, noised by the bank's views."""
    heads = fit_chain_heads(task, frozen, choice, config, labels)
    beliefs = _beliefs(task, heads, frozen)
    model = with_head(base, heads[0])
    set_calibration(model, temperature_of(task, beliefs), unknown_threshold_of(beliefs))
    return Outcome(model, beliefs, frozen=True, pseudo_labels=labels[0], choice=choice)


def fit_chain_heads(
    task: Task,
    frozen: Frozen,
    choice: dict[str, Any],
    config: RunConfig,
    labels: Sequence[PseudoLabels | None],
) -> list[Head]:
    """Heads on the labels and what is believed of the pool, one per chain.

    A frozen round is these heads; a trained one starts from them. Linear probing, then
    fine-tuning: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained
    Features and Underperform Out-of-Distribution".
    """
    metric = frozen.metrics[choice["metric"]]
    return [
        _head(
            task,
            chain,
            frozen,
            metric,
            choice["strength"],
            None if believed is None else believed_targets(believed, config),
            balance=chosen_balance(config.transfer, choice),
        )
        for chain, believed in zip(task.folds, labels, strict=True)
    ]
