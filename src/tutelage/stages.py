"""The stages of the chain. Each runs once on all labels, and once per fold to be judged.

A stage sees the training images and the images it is judged on, never the test images: a ``Task``
does not hold them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.augment import Center, Policy, RandAugment, Strong, TrivialAugment, Weak
from tutelage.bank import Bank, look
from tutelage.batch import Step
from tutelage.calibrate import fit_temperature, softmax
from tutelage.config import RunConfig, TrainConfig, TransferConfig
from tutelage.data.split import folds
from tutelage.label import PseudoLabels, align, confusion, estimate_prior, select
from tutelage.loader import Canvases, Examples, Loader, Rows, Views
from tutelage.metrics import Floats, Ints, nll
from tutelage.models.classifier import Classifier
from tutelage.models.forward import Forward
from tutelage.plan import Work
from tutelage.probe import Head, Metric, fit_head, plain_metric, pretrained_metric
from tutelage.steps.online import OnlinePseudoLabelStep
from tutelage.steps.supervised import supervised_step
from tutelage.train import Result, train

PROBE_STRENGTH = 10.0
STRENGTHS = (3.0, 30.0)
LABELED_SHARE = 0.25  # of a batch, and of the weight, goes to the true labels


@dataclass(frozen=True)
class Chain:
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
        chains: the chain on all labels first, then one per fold.
        n_classes: K.
    """

    canvases: Canvases
    labeled: Rows
    labels: Ints
    pool: Rows
    judged: Rows
    judged_labels: Ints
    chains: tuple[Chain, ...]
    n_classes: int


def make_chains(labels: Ints, n_val: int, n_folds: int, seed: int) -> tuple[Chain, ...]:
    """Chains for choices on ``val`` if there is one, else on folds of the labels.

    A class with a single label always stays in training and is not judged: without it there
    would be nothing to learn the class from.
    """
    everything = np.ones(len(labels), dtype=bool)
    if n_val:
        return (Chain(everything, np.arange(n_val)),)
    counts = np.bincount(labels)
    judged = np.flatnonzero(counts[labels] >= 2)
    chains = [Chain(everything, np.arange(0))]
    if len(judged) >= 2:
        ids = folds(labels[judged], n_folds, seed)
        for fold in range(int(ids.max()) + 1):
            held_out = judged[ids == fold]
            keep = everything.copy()
            keep[held_out] = False
            chains.append(Chain(keep, held_out))
    return tuple(chains)


@dataclass
class Beliefs:
    """What one stage believes.

    Attributes:
        pool: per chain (M, K) logits over the pool, un-noised; None for a chain that was not run.
        judged: (J, K) held-out logits; NaN rows where no chain judged.
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
    """

    model: Classifier
    beliefs: Beliefs
    frozen: bool
    pseudo_labels: PseudoLabels | None = None
    choice: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Frozen:
    """The pretrained trunk's features of the task's images, and the metrics heads are fitted in."""

    labeled: Bank
    pool: Bank
    judged: Bank
    metrics: dict[str, Metric]


def make_frozen(labeled: Bank, pool: Bank, judged: Bank, pretrained_head: Tensor | None) -> Frozen:
    """Fit the metrics on the centre views of all training images, labelled or not."""
    center = torch.cat([labeled.views[0], pool.views[0]])
    metrics = {"plain": plain_metric(center)}
    if pretrained_head is not None:
        metrics["pretrained"] = pretrained_metric(center, pretrained_head)
    return Frozen(labeled, pool, judged, metrics)


def _logits(head: Head, views: Sequence[Tensor]) -> Floats:
    return torch.stack([head(view) for view in views]).mean(dim=0).numpy().astype(np.float64)


def _beliefs(task: Task, heads: Sequence[Head], frozen: Frozen, *, clean: bool = True) -> Beliefs:
    """Beliefs of one head per chain on the frozen features."""
    judged = np.full((len(task.judged), task.n_classes), np.nan)
    pool: list[Floats | None] = []
    for chain, head in zip(task.chains, heads, strict=True):
        pool.append(_logits(head, frozen.pool.clean() if clean else frozen.pool.views[:1]))
        held_out = frozen.judged.take(chain.judges)
        views = held_out.clean() if clean else held_out.views[:1]
        judged[chain.judges] = _logits(head, views)
    return Beliefs(pool, judged)


