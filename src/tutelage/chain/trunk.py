"""Training trunk and head together: on labels alone, in a round of self-training, or online."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.augment import Center, Policy, RandAugment, Strong, TrivialAugment, Weak
from tutelage.chain.plan import FOLD_STEPS, Work, pool_share
from tutelage.chain.stages import (
    Beliefs,
    Fold,
    Outcome,
    Task,
    balance_of,
    believed_targets,
    chosen_balance,
    evaluation_look,
    labeled_examples,
    set_calibration,
    temperature_of,
    unknown_threshold_of,
    unlabeled,
    with_head,
)
from tutelage.config import RunConfig, TrainConfig, TransferConfig
from tutelage.heads.bank import CLEAN_VIEWS
from tutelage.heads.probe import Head
from tutelage.models.classifier import Classifier
from tutelage.stats.calibrate import fit_temperature, softmax
from tutelage.stats.metrics import Floats
from tutelage.stats.pseudo_labels import PseudoLabels, revise
from tutelage.stats.unknown import energy, match_threshold
from tutelage.steps.mean_teacher import MeanTeacherStep
from tutelage.steps.online import FixMatch, FlexMatch, FreeMatch, OnlinePseudoLabelStep, SoftMatch
from tutelage.steps.supervised import supervised_step
from tutelage.training.batch import Step
from tutelage.training.checkpoint import Trainings
from tutelage.training.loader import Examples, Loader, Rows, Views, spaced
from tutelage.training.loop import Result, train

MATCHED_IMAGES = 1000  # of the pool, at most, by which a temperature is matched
MOMENTUM = 0.99  # of online statistics: the papers' 0.999 is for a million steps, not thousands


def strong_policy(config: TransferConfig, crop_pct: float = Center.crop_pct) -> Policy:
    """The view a student learns from; ``augment`` is no longer "auto": the search came before.

    Args:
        config: its kind and strength.
        crop_pct: of the evaluation view, which "center" trains on as well.
    """
    if config.augment == "auto":
        raise ValueError("'auto' was not resolved; settings come from the run folder's config.json")
    if config.augment == "center":
        return Center(crop_pct)
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
    )
    return dataclasses.replace(settings, **changes)


@dataclass(frozen=True)
class Workshop:
    """What trained stages need besides the task.

    Attributes:
        trainings: where their checkpoints are kept; None keeps none.
    """

    config: RunConfig
    device: torch.device
    seed: int
    progress: Callable[[str, int], Any]
    trainings: Trainings | None = None


def fit(
    shop: Workshop,
    model: Classifier,
    step: Step,
    loader: Loader,
    settings: TrainConfig,
    label: str,
) -> Classifier:
    """Run the loop on a copy of ``model`` and return the averaged model on the CPU.

    A training that was cut off goes on from its newest checkpoint.
    """
    model = copy.deepcopy(model)
    torch.manual_seed(shop.seed)  # dropout and stochastic depth draw from torch's own generator
    checkpoints = None if shop.trainings is None else shop.trainings.next()
    resumed = None if checkpoints is None else checkpoints.newest()
    with shop.progress(label, settings.steps) as done:
        result: Result = train(
            model,
            loader.after(0 if resumed is None else resumed.step),
            step,
            settings,
            device=shop.device,
            on_step=done,
            checkpoints=checkpoints,
            resumed=resumed,
        )
    return result.model.cpu().to(memory_format=torch.contiguous_format)


@dataclass(frozen=True)
class Course:
    """What the training of one chain is made of, besides the model and its pseudo-labels.

    Attributes:
        task: the images.
        chain: whose labels may be learned from.
        work: steps and sizes.
        balance: what is done about classes of unequal frequency.
        label: for the progress bar.
    """

    task: Task
    chain: Fold
    work: Work
    balance: str
    label: str


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
    pool: list[Floats | None] = [None] * len(task.folds)
    models, learned = [], []
    run = range(len(task.folds)) if judged_folds >= len(task.folds) else range(1 + judged_folds)
    for number in run:
        chain = task.folds[number]
        label = name if number == 0 else f"{name}, fold {number}"
        steps = work.steps if number == 0 else max(1, round(FOLD_STEPS * work.steps))
        share = dataclasses.replace(work, steps=steps)
        course = Course(task, chain, share, balance, label)
        begun, believed = with_head(base, heads[number]), labels[number]
        if believed is not None and work.trunk == "trained":
            believed = believed.some(pool_share(share, len(task.pool)), shop.seed)
        model, last = _train_chain(shop, course, begun, believed)
        if last is None:  # a round labels the pool as it goes, and none comes after it
            pool[number] = clean_logits(shop, task, model, task.pool)
        held_out = task.judged[chain.judges]
        judged[chain.judges] = clean_logits(shop, task, model, held_out, views=1)
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
    logits = clean_logits(shop, task, model, rows, views=1)
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
    some = spaced(np.arange(len(theirs)), MATCHED_IMAGES)
    ours = clean_logits(shop, task, model, task.pool[some], views=1)
    threshold = match_threshold(energy(ours), energy(theirs[some]), threshold)
    set_calibration(model, model.spec.temperature, threshold)


def clean_logits(
    shop: Workshop, task: Task, model: Classifier, rows: Rows, *, views: int = CLEAN_VIEWS
) -> Floats:
    """Mean logits (N, K) over the centre view and, with 2 views, its mirror image."""
    logits = evaluation_look(task.canvases, rows, model, shop.device, views=views)
    return np.asarray(logits.numpy().astype(np.float64))


def _train_chain(
    shop: Workshop, course: Course, model: Classifier, labels: PseudoLabels | None
) -> tuple[Classifier, PseudoLabels | None]:
    """The trained model of one chain, and the pseudo-labels it learned from last.

    The steps are divided into legs of equal length. Between them the images that are learned from
    are labelled anew: a round of self-training that goes on from the student's weights. The
    learning rates fall once over all legs, or with ``work.restarts`` in each.
    """
    task, work = course.task, course.work
    legs = 1 + (work.revisions if labels is not None and work.trunk == "trained" else 0)
    work = dataclasses.replace(work, steps=max(1, work.steps // legs))
    model.spec = dataclasses.replace(model.spec, input_size=work.size)
    for leg in range(legs):
        if leg and labels is not None:
            rows = task.pool[labels.accepted]
            probs = softmax(clean_logits(shop, task, model, rows, views=1))
            labels = revise(labels, probs, strength=shop.config.self_train.alignment)
        label = f"{course.label}, {leg + 1} of {legs}" if legs > 1 else course.label
        part = dataclasses.replace(course, work=work, label=label)
        model = _train_leg(shop, part, model, labels, leg, legs)
    return model, labels


def _train_leg(
    shop: Workshop,
    course: Course,
    model: Classifier,
    labels: PseudoLabels | None,
    leg: int,
    legs: int,
) -> Classifier:
    """Leg number ``leg`` of ``legs``, counted from 0; ``course.work`` is that of one leg."""
    config, task, work = shop.config, course.task, course.work
    first = leg * work.steps
    model.requires_grad_(True)  # the averaged model of the leg before learns nothing
    model.unfreeze_trunk()
    model.freeze_stages(work.frozen_stages if config.pretrained else 0)
    model.set_noise(config.transfer.drop_rate, config.transfer.drop_path_rate)
    labeled = labeled_examples(task, course.chain)
    strong = strong_policy(config.transfer, model.spec.crop_pct)
    views = Views(strong, work.size, mix=config.transfer.mix)
    settings = train_config(
        config,
        work,
        schedule_first=0 if work.restarts else first,
        schedule_steps=0 if work.restarts else legs * work.steps,
    )
    pool = None
    if work.trunk == "online":
        if labels is None:
            raise ValueError("an online round needs a pool")
        inside = ~labels.outside
        pool = unlabeled(task, task.pool[inside])
        weak = strong if config.transfer.augment == "center" else Weak()
        views = dataclasses.replace(views, mix="none", weak=weak)
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
            taken, targets = believed_targets(labels, config)
            pool = Examples(task.pool[taken], targets.float(), torch.ones(len(taken)))
        counts = _class_counts(labeled, pool, work.labeled_share)
        balancing = balance_of(course.balance, counts)
        step = partial(
            supervised_step,
            class_weights=_on(balancing.class_weights, shop.device),
            log_prior=_on(balancing.log_prior, shop.device),
        )
        # A few labelled images have no batch statistics worth having, and those of strong views
        # mislead a model that will see plain ones: the pretrained ones stay (docs/log.md).
        if config.pretrained:
            model.freeze_norms()
    loader = Loader(
        task.canvases,
        labeled,
        pool,
        views,
        batch_size=work.batch_size,
        labeled_per_batch=max(1, round(work.labeled_share * work.batch_size)),
        seed=shop.seed,
        first=first,
    )
    return fit(shop, model, step, loader, settings, course.label)


def _class_counts(labeled: Examples, pool: Examples | None, share: float) -> Tensor:
    """Images (K,) of each class in training, labels and beliefs in their shares of a batch."""
    counts = labeled.weights @ labeled.targets
    if pool is None or len(pool) == 0:
        return counts
    believed = pool.weights @ pool.targets
    shares = share * counts / counts.sum() + (1 - share) * believed / believed.sum()
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
