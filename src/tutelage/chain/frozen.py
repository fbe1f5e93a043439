"""Stages on the frozen trunk: its features are made once, and heads are fitted to them.

Each stage fits one head for each fold of the labels. The first, on all labels, is delivered; the
others are judged on the labels that they have not seen.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.chain.answers import calibrate, held_out_nll, temperature_of
from tutelage.chain.recipe import balance_of, strong_policy
from tutelage.chain.types import Beliefs, Fold, Outcome, Run, Task
from tutelage.heads.bank import CLEAN_VIEWS, Bank, bank_plans, make_bank
from tutelage.heads.probe import (
    Head,
    Metric,
    fit_heads,
    fit_joint_head,
    lowest_loss,
    mean_head,
    plain_metric,
    pretrained_metric,
    span_metric,
)
from tutelage.models.classifier import Classifier, Columns, columns_of, members_of
from tutelage.models.forward import Forward
from tutelage.models.zoo import first_trunk, without_levels
from tutelage.stats.calibrate import stacking_weight
from tutelage.stats.metrics import Floats
from tutelage.stats.pseudo_labels import PseudoLabels
from tutelage.training.loader import Rows

PROBE_STRENGTH = 10.0
PLAIN: dict[str, Any] = {"metric": "plain", "strength": PROBE_STRENGTH}  # the probe's choice
STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)  # rising: each fit starts from the one before
LAST = ("plain", "pretrained")  # the metrics of the trunk's last features
METRICS = (*LAST, "levels")
GUARD = 2.33  # standard errors by which a rarely better choice must be better: 1%, one-sided
GUARD_LABELS = 40  # with more held-out labels, heads on a frozen trunk need fewer standard errors

Labels = Sequence[PseudoLabels | None]  # per fold, of the pool


@dataclass(frozen=True)
class Features:
    """The pretrained trunk's features of the task's images."""

    labeled: Bank
    pool: Bank
    judged: Bank  # of the images that choices are made on
    # By name, the metrics that heads are fitted in: one for each trunk, on that trunk's features.
    metrics: dict[str, tuple[Metric, ...]]

    def mapped(self, name: str, features: Tensor) -> Tensor:
        """Features (N, D) in a metric; those of several trunks side by side."""
        return torch.cat([metric(features) for metric in self.metrics[name]], dim=1)


def make_features(run: Run) -> Features:
    """Look at every training image once per view, and fit the metrics on the centre views."""
    task, plan, base = run.task, run.plan, run.base
    forward = Forward(base.to(run.device), "features")
    crop_pct, crop_scale = base.spec.crop_pct, run.config.transfer.crop_scale
    strong = strong_policy(run.config.transfer, crop_pct)
    plans = bank_plans(plan.views, crop_pct, strong, crop_scale)
    rows = np.concatenate([task.labeled, task.pool])
    with run.progress("features", len(rows) * len(plans), "view") as done:
        bank = make_bank(
            task.canvases, rows, forward, plan.size, plans, seed=run.seed, progress=done
        )
    n = len(task.labeled)
    labeled, pool = bank.take(np.arange(n)), bank.take(np.arange(n, len(rows)))
    judged = labeled
    if task.judged is not task.labeled:
        clean = bank_plans(CLEAN_VIEWS, crop_pct, strong, crop_scale)
        judged = make_bank(task.canvases, task.judged, forward, plan.size, clean, seed=run.seed)
    base.cpu()
    center = torch.cat([labeled.views[0], pool.views[0]])
    return Features(labeled, pool, judged, trunk_metrics(center, base))


def first_alone(run: Run, features: Features) -> tuple[Run, Features]:
    """The run with the first of its trunks alone, and that trunk's features.

    Several trunks trained at once would take the time of all, and the student, which is cut from
    the first, would gain nothing by the others' new weights.
    """
    if not run.base.spec.members:
        return run, features
    base, columns = first_trunk(run.base), columns_of(run.base)[0]

    def narrowed(bank: Bank) -> Bank:
        views = [(view[:, columns.own], view[:, columns.levels]) for view in bank.views]
        return Bank(tuple(torch.cat(parts, dim=1) for parts in views))

    labeled, pool, judged = map(narrowed, (features.labeled, features.pool, features.judged))
    found = trunk_metrics(torch.cat([labeled.views[0], pool.views[0]]), base)
    metrics = {name: found.get(name, found["plain"]) for name in features.metrics}
    return dataclasses.replace(run, base=base), Features(labeled, pool, judged, metrics)


def trunk_metrics(center: Tensor, model: Classifier) -> dict[str, tuple[Metric, ...]]:
    """By name, the metrics of each trunk's features, from the centre views (N, D) of all images.

    A trunk without middle stages or without a pretrained fc layer has its plain metric in their
    place.
    """
    each = [
        feature_metrics(center, columns, member.pretrained_head)
        for columns, member in zip(columns_of(model), members_of(model), strict=True)
    ]
    names = [name for name in METRICS if any(name in metrics for metrics in each)]
    return {name: tuple(metrics.get(name, metrics["plain"]) for metrics in each) for name in names}


def feature_metrics(
    center: Tensor, columns: Columns, pretrained_head: Tensor | None
) -> dict[str, Metric]:
    """The metrics that heads are fitted in, from the centre views (N, D) of all images.

    ``columns`` are those of one trunk; ``pretrained_head`` (K', C) is the weight of its pretrained
    fc layer, which looks at the trunk's own C features, if there is one.
    """
    metrics = {"plain": plain_metric(center, columns.own)}
    if pretrained_head is not None:
        metrics["pretrained"] = pretrained_metric(center, pretrained_head, columns.own)
    if center[:, columns.levels].shape[1]:
        metrics["levels"] = plain_metric(center, columns.levels)
    return metrics


def probe(run: Run, features: Features) -> Outcome:
    """Stage "probe": logistic regression on the centre view's features, nothing else.

    If the user asks to balance the classes, it does: later stages must not be compared with a
    model that was free to ignore the rare ones.
    """
    return _outcome(run, features, _probe_heads(run, features))


def _probe_heads(run: Run, features: Features) -> list[Head]:
    heads = []
    for fold in run.task.folds:
        targets = run.task.labeled_examples(fold).targets
        balancing = balance_of(run.config.transfer.balance, targets.sum(dim=0))
        heads.append(
            fit_joint_head(
                features.labeled.views[0][fold.keep],
                balancing.targets(targets),
                torch.ones(len(targets)),
                features.metrics["plain"],
                strength=PROBE_STRENGTH,
                log_prior=balancing.log_prior,
            )
        )
    return heads


def transfer(run: Run, features: Features) -> Outcome:
    """Stage "transfer" with a frozen trunk: a new head over several augmented views.

    The metric (the trunk's last features, plain or with the pretrained fc layer as a prior; or its
    middle stages) is the one with the best held-out likelihood. Another strength than the usual
    one, and the middle stages, must be better beyond chance: a few labels often favour them where
    they are worse. ``choice["trained"]`` is what a trained trunk starts from. Its last stages,
    which a head on the middle ones does not read, learn to be better, so there the middle stages
    must be better by more (benchmarks/log.md).

    The head that is delivered is the mean of the chosen one and the probe's, weighed by what the
    held-out labels say for each: a few labels often choose badly, but then they do not say much.
    """
    task, asked = run.task, run.config.transfer.features
    names = [name for name in features.metrics if asked == "auto" or name in LAST]
    if asked == "levels" and "levels" in features.metrics:
        names = ["levels"]
    grid: list[tuple[dict[str, Any], tuple[Head, ...]]] = []
    for name in names:
        paths = _paths(run, features, name)
        for strength, heads in zip(STRENGTHS, zip(*paths, strict=True), strict=True):
            grid.append(({"metric": name, "strength": strength}, heads))
    losses = np.stack([held_out_nll(task, _judged(task, heads, features)) for _, heads in grid])
    best, start = _best_of([choice for choice, _ in grid], losses)
    choice, chosen = {**grid[best][0], "trained": grid[start][0]}, list(grid[best][1])
    choice["held_out_nll"] = float(losses[best].mean()) if losses.shape[1] else 0.0
    if asked != "levels":  # else the user wants no last features
        chosen, choice["weight"] = _with_probe(run, features, chosen)
    return _outcome(run, features, chosen, choice=choice)


def _with_probe(run: Run, features: Features, chosen: Sequence[Head]) -> tuple[list[Head], float]:
    """Per fold, the mean of the probe's calibrated head and the chosen one; the latter's weight.

    The mean of logits is the logarithmic opinion pool of the two beliefs (Heskes 1998, "Selecting
    weighting factors in logarithmic opinion pools"), and of linear heads it is a linear head.
    """
    task, plain = run.task, _probe_heads(run, features)
    judged = [_judged(task, heads, features) for heads in (plain, chosen)]
    losses = [held_out_nll(task, logits) for logits in judged]
    weight = stacking_weight(*losses)
    temperatures = [temperature_of(task, Beliefs([], logits)) for logits in judged]
    first, second = (1 - weight) / temperatures[0], weight / temperatures[1]
    heads = [
        Head(first * a.weight + second * b.weight, first * a.bias + second * b.bias)
        for a, b in zip(plain, chosen, strict=True)
    ]
    return heads, round(weight, 4)


def _best_of(choices: Sequence[dict[str, Any]], losses: Floats) -> tuple[int, int]:
    """Positions of the best choice for a frozen trunk, and of the start of a trained one.

    ``losses`` (C, J') are the log-losses of the held-out labels under each of the C ``choices``,
    of which those on the last features come first.
    """
    # Where the user wants no last features, all choices are alike.
    last = sum(choice["metric"] in LAST for choice in choices) or len(choices)
    usual = [i for i in range(last) if choices[i]["strength"] == PROBE_STRENGTH]
    default = usual[lowest_loss(losses[usual], 0)]
    falling = guard(losses.shape[1])
    rival = lowest_loss(losses[:last], default)  # what the middle stages must be better than
    stands = lowest_loss(losses[:last], default, guard=falling)  # where they are not

    def chosen(errors: float) -> int:
        best = lowest_loss(losses, rival, guard=errors)
        return best if best >= last else stands

    return chosen(falling), chosen(GUARD)


def guard(n: int) -> float:
    """Standard errors by which a rarely better choice must be better on ``n`` held-out labels.

    That middle stages and other strengths are rarely better is known beforehand. This knowledge
    counts as much as some labels do, and more labels outweigh it: for a Gaussian belief the bar
    falls as ``1 / sqrt(n)``. It falls from ``GUARD_LABELS`` on; with fewer labels a higher bar
    would never be met.
    """
    return GUARD * math.sqrt(min(1.0, GUARD_LABELS / max(1, n)))


def _paths(run: Run, features: Features, name: str) -> list[list[Head]]:
    """Per fold, a head in a metric over all views of its labels for each of ``STRENGTHS``."""
    everything = torch.cat(features.labeled.views)
    metrics = [span_metric(metric, everything) for metric in features.metrics[name]]
    mapped = [Bank(tuple(metric(v) for v in features.labeled.views)) for metric in metrics]
    paths = []
    for fold in run.task.folds:
        examples = run.task.labeled_examples(fold)
        balancing = balance_of(run.config.transfer.balance, examples.weights @ examples.targets)
        each = []
        for metric, bank in zip(metrics, mapped, strict=True):
            views = bank.take(np.flatnonzero(fold.keep)).views
            v = len(views)
            each.append(
                fit_heads(
                    torch.cat(views),
                    balancing.targets(examples.targets).repeat(v, 1),
                    examples.weights.repeat(v) / v,
                    metric,
                    strengths=STRENGTHS,
                    log_prior=balancing.log_prior,
                )
            )
        paths.append([mean_head(heads) for heads in zip(*each, strict=True)])
    return paths


def self_train(run: Run, features: Features, choice: dict[str, Any], labels: Labels) -> Outcome:
    """A round of self-training: heads as ``transfer`` chose, noised by the features' views."""
    heads = fit_fold_heads(run, features, choice, labels)
    return _outcome(run, features, heads, pseudo_labels=labels[0], choice=choice)


def fit_fold_heads(
    run: Run, features: Features, choice: dict[str, Any], labels: Labels
) -> list[Head]:
    """Per fold, a head on its labels and on its pseudo-labels of the pool, if it has any.

    A frozen round is these heads; a trained one starts from them: linear probing, then fine-tuning
    (Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution").
    """
    return [
        _fold_head(run, features, choice, fold, believed)
        for fold, believed in zip(run.task.folds, labels, strict=True)
    ]


def _fold_head(
    run: Run, features: Features, choice: dict[str, Any], fold: Fold, labels: PseudoLabels | None
) -> Head:
    """A head over all views of the fold's labels and, if given, of the accepted pool images."""
    examples = run.task.labeled_examples(fold)
    targets, weights = examples.targets, examples.weights
    views = features.labeled.take(np.flatnonzero(fold.keep)).views
    if labels is not None and labels.accepted.any():
        positions, more = believed_targets(labels, run.config.self_train.pseudo_labels)
        pool = features.pool.take(positions)
        views = tuple(torch.cat(pair) for pair in zip(views, pool.views, strict=True))
        targets = torch.cat([targets, more.float()])
        # Labels and beliefs weigh half each; together they grow with the share of the pool.
        n, m = len(weights), len(positions)
        total = n * (1 + 2 * m / len(features.pool.views[0]))
        weights = torch.cat([torch.full((k,), total / (2 * k)) for k in (n, m)])
    v = len(views)
    balancing = balance_of(run.config.transfer.balance, weights @ targets)
    return fit_joint_head(
        torch.cat(views),
        balancing.targets(targets).repeat(v, 1),
        weights.repeat(v) / v,
        features.metrics[choice["metric"]],
        strength=choice["strength"],
        log_prior=balancing.log_prior,
    )


def believed_targets(labels: PseudoLabels, kind: str) -> tuple[Rows, Tensor]:
    """Positions (A,) of the accepted pool images, and their targets (A, K) of some kind."""
    taken = np.flatnonzero(labels.accepted)
    return taken, torch.from_numpy(labels.targets(kind)[taken])


def _outcome(run: Run, features: Features, heads: Sequence[Head], **parts: Any) -> Outcome:
    """The pretrained trunk with the first head, calibrated on what all heads say."""
    task = run.task
    pool: list[Floats | None] = [_logits(head, features.pool.clean()) for head in heads]
    beliefs = Beliefs(pool, _judged(task, heads, features))
    model = with_head(run.base, heads[0])
    calibrate(task, model, beliefs)
    return Outcome(model, beliefs, frozen=True, **parts)


def _judged(task: Task, heads: Sequence[Head], features: Features) -> Floats:
    """Held-out logits (J, K) of one head per fold, on the view that a model is deployed with."""
    judged = np.full((len(task.judged), task.n_classes), np.nan)
    for fold, head in zip(task.folds, heads, strict=True):
        judged[fold.judges] = _logits(head, features.judged.take(fold.judges).views[:1])
    return judged


def _logits(head: Head, views: Sequence[Tensor]) -> Floats:
    return torch.stack([head(view) for view in views]).mean(dim=0).numpy().astype(np.float64)


def with_head(model: Classifier, head: Head) -> Classifier:
    """A copy of ``model`` with another head; without levels that the head does not look at."""
    own = model.own_features
    if model.spec.has_levels and not head.weight[:, own:].any():
        model, head = without_levels(model), Head(head.weight[:, :own], head.bias)
    model = copy.deepcopy(model)
    set_head(model, head)
    return model


@torch.no_grad()
def set_head(model: Classifier, head: Head) -> None:
    """Copy a fitted head into the model's own."""
    model.head.weight.copy_(head.weight)
    model.head.bias.copy_(head.bias)