def temperature_of(task: Task, beliefs: Beliefs) -> float:
    """Temperature fitted on the held-out predictions."""
    known = beliefs.known
    targets = np.eye(task.n_classes)[task.judged_labels[known]]
    return fit_temperature(beliefs.judged[known], targets)


def one_hot(labels: Ints, n_classes: int) -> Tensor:
    """(n, K) float32 targets."""
    return torch.eye(n_classes)[torch.from_numpy(np.asarray(labels, dtype=np.int64))]


def labeled_examples(task: Task, chain: Chain) -> Examples:
    """The labels that a chain may learn from."""
    targets = one_hot(task.labels[chain.keep], task.n_classes)
    return Examples(task.labeled[chain.keep], targets, torch.ones(len(targets)))


def unlabeled(task: Task) -> Examples:
    """The whole pool without targets, for steps whose targets come from a model."""
    n = len(task.pool)
    return Examples(task.pool, torch.zeros(n, task.n_classes), torch.zeros(n))


def with_head(model: Classifier, head: Head) -> Classifier:
    """A copy of ``model`` with another head."""
    import copy

    model = copy.deepcopy(model)
    set_head(model, head)
    return model


@torch.no_grad()
def set_head(model: Classifier, head: Head) -> None:
    """Copy a fitted head into the model's own."""
    model.head.weight.copy_(head.weight)
    model.head.bias.copy_(head.bias)


def set_temperature(model: Classifier, temperature: float) -> None:
    """Record the temperature that makes the model's probabilities calibrated."""
    model.spec = dataclasses.replace(model.spec, temperature=temperature)


