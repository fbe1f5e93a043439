"""Stages that train trunk and head together: on labels alone, with pseudo-labels, or online."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tutelage.augment import Weak
from tutelage.chain.answers import (
    clean_logits,
    matched_temperature,
    set_calibration,
    temperature_of,
    unknown_threshold_of,
)
from tutelage.chain.clock import Share, later_seconds, shares
from tutelage.chain.frozen import Labels, believed_targets, with_head
from tutelage.chain.plan import FOLD_STEPS, Work, pool_share
from tutelage.chain.recipe import balance_of, strong_policy
from tutelage.chain.types import Beliefs, Fold, Outcome, Run
from tutelage.config import ONLINE_METHODS, RunConfig, TrainConfig
from tutelage.heads.probe import Head
from tutelage.models.classifier import Classifier
from tutelage.models.sizes import set_input_size
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Floats
from tutelage.stats.pseudo_labels import PseudoLabels, revise
from tutelage.steps.online import make_online_step
from tutelage.steps.supervised import supervised_step
from tutelage.training.batch import Step
from tutelage.training.best import Best
from tutelage.training.loader import Examples, Loader, Views
from tutelage.training.loop import train

ONLINE_EMA_DECAY = 0.999


def train_config(config: RunConfig, work: Work) -> TrainConfig:
    """The loop's settings for one training."""
    t = config.transfer
    return TrainConfig(
        steps=work.steps,
        lr_head=t.lr_head,
        lr_trunk=t.lr_trunk,
        layer_decay=t.layer_decay,
        weight_decay=t.weight_decay,
    )


def loader_of(
    run: Run, labeled: Examples, pool: Examples | None, views: Views, work: Work, first: int = 0
) -> Loader:
    """The batches of a training, from its step ``first`` on."""
    return Loader(
        run.task.canvases,
        labeled,
        pool,
        views,
        batch_size=work.batch_size,
        labeled_per_batch=work.labeled_per_batch,
        seed=run.seed,
        first=first,
    )


def fit(
    run: Run,
    model: Classifier,
    step: Step,
    loader: Loader,
    settings: TrainConfig,
    label: str,
    share: Share | None = None,
    best: Best | None = None,
) -> Classifier:
    """Run the loop on a copy of ``model``; its average, or the best state of that, on the CPU.

    A training that was cut off goes on from its newest checkpoint. One that has a ``share`` of the
    run's time makes fewer steps where the machine is slower than planned.
    """
    model = copy.deepcopy(model)
    torch.manual_seed(run.seed)  # dropout and stochastic depth draw from torch's own generator
    checkpoints = run.trainings.next()
    resumed = None if checkpoints is None else checkpoints.newest()
    pace = run.clock.pace(checkpoints, settings.steps, share)
    with run.progress(label, settings.steps) as done:
        result = train(
            model,
            loader.after(0 if resumed is None else resumed.step),
            step,
            settings,
            device=run.device,
            on_step=lambda number, metrics: done(number, metrics, pace.steps),
            checkpoints=checkpoints,
            resumed=resumed,
            pace=pace,
            best=best,
        )
    return result.model.cpu().to(memory_format=torch.contiguous_format)


def train_trunk(
    run: Run, heads: Sequence[Head], labels: Labels, work: Work, name: str, *, judged_folds: int
) -> Outcome:
    """A stage that trains trunk and head together, from the pretrained trunk and a fitted head.

    On labels alone this is "transfer". With pseudo-labels it is a round of self-training: strong
    views, mixing, dropout and stochastic depth noise the student, and its pool is labelled anew
    ``work.revisions`` times. With ``work.trunk == "online"`` the student labels its own weak views
    as it learns, and no balance is applied: its beliefs are aligned to the pool's classes.

    It is repeated on ``judged_folds`` to be judged, for ``FOLD_STEPS`` of the steps. Where nothing
    is held out, the temperature makes the model as confident about the pool as its last labels are.
    """
    task = run.task
    judged = np.full((len(task.judged), task.n_classes), np.nan)
    pool: list[Floats | None] = [None] * len(task.folds)
    models, learned = [], []
    folds = task.folds[: 1 + judged_folds]
    trainings = [work.steps] + [max(1, round(FOLD_STEPS * work.steps))] * (len(folds) - 1)
    times = shares(work, trainings, later_seconds(run.plan, work))
    for number, fold in enumerate(folds):
        share = dataclasses.replace(work, steps=trainings[number])
        believed = labels[number]
        if believed is not None and work.trunk == "trained":
            believed = believed.some(pool_share(share, len(task.pool)), run.seed)
        label = name if number == 0 else f"{name}, fold {number}"
        start = with_head(run.base, heads[number])
        model, last = _train_fold(run, fold, start, believed, share, label, times[number])
        if last is None:  # a round labels the pool as it goes, and no round comes after it
            pool[number] = clean_logits(run, model, task.pool)
        judged[fold.judges] = clean_logits(run, model, task.judged[fold.judges], views=1)
        models.append(model)
        learned.append(last)
    beliefs = Beliefs(pool, judged)
    temperature = temperature_of(task, beliefs)
    if not beliefs.known.any() and learned[0] is not None:
        online = work.trunk == "online"
        temperature = matched_temperature(run, models[0], learned[0], online=online)
    set_calibration(models[0], temperature, unknown_threshold_of(beliefs))
    return Outcome(models[0], beliefs, frozen=False, pseudo_labels=learned[0])


