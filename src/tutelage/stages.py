"""The stages of the chain. Each runs once on all labels, and once per fold to be judged.

A stage sees the training images and the images it is judged on, never the test images: a ``Task``
does not hold them.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.augment import Center, Policy, RandAugment, Strong, TrivialAugment, Weak
from tutelage.bank import CLEAN_VIEWS, Bank, look
from tutelage.batch import Step
from tutelage.calibrate import fit_temperature, softmax
from tutelage.config import RunConfig, TrainConfig, TransferConfig
from tutelage.data.split import folds
from tutelage.label import PseudoLabels, align, confusion, estimate_prior, revise, select
from tutelage.loader import Canvases, Examples, Loader, Rows, Views
from tutelage.losses.class_weights import inverse_frequency
from tutelage.losses.label_smoothing import smooth_targets
from tutelage.losses.logit_adjustment import log_prior
from tutelage.metrics import Floats, Ints
from tutelage.models.classifier import Classifier
from tutelage.models.forward import Forward
from tutelage.outofclass import Detection, detect, energy, fit_limit, match_threshold
from tutelage.plan import FOLD_STEPS, LABELED_SHARE, Work, pool_share
from tutelage.probe import (
    Head,
    Metric,
    choose,
    fit_head,
    fit_heads,
    plain_metric,
    pretrained_metric,
    span_metric,
)
from tutelage.steps.mean_teacher import MeanTeacherStep
from tutelage.steps.online import (
    FixMatch,
    FlexMatch,
    FreeMatch,
    OnlinePseudoLabelStep,
    SoftMatch,
)
from tutelage.steps.supervised import supervised_step
from tutelage.train import Result, train

PROBE_STRENGTH = 10.0
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)  # rising: each fit starts from the one before
IMBALANCED = 2.0  # times as many labels in the largest class as in the smallest
MATCHED_IMAGES = 1000  # of the pool, at most, by which a temperature is matched
MOMENTUM = 0.99  # of online statistics: the papers' 0.999 is for a million steps, not thousands


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


def _beliefs(task: Task, heads: Sequence[Head], frozen: Frozen) -> Beliefs:
    """Beliefs of one head per chain on the frozen features."""
    pool: list[Floats | None] = [_logits(head, frozen.pool.clean()) for head in heads]
    return Beliefs(pool, _judged(task, heads, frozen))


def _judged(task: Task, heads: Sequence[Head], frozen: Frozen) -> Floats:
    """Held-out logits (J, K) of one head per chain, on the view that a model is deployed with."""
    judged = np.full((len(task.judged), task.n_classes), np.nan)
    for chain, head in zip(task.chains, heads, strict=True):
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


def labeled_examples(task: Task, chain: Chain, *, smoothing: float = 0.0) -> Examples:
    """The labels that a chain may learn from."""
    targets = smooth_targets(one_hot(task.labels[chain.keep], task.n_classes), smoothing)
    return Examples(task.labeled[chain.keep], targets, torch.ones(len(targets)))


def unlabeled(task: Task, rows: Rows) -> Examples:
    """Images of the pool (N,) without targets, for steps whose targets come from a model."""
    n = len(rows)
    return Examples(rows, torch.zeros(n, task.n_classes), torch.zeros(n))


def with_head(model: Classifier, head: Head) -> Classifier:
    """A copy of ``model`` with another head."""
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
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Outputs (N, ...) on the view that the model is deployed with; it ends up on the CPU."""
    forward = Forward(model.to(device), output)
    center = Center(model.spec.crop_pct)
    outputs = look(canvases, rows, center, forward, model.spec.input_size, progress=progress)
    model.cpu()
    return outputs


