"""What a person should look at after a run: doubtful labels, and images to label next.

Written as ``review.parquet`` and ``review.json`` into the run folder, for ``tutelage review``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch

from tutelage.chain.answers import temperature_of
from tutelage.chain.pipeline import Pipeline
from tutelage.chain.plan import FOLDS
from tutelage.chain.types import Beliefs, Finished, make_folds, one_hot
from tutelage.heads.probe import fit_joint_head, span_metric
from tutelage.stats.calibrate import softmax
from tutelage.stats.label_errors import find_label_errors
from tutelage.stats.metrics import Floats
from tutelage.stats.suggest import next_to_label
from tutelage.system.files import write_parquet

SUGGESTED = 200  # images to label next, at most


def write_worklist(chain: Pipeline) -> dict[str, list[Any]]:
    """Write both files, from the chain's teacher and its frozen features; the table's columns."""
    run, task, features = chain.run, chain.run.task, chain.features
    names, classes = run.catalog.names, run.catalog.classes
    held_out = held_out_beliefs(chain, chain.teachers)
    known = ~np.isnan(held_out[:, 0])
    log_probs = np.log(np.clip(held_out[known], 1e-12, None))
    errors = find_label_errors(log_probs, task.labels[known])
    suspicion = np.zeros(len(task.labeled))  # 0 where no model could judge
    suspicion[known] = errors.probability
    given = np.where(known[:, None], held_out, np.eye(len(classes))[task.labels])
    temperature = chain.teachers[-1].outcome.model.spec.temperature
    beliefs = softmax(chain.pool_logits, temperature)
    known_features, unlabeled = (
        bank.views[0].numpy() for bank in (features.labeled, features.pool)
    )
    wanted = next_to_label(beliefs, unlabeled, SUGGESTED, labeled=known_features, seed=run.seed)
    ranks: list[int | None] = [None] * len(task.pool)
    for rank, position in enumerate(wanted):
        ranks[position] = rank
    probs = np.concatenate([given, beliefs])
    order = np.argsort(-probs, axis=1, kind="stable")
    columns: dict[str, list[Any]] = {
        "image": [names[row] for row in (*task.labeled, *task.pool)],
        "given": [*(classes[k] for k in task.labels), *([None] * len(task.pool))],
        "label": [classes[k] for k in order[:, 0]],
        "confidence": probs.max(axis=1).tolist(),
        "other": [classes[k] for k in order[:, 1]],
        "suspicion": [*suspicion.tolist(), *([math.nan] * len(task.pool))],
        "next": [*([None] * len(task.labeled)), *ranks],
    }
    numbers = {"confidence": "float64", "suspicion": "float64", "next": "int32"}
    write_parquet(run.folder.path / "review.parquet", columns, **numbers)
    n, suspected = len(errors.probability), int(errors.suspected.sum())
    content = {
        "classes": list(classes),
        "sentences": [_doubt(n, suspected, round(errors.rate * n))] if n else [],
        "label_errors": {"judged": n, "suspected": suspected, "rate": errors.rate},
    }
    run.folder.write_json("review.json", content)
    return columns


def _doubt(n: int, suspected: int, expected: int) -> str:
    """What to do about wrong labels, of n that were judged; ``expected`` may be wrong in all."""
    more = f" In all, about {expected} may be." if expected > suspected else ""
    if not suspected:
        return f"None of your {n} labels looks wrong.{more}"
    look = "looks" if suspected == 1 else "look"
    return (
        f"{suspected} of your {n} labels {look} wrong: start with “Your labels”, the most doubtful "
        f"come first.{more}"
    )


def held_out_beliefs(chain: Pipeline, teachers: list[Finished]) -> Floats:
    """Probabilities (n, K) of the labelled images by models that did not learn from them.

    Of the stages that were kept, the latest that was judged on an image decides about it. With
    a val split none was judged on the labelled images, so heads are fitted on folds of them, of the
    kind that transfer chose. A row of NaN is an image that every model learned from.
    """
    task, features, choice = chain.run.task, chain.features, chain.choice
    probs = np.full((len(task.labeled), task.n_classes), np.nan)
    if task.judged is task.labeled:
        for done in teachers:
            known = done.outcome.beliefs.known
            temperature = done.outcome.model.spec.temperature
            probs[known] = softmax(done.outcome.beliefs.judged[known], temperature)
        return probs
    for fold in make_folds(task.labels, 0, FOLDS, chain.run.seed)[1:]:
        kept = features.labeled.views[0][torch.from_numpy(fold.keep)]
        head = fit_joint_head(
            kept,
            one_hot(task.labels[fold.keep], task.n_classes),
            torch.ones(len(kept)),
            [span_metric(metric, kept) for metric in features.metrics[choice["metric"]]],
            strength=choice["strength"],
        )
        probs[fold.judges] = head(features.labeled.take(fold.judges).views[0]).numpy()
    known = ~np.isnan(probs[:, 0])
    dealt = dataclasses.replace(task, judged=task.labeled, judged_labels=task.labels)
    probs[known] = softmax(probs[known], temperature_of(dealt, Beliefs([], probs)))
    return probs