def _train_fold(
    run: Run,
    fold: Fold,
    model: Classifier,
    labels: PseudoLabels | None,
    work: Work,
    name: str,
    time: Share,
) -> tuple[Classifier, PseudoLabels | None]:
    """The trained model of one fold, and the pseudo-labels it learned from last.

    Its steps are divided into legs of equal length. Between them the images that it learns from
    are labelled anew: a round of self-training that goes on from the student's weights. The
    learning rates fall once over all legs, or with ``work.restarts`` in each.
    """
    online = work.trunk == "online"
    count = 1 + (work.revisions if labels is not None and not online else 0)
    steps = max(1, work.steps // count)
    leg = dataclasses.replace(work, steps=steps)
    set_input_size(model, work.size)
    for number in range(count):
        if number and labels is not None:
            rows = run.task.pool[labels.accepted]
            labels = revise(labels, softmax(clean_logits(run, model, rows, views=1)))
        model.requires_grad_(True)  # the averaged model of the leg before learns nothing
        model.unfreeze_trunk()
        model.freeze_stages(work.frozen_stages if run.config.pretrained else 0)
        model.set_noise(run.config.transfer.drop_rate, run.config.transfer.drop_path_rate)
        settings = train_config(run.config, leg)
        if not work.restarts:
            settings = dataclasses.replace(
                settings, schedule_first=number * steps, schedule_steps=count * steps
            )
        if online:
            settings = dataclasses.replace(settings, ema_decay=ONLINE_EMA_DECAY)
        step, labeled, pool, views = (_online if online else _offline)(
            run, model, fold, labels, leg
        )
        loader = loader_of(run, labeled, pool, views, work, number * steps)
        shown = f"{name}, {number + 1} of {count}" if count > 1 else name
        left = Share(time.step, time.after + time.step * steps * (count - 1 - number))
        model = fit(run, model, step, loader, settings, shown, left)
    return model, labels


Lesson = tuple[Step, Examples, Examples | None, Views]  # the step, labels, pool, and their views


def _offline(
    run: Run, model: Classifier, fold: Fold, labels: PseudoLabels | None, work: Work
) -> Lesson:
    """On labels and, if there are any, on pseudo-labels of the accepted pool images."""
    config = run.config
    labeled, pool = run.task.labeled_examples(fold), None
    if labels is not None:
        taken, targets = believed_targets(labels, config.self_train.pseudo_labels)
        pool = Examples(run.task.pool[taken], targets.float(), torch.ones(len(taken)))
    counts = _class_counts(labeled, pool, work.labeled_share)
    balancing = balance_of(config.transfer.balance, counts).to(run.device)
    step = partial(
        supervised_step, class_weights=balancing.class_weights, log_prior=balancing.log_prior
    )
    # A few labelled images have no batch statistics worth having, and those of strong views
    # mislead a model that will see plain ones: the pretrained ones stay (benchmarks/log.md).
    if config.pretrained:
        model.freeze_norms()
    strong = strong_policy(config.transfer, model.spec.crop_pct)
    return step, labeled, pool, Views(strong, work.size, mix=config.transfer.mix)


def _online(
    run: Run, model: Classifier, fold: Fold, labels: PseudoLabels | None, work: Work
) -> Lesson:
    """On labels, and on the weak views of the pool as the student itself labels them."""
    if labels is None:
        raise ValueError("an online round needs a pool")
    config, task = run.config, run.task
    inside = ~labels.outside
    labeled, pool = task.labeled_examples(fold), task.unlabeled_examples(task.pool[inside])
    strong = strong_policy(config.transfer, model.spec.crop_pct)
    weak = strong if config.transfer.augment == "center" else Weak()
    prior = torch.from_numpy(labels.probs[inside].mean(axis=0)).float().to(run.device)
    step = make_online_step(
        config.self_train.online,
        prior,
        n_pool=len(pool),
        steps=work.steps,
        threshold=config.self_train.threshold,
        hard=config.self_train.pseudo_labels != "soft",
    )
    views = Views(weak, work.size, strong=strong)
    if ONLINE_METHODS[config.self_train.online].strong_labels:
        views = Views(strong, work.size, weak=weak)
    return step, labeled, pool, views


def _class_counts(labeled: Examples, pool: Examples | None, share: float) -> Tensor:
    """Images (K,) of each class in training, labels and beliefs in their shares of a batch."""
    counts = labeled.weights @ labeled.targets
    if pool is None or len(pool) == 0:
        return counts
    believed = pool.weights @ pool.targets
    shares = share * counts / counts.sum() + (1 - share) * believed / believed.sum()
    return (counts.sum() + believed.sum()) * shares