def probe(
    task: Task, base: Classifier, frozen: Frozen, config: TransferConfig | None = None
) -> Outcome:
    """Stage "probe": logistic regression on the centre view's features, nothing else.

    Where ``config`` asks to balance the classes it does, so that what follows is not compared
    with a model that was free to leave the rare ones out.
    """
    balance = _balances("none" if config is None else config.balance, task)[-1]
    heads = []
    for chain in task.chains:
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

    The metric (plain, or with the pretrained fc layer as a prior), the strength and, if it is
    "auto", the balance are those with the best held-out likelihood.

    Args:
        task: what may be seen.
        base: the pretrained trunk.
        frozen: its features.
        config: for ``balance`` and ``label_smoothing``; None for the defaults.
    """
    config = TransferConfig() if config is None else config
    balances = _balances(config.balance, task)
    grid: list[tuple[dict[str, Any], tuple[Head, ...]]] = []
    for name, whole in frozen.metrics.items():
        metric = span_metric(whole, torch.cat(frozen.labeled.views))
        for balance in balances:
            paths = _paths(task, frozen, metric, balance, config.label_smoothing)
            for strength, heads in zip(STRENGTHS, zip(*paths, strict=True), strict=True):
                grid.append(({"metric": name, "strength": strength, "balance": balance}, heads))
    losses = np.stack([_held_out_losses(task, heads, frozen) for _, heads in grid])
    if balances != ("none",):  # asked to serve all classes alike, so they are judged alike
        losses = losses * _judged_weights(task)
    usual = {"metric": "plain", "strength": PROBE_STRENGTH, "balance": balances[0]}
    default = next((i for i, (choice, _) in enumerate(grid) if choice == usual), 0)
    best = choose(losses, default)
    choice, heads = grid[best]
    choice["held_out_nll"] = float(losses[best].mean()) if losses.shape[1] else 0.0
    beliefs = _beliefs(task, heads, frozen)
    model = with_head(base, heads[0])
    set_calibration(model, temperature_of(task, beliefs), unknown_threshold_of(beliefs))
    return Outcome(model, beliefs, frozen=True, choice=choice)


def _paths(
    task: Task, frozen: Frozen, metric: Metric, balance: str, smoothing: float
) -> list[list[Head]]:
    """Per chain, a head over all views of its labels for each of ``STRENGTHS``."""
    mapped = Bank(tuple(metric(view) for view in frozen.labeled.views))
    paths = []
    for chain in task.chains:
        examples = labeled_examples(task, chain, smoothing=smoothing)
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


def _held_out_losses(task: Task, heads: Sequence[Head], frozen: Frozen) -> Floats:
    """Negative log-likelihoods (J',) of the judged images at the fitted temperature."""
    beliefs = Beliefs([], _judged(task, heads, frozen))
    known = beliefs.known
    probs = softmax(beliefs.judged[known], temperature_of(task, beliefs))
    true = probs[np.arange(len(probs)), task.judged_labels[known]]
    return np.asarray(-np.log(np.clip(true, 1e-12, 1.0)))


def _judged_weights(task: Task) -> Floats:
    """Weights (J',) of the judged images by which every class counts the same; their mean is 1."""
    judges = np.unique(np.concatenate([chain.judges for chain in task.chains]))
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
    chain: Chain,
    frozen: Frozen,
    metric: Metric,
    strength: float,
    beliefs: tuple[Rows, Tensor] | None = None,
    *,
    balance: str = "none",
    smoothing: float = 0.0,
) -> Head:
    """A head over all views of the chain's labels and, if given, of the believed pool images."""
    labeled = frozen.labeled.take(np.flatnonzero(chain.keep))
    n = int(chain.keep.sum())
    targets = labeled_examples(task, chain, smoothing=smoothing).targets
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