def evaluation_look(
    canvases: Canvases,
    rows: Rows,
    model: Classifier,
    device: torch.device,
    output: Literal["logits", "features"] = "logits",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Outputs (N, ...) on the view that the model is deployed with; it ends up on the CPU."""
    forward = Forward(model.to(device), output)
    center = Center(model.spec.crop_pct)
    outputs = look(canvases, rows, center, forward, model.spec.input_size, progress=progress)
    model.cpu()
    return outputs


def probe(task: Task, base: Classifier, frozen: Frozen) -> Outcome:
    """Stage "probe": logistic regression on the centre view's features, nothing else."""
    heads = [
        fit_head(
            frozen.labeled.views[0][chain.keep],
            one_hot(task.labels[chain.keep], task.n_classes),
            torch.ones(int(chain.keep.sum())),
            frozen.metrics["plain"],
            strength=PROBE_STRENGTH,
        )
        for chain in task.chains
    ]
    beliefs = _beliefs(task, heads, frozen, clean=False)
    model = with_head(base, heads[0])
    set_temperature(model, temperature_of(task, beliefs))
    return Outcome(model, beliefs, frozen=True)


def transfer_frozen(task: Task, base: Classifier, frozen: Frozen) -> Outcome:
    """Stage "transfer" with a frozen trunk: a new head over several augmented views.

    The metric (plain, or with the pretrained fc layer as a prior) and the strength are those
    with the best held-out likelihood.
    """
    best: tuple[float, Outcome] | None = None
    for name, metric in frozen.metrics.items():
        for strength in STRENGTHS:
            heads = [_head(task, chain, frozen, metric, strength) for chain in task.chains]
            beliefs = _beliefs(task, heads, frozen)
            temperature = temperature_of(task, beliefs)
            known = beliefs.known
            score = (
                nll(softmax(beliefs.judged[known], temperature), task.judged_labels[known])
                if known.any()
                else 0.0
            )
            if best is None or score < best[0]:
                model = with_head(base, heads[0])
                set_temperature(model, temperature)
                choice = {"metric": name, "strength": strength, "held_out_nll": score}
                best = (score, Outcome(model, beliefs, frozen=True, choice=choice))
    assert best is not None  # "plain" is always there
    return best[1]


def _head(
    task: Task,
    chain: Chain,
    frozen: Frozen,
    metric: Metric,
    strength: float,
    beliefs: tuple[Rows, Tensor] | None = None,
) -> Head:
    """A head over all views of the chain's labels and, if given, of the believed pool images."""
    labeled = frozen.labeled.take(np.flatnonzero(chain.keep))
    n = int(chain.keep.sum())
    targets = one_hot(task.labels[chain.keep], task.n_classes)
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
    return fit_head(
        torch.cat(views), targets.repeat(v, 1), weights.repeat(v) / v, metric, strength=strength
    )


def label_pool(
    task: Task, teacher: Beliefs, temperature: float, config: RunConfig, fraction: float
) -> list[PseudoLabels | None]:
    """Pseudo-labels per chain: calibrated, aligned to the pool's estimated classes, selected.

    A calibrated teacher's mean confidence is the share it expects to get right; ``fraction`` of
    that is accepted, so that a weak teacher passes on less of the pool than a strong one.
    """
    known = teacher.known
    probs = softmax(teacher.judged[known], temperature)
    rates = confusion(probs, task.judged_labels[known], task.n_classes)
    out: list[PseudoLabels | None] = []
    for chain, logits in zip(task.chains, teacher.pool, strict=True):
        if logits is None or len(logits) == 0:
            out.append(None)
            continue
        beliefs = softmax(logits, temperature)
        prior = estimate_prior(beliefs.mean(axis=0), rates, task.labels[chain.keep])
        beliefs = align(beliefs, prior, strength=config.self_train.alignment)
        expected = float(beliefs.max(axis=1).mean())
        out.append(select(beliefs, fraction=fraction * expected))
    return out


def _believed(labels: PseudoLabels, config: RunConfig) -> tuple[Rows, Tensor]:
    taken = np.flatnonzero(labels.accepted)
    targets = labels.targets(hard=config.self_train.pseudo_labels == "hard")
    return taken, torch.from_numpy(targets[taken])


def self_train_frozen(
    task: Task,
    base: Classifier,
    frozen: Frozen,
    teacher: Beliefs,
    temperature: float,
    choice: dict[str, Any],
    config: RunConfig,
    work: Work,
) -> Outcome:
    """A round whose student is a head on the frozen trunk, noised by the bank's views."""
    labels = label_pool(task, teacher, temperature, config, work.fraction)
    heads = fit_chain_heads(task, frozen, choice, config, labels)
    beliefs = _beliefs(task, heads, frozen)
    model = with_head(base, heads[0])
    set_temperature(model, temperature_of(task, beliefs))
    return Outcome(model, beliefs, frozen=True, pseudo_labels=labels[0], choice=choice)


def strong_policy(config: TransferConfig) -> Policy:
    """The view a student learns from; ``augment`` is no longer "auto": the search came before."""
    if config.augment == "auto":
        raise ValueError("'auto' was not resolved; settings come from the run folder's config.json")
    view = Weak(scale=(config.crop_scale, 1.0))
    if config.augment == "none":
        return view
    if config.augment == "trivialaugment":
        return Strong(augment=TrivialAugment(view=view))
    augment = RandAugment(config.num_ops, float(config.magnitude), view=view)
    return Strong(augment=augment)


def train_config(config: RunConfig, work: Work, **changes: Any) -> TrainConfig:
    """The loop's settings for one work."""
    t = config.transfer
    settings = TrainConfig(
        steps=work.steps,
        lr_head=t.lr_head,
        lr_trunk=t.lr_trunk,
        layer_decay=t.layer_decay,
        weight_decay=t.weight_decay,
        optimizer=t.optimizer,
    )
    return dataclasses.replace(settings, **changes)


@dataclass(frozen=True)
class Workshop:
    """What trained stages need besides the task."""

    config: RunConfig
    device: torch.device
    seed: int
    progress: Callable[[str, int], Any]


def fit(
    shop: Workshop,
    model: Classifier,
    step: Step,
    loader: Loader,
    settings: TrainConfig,
    label: str,
) -> Classifier:
    """Run the loop on a copy of ``model`` and return the averaged model on the CPU."""
    import copy

    model = copy.deepcopy(model)
    torch.manual_seed(shop.seed)  # dropout and stochastic depth draw from torch's own generator
    with shop.progress(label, settings.steps) as done:
        result: Result = train(
            model, loader, step, settings, device=shop.device, on_step=lambda n, row: done(n)
        )
    return result.model.cpu().to(memory_format=torch.contiguous_format)


def train_trunk(
    shop: Workshop,
    task: Task,
    base: Classifier,
    heads: Sequence[Head],
    labels: Sequence[PseudoLabels | None],
    work: Work,
    judged_folds: int,
    name: str,
) -> Outcome:
    """A stage that trains trunk and head together, from the pretrained trunk and a fitted head.

    On labels alone this is "transfer"; with pseudo-labels it is a round of self-training, whose
    student is noised by strong views, mixing, dropout and stochastic depth; with
    ``work.trunk == "online"`` the student labels its own weak views as it learns.
    """
    judged = np.full((len(task.judged), task.n_classes), np.nan)
    pool: list[Floats | None] = [None] * len(task.chains)
    models = []
    run = range(len(task.chains)) if judged_folds >= len(task.chains) else range(1 + judged_folds)
    for number in run:
        chain = task.chains[number]
        label = name if number == 0 else f"{name}, fold {number}"
        model = _train_chain(shop, task, chain, base, heads[number], labels[number], work, label)
        # Wider than a quarter of a batch is not needed for a forward; the device stays the run's.
        forward = Forward(model.to(shop.device), "logits")
        views = [(Center(model.spec.crop_pct), False), (Center(model.spec.crop_pct), True)]

        def clean_logits(rows: Rows, forward: Any = forward, views: Any = views) -> Floats:
            sides = [
                look(task.canvases, rows, policy, forward, work.size, mirrored=mirrored)
                for policy, mirrored in views
            ]
            return torch.stack(sides).mean(dim=0).numpy().astype(np.float64)

        pool[number] = clean_logits(task.pool)
        judged[chain.judges] = clean_logits(task.judged[chain.judges])
        models.append(model.cpu())
    beliefs = Beliefs(pool, judged)
    set_temperature(models[0], temperature_of(task, beliefs))
    return Outcome(models[0], beliefs, frozen=False, pseudo_labels=labels[0])


def _train_chain(
    shop: Workshop,
    task: Task,
    chain: Chain,
    base: Classifier,
    head: Head,
    labels: PseudoLabels | None,
    work: Work,
    label: str,
) -> Classifier:
    config = shop.config
    model = with_head(base, head)
    model.spec = dataclasses.replace(model.spec, input_size=work.size)
    model.unfreeze_trunk()
    model.freeze_stages(work.frozen_stages)
    model.set_noise(config.transfer.drop_rate, config.transfer.drop_path_rate)
    labeled = labeled_examples(task, chain)
    views = Views(strong_policy(config.transfer), work.size, mix=config.transfer.mix)
    step: Step = supervised_step
    settings = train_config(config, work)
    pool = None
    if work.trunk == "online":
        assert labels is not None  # the planner plans no online round without a pool
        pool = unlabeled(task)
        views = dataclasses.replace(views, mix="none", weak=Weak())
        prior = torch.from_numpy(labels.probs.mean(axis=0)).float().to(shop.device)
        step = OnlinePseudoLabelStep(
            prior,
            threshold=config.self_train.threshold,
            unlabeled_weight=1.0,
            hard=config.self_train.pseudo_labels == "hard",
        )
        settings = dataclasses.replace(settings, ema_decay=0.999)
    elif labels is not None:
        taken, targets = _believed(labels, config)
        pool = Examples(task.pool[taken], targets.float(), torch.ones(len(taken)))
    loader = Loader(
        task.canvases,
        labeled,
        pool,
        views,
        batch_size=work.batch_size,
        labeled_per_batch=max(1, round(LABELED_SHARE * work.batch_size)),
        seed=shop.seed,
    )
    if pool is None:
        # A few labelled images have no batch statistics worth having: keep the pretrained ones.
        model.freeze_norms()
    return fit(shop, model, step, loader, settings, label)


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
            None if believed is None else _believed(believed, config),
        )
        for chain, believed in zip(task.chains, labels, strict=True)
    ]