def label_pool(
    task: Task,
    teacher: Beliefs,
    temperature: float,
    config: RunConfig,
    fraction: float | None,
    detections: Sequence[Detection | None],
) -> list[PseudoLabels | None]:
    """Pseudo-labels per chain: calibrated, aligned to the pool's estimated classes, selected.

    Args:
        task: the images.
        teacher: what the stage before believes.
        temperature: that calibrates it.
        config: for ``self_train``.
        fraction: of what a calibrated teacher expects to get right, its mean confidence, how much
            is accepted, so that a weak teacher passes on less of the pool than a strong one; None
            accepts all.
        detections: per chain, the pool images out of class. They are left out first: they say
            nothing about how frequent the classes are.
    """
    out: list[PseudoLabels | None] = []
    chains = zip(task.chains, teacher.pool, detections, strict=True)
    for number, (chain, logits, detection) in enumerate(chains):
        if logits is None or len(logits) == 0:
            out.append(None)
            continue
        beliefs = softmax(logits, temperature)
        if number == 0 and config.self_train.ensemble == "folds":
            # On all labels only: a fold's own held-out labels were seen by all its neighbours.
            members = [pool for pool in teacher.pool if pool is not None]
            beliefs = np.mean([softmax(member, temperature) for member in members], axis=0)
        inside = np.ones(len(logits), dtype=bool) if detection is None else ~detection.outside
        rates = _held_out_confusion(task, chain, teacher, temperature)
        prior = estimate_prior(beliefs[inside].mean(axis=0), rates, task.labels[chain.keep])
        beliefs[inside] = align(beliefs[inside], prior, strength=config.self_train.alignment)
        expected = float(beliefs[inside].max(axis=1).mean())
        taken = 1.0 if fraction is None else fraction * expected
        out.append(select(beliefs, fraction=taken, detection=detection))
    return out


def _held_out_confusion(task: Task, chain: Chain, teacher: Beliefs, temperature: float) -> Floats:
    """``confusion`` (K, K) of the judged images, without those that the chain is judged on."""
    known = teacher.known
    if not chain.keep.all():
        known[chain.judges] = False
    probs = softmax(teacher.judged[known], temperature)
    return confusion(probs, task.judged_labels[known], task.n_classes)


def detections_of(task: Task, frozen: Frozen, config: RunConfig) -> list[Detection | None]:
    """Per chain, the pool images that are none of the classes, as far as its labels can tell."""
    if config.self_train.out_of_class == "keep" or len(task.pool) == 0:
        return [None] * len(task.chains)

    def features(bank: Bank) -> Floats:
        clean = torch.stack(bank.clean()).mean(dim=0)
        return frozen.metrics["plain"](clean).numpy().astype(np.float64)

    labeled, pool = features(frozen.labeled), features(frozen.pool)
    return [detect(labeled[chain.keep], task.labels[chain.keep], pool) for chain in task.chains]


def _believed(labels: PseudoLabels, config: RunConfig) -> tuple[Rows, Tensor]:
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
    choice: dict[str, Any] | None = None,
) -> Outcome:
    """A stage that trains trunk and head together, from the pretrained trunk and a fitted head.

    On labels alone this is "transfer"; with pseudo-labels it is a round of self-training, whose
    student is noised by strong views, mixing, dropout and stochastic depth, and whose pool is
    labelled anew ``work.revisions`` times; with ``work.trunk == "online"`` the student labels its
    own weak views as it learns, and no balance is applied: its beliefs are aligned to the pool's
    classes.

    Args:
        shop: settings and device.
        task: the images.
        base: the pretrained trunk.
        heads: the head that each chain starts from; those of chains that are not run may lack.
        labels: the pseudo-labels of each chain, or None; the same holds.
        work: steps and sizes; a fold takes ``FOLD_STEPS`` of the steps.
        judged_folds: how many folds to repeat it on. Without held-out answers the temperature is
            the one that makes the model as confident about the pool as its last labels are.
        name: of the stage, for the progress bar.
        choice: what ``transfer_frozen`` chose.
    """
    balance = chosen_balance(shop.config.transfer, choice or {})
    judged = np.full((len(task.judged), task.n_classes), np.nan)
    pool: list[Floats | None] = [None] * len(task.chains)
    models, learned = [], []
    run = range(len(task.chains)) if judged_folds >= len(task.chains) else range(1 + judged_folds)
    for number in run:
        chain = task.chains[number]
        label = name if number == 0 else f"{name}, fold {number}"
        steps = work.steps if number == 0 else max(1, round(FOLD_STEPS * work.steps))
        share = dataclasses.replace(work, steps=steps)
        begun, believed = with_head(base, heads[number]), labels[number]
        if believed is not None and work.trunk == "trained":
            believed = believed.some(pool_share(share, len(task.pool)), shop.seed)
        model, last = _train_chain(shop, task, chain, begun, believed, share, balance, label)
        if last is None:  # a round labels the pool as it goes, and none comes after it
            pool[number] = _clean_logits(shop, task, model, task.pool)
        held_out = task.judged[chain.judges]
        judged[chain.judges] = _clean_logits(shop, task, model, held_out, views=1)
        models.append(model)
        learned.append(last)
    beliefs = Beliefs(pool, judged)
    temperature = temperature_of(task, beliefs)
    if not beliefs.known.any() and learned[0] is not None:
        temperature = _matched_temperature(
            shop, task, models[0], learned[0], online=work.trunk == "online"
        )
    set_calibration(models[0], temperature, unknown_threshold_of(beliefs))
    return Outcome(models[0], beliefs, frozen=False, pseudo_labels=learned[0])


def _matched_temperature(
    shop: Workshop, task: Task, model: Classifier, labels: PseudoLabels, *, online: bool
) -> float:
    """That which makes the model as confident about the pool as it and its labels are together.

    The labels of a round in legs are such a mean already; those of an online round are still its
    teacher's, who knew less.
    """
    labels = labels.some(MATCHED_IMAGES, shop.seed)
    rows = task.pool[labels.accepted]
    logits = _clean_logits(shop, task, model, rows, views=1)
    if online:
        labels = revise(labels, softmax(logits), strength=shop.config.self_train.alignment)
    return fit_temperature(logits, labels.probs[labels.accepted])


def inherit_threshold(shop: Workshop, task: Task, model: Classifier, teacher: Outcome) -> None:
    """Give a model that nothing held out was shown to its teacher's threshold for unknown images.

    An energy means something for one model only, so it is the one that as many images of the pool
    lie beyond.
    """
    threshold, theirs = teacher.model.spec.unknown_threshold, teacher.beliefs.pool[0]
    if threshold is None or theirs is None:
        return
    some = np.arange(0, len(theirs), -(-len(theirs) // MATCHED_IMAGES))
    ours = _clean_logits(shop, task, model, task.pool[some], views=1)
    threshold = match_threshold(energy(ours), energy(theirs[some]), threshold)
    set_calibration(model, model.spec.temperature, threshold)


def _clean_logits(
    shop: Workshop, task: Task, model: Classifier, rows: Rows, *, views: int = CLEAN_VIEWS
) -> Floats:
    """Mean logits (N, K) over the centre view and, with 2 views, its mirror image."""
    forward = Forward(model.to(shop.device), "logits")
    center, size = Center(model.spec.crop_pct), model.spec.input_size
    sides = [
        look(task.canvases, rows, center, forward, size, mirrored=mirrored)
        for mirrored in (False, True)[:views]
    ]
    model.cpu()
    return torch.stack(sides).mean(dim=0).numpy().astype(np.float64)


def _train_chain(
    shop: Workshop,
    task: Task,
    chain: Chain,
    model: Classifier,
    labels: PseudoLabels | None,
    work: Work,
    balance: str,
    label: str,
) -> tuple[Classifier, PseudoLabels | None]:
    """The trained model of one chain, and the pseudo-labels it learned from last.

    The steps are divided into legs of equal length, each with a schedule of its own. Between them
    the images that are learned from are labelled anew: a round of self-training that goes on from
    the student's weights.
    """
    config = shop.config
    legs = 1 + (work.revisions if labels is not None and work.trunk == "trained" else 0)
    work = dataclasses.replace(work, steps=max(1, work.steps // legs))
    model.spec = dataclasses.replace(model.spec, input_size=work.size)
    for leg in range(legs):
        if leg and labels is not None:
            rows = task.pool[labels.accepted]
            probs = softmax(_clean_logits(shop, task, model, rows, views=1))
            labels = revise(labels, probs, strength=config.self_train.alignment)
        words = f"{label}, {leg + 1} of {legs}" if legs > 1 else label
        model = _train_leg(shop, task, chain, model, labels, work, balance, words, leg=leg)
    return model, labels


def _train_leg(
    shop: Workshop,
    task: Task,
    chain: Chain,
    model: Classifier,
    labels: PseudoLabels | None,
    work: Work,
    balance: str,
    label: str,
    *,
    leg: int,
) -> Classifier:
    config = shop.config
    model.requires_grad_(True)  # the averaged model of the leg before learns nothing
    model.unfreeze_trunk()
    model.freeze_stages(work.frozen_stages)
    model.set_noise(config.transfer.drop_rate, config.transfer.drop_path_rate)
    labeled = labeled_examples(task, chain, smoothing=config.transfer.label_smoothing)
    views = Views(strong_policy(config.transfer), work.size, mix=config.transfer.mix)
    # Gradually in the first leg only: after it every layer has begun to learn.
    settings = train_config(config, work, unfreeze="all" if leg else config.transfer.unfreeze)
    pool = None
    if work.trunk == "online":
        if labels is None:
            raise ValueError("an online round needs a pool")
        inside = ~labels.outside
        pool = unlabeled(task, task.pool[inside])
        views = dataclasses.replace(views, mix="none", weak=Weak())
        prior = torch.from_numpy(labels.probs[inside].mean(axis=0)).float().to(shop.device)
        step: Step = make_online_step(
            config.self_train.online,
            prior,
            n_pool=len(pool),
            steps=work.steps,
            threshold=config.self_train.threshold,
            hard=config.self_train.pseudo_labels != "soft",
        )
        settings = dataclasses.replace(settings, ema_decay=0.999)
    else:
        if labels is not None:
            taken, targets = _believed(labels, config)
            pool = Examples(task.pool[taken], targets.float(), torch.ones(len(taken)))
        balancing = balance_of(balance, _class_counts(labeled, pool))
        step = partial(
            supervised_step,
            class_weights=_on(balancing.class_weights, shop.device),
            log_prior=_on(balancing.log_prior, shop.device),
        )
        # A few labelled images have no batch statistics worth having, and those of strong views
        # mislead a model that will see plain ones: the pretrained ones stay (docs/log.md).
        model.freeze_norms()
    loader = Loader(
        task.canvases,
        labeled,
        pool,
        views,
        batch_size=work.batch_size,
        labeled_per_batch=max(1, round(LABELED_SHARE * work.batch_size)),
        seed=shop.seed,
        first=leg * work.steps,
    )
    return fit(shop, model, step, loader, settings, label)


def _class_counts(labeled: Examples, pool: Examples | None) -> Tensor:
    """Images (K,) of each class in training, labels and beliefs in their shares of a batch."""
    counts = labeled.weights @ labeled.targets
    if pool is None or len(pool) == 0:
        return counts
    believed = pool.weights @ pool.targets
    shares = LABELED_SHARE * counts / counts.sum() + (1 - LABELED_SHARE) * believed / believed.sum()
    return (counts.sum() + believed.sum()) * shares


def _on(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


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
            balance=chosen_balance(config.transfer, choice),
            smoothing=config.transfer.label_smoothing,
        )
        for chain, believed in zip(task.chains, labels, strict=True)
    ]
