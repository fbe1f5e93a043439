"""What a person should look at after a run: doubtful labels, and images to label next.

Written as ``review.parquet`` and ``review.json`` into the run folder, for ``tutelage review``.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.chain.answers import temperature_of
from tutelage.chain.pipeline import Pipeline
from tutelage.chain.plan import FOLDS
from tutelage.chain.types import Beliefs, Finished, make_folds, one_hot
from tutelage.heads.probe import Head, fit_joint_head, span_metric
from tutelage.stats.calibrate import softmax
from tutelage.stats.label_errors import LabelErrors, find_label_errors
from tutelage.stats.metrics import Floats, Ints
from tutelage.stats.suggest import next_to_label
from tutelage.system.files import write_parquet

SUGGESTED = 200  # images to label next, at most
STEP = 50  # further labels whose gain is extrapolated
CURVE = (0.25, 0.5, 1.0)  # shares of the labels that heads learn from, for the extrapolation
LEAST_LABELS = 40  # with fewer, the curve would be noise


@dataclass(frozen=True)
class Curve:
    """Held-out error of a head on the pretrained trunk against its number of labels."""

    labels: Floats  # how many each head learned from
    errors: Floats  # its error on held-out labels

    def gain(self, labels: int, more: int) -> float:
        """Accuracy that ``more`` labels would bring to a head that learned from ``labels``.

        By a power law through the points: errors fall as a power of the number of labels (Cortes et
        al. 1993, "Learning Curves"; Hestness et al. 2017, arXiv:1712.00409). The points may end
        before ``labels``, since some are held out. More than the last error is not gained.
        """
        x, y = np.log(self.labels), np.log(np.clip(self.errors, 1e-3, None))
        slope, offset = np.polyfit(x, y, 1)
        slope = min(0.0, float(slope))
        now, then = np.exp(offset + slope * np.log([labels, labels + more]))
        return min(float(now - then), float(self.errors[-1]))


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
    curve = learning_curve(chain) if len(task.labels) >= LEAST_LABELS else None
    run.folder.write_json("review.json", facts(chain, errors, curve))
    return columns


def facts(chain: Pipeline, errors: LabelErrors, curve: Curve | None) -> dict[str, Any]:
    """What the review page says above the images."""
    run = chain.run
    n, suspected = len(errors.probability), int(errors.suspected.sum())
    gain = None
    if curve is not None and len(run.task.pool):
        gain = curve.gain(len(run.task.labels), STEP)
    sentences = [_doubt(n, suspected, round(errors.rate * n))] if n else []
    if gain is not None and curve is not None:
        sentences.append(
            f"{STEP} more labels would bring about {100 * gain:+.1f} points (to a linear "
            f"classifier on the pretrained network, extrapolated from {curve.labels[0]:.0f} to "
            f"{curve.labels[-1]:.0f} labels)."
        )
    elif len(run.task.pool):
        sentences.append(
            f"What {STEP} more labels would bring is estimated from {LEAST_LABELS} labels on."
        )
    return {
        "classes": list(run.catalog.classes),
        "sentences": sentences,
        "label_errors": {"judged": n, "suspected": suspected, "rate": errors.rate},
        "gain_of_50_labels": gain,
    }


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
    a val split none was judged on the labelled images, so heads are fitted on folds of them. A row
    of NaN is an image that every model learned from.
    """
    task = chain.run.task
    probs = np.full((len(task.labeled), task.n_classes), np.nan)
    if task.judged is task.labeled:
        for done in teachers:
            known = done.outcome.beliefs.known
            temperature = done.outcome.model.spec.temperature
            probs[known] = softmax(done.outcome.beliefs.judged[known], temperature)
        return probs
    dealt = dataclasses.replace(task, judged=task.labeled, judged_labels=task.labels)
    folds = make_folds(task.labels, 0, FOLDS, chain.run.seed)[1:]
    for fold in folds:
        view = chain.features.labeled.take(fold.judges).views[0]
        probs[fold.judges] = _head(chain, fold.keep)(view).numpy()
    known = ~np.isnan(probs[:, 0])
    probs[known] = softmax(probs[known], temperature_of(dealt, Beliefs([], probs)))
    return probs


def learning_curve(chain: Pipeline) -> Curve:
    """Errors of heads on shares of the labels, on labels that they were not fitted on."""
    task, judged_bank = chain.run.task, chain.features.judged
    rng = np.random.default_rng(chain.run.seed)
    folds = task.folds[1:] or task.folds
    sizes, errors = [], []
    for share in CURVE:
        used, wrong, judged = 0, 0, 0
        for fold in folds:
            keep = _share(fold.keep, task.labels, share, rng)
            head = _head(chain, keep)
            answers = head(judged_bank.take(fold.judges).views[0]).argmax(dim=1).numpy()
            wrong += int((answers != task.judged_labels[fold.judges]).sum())
            judged += len(answers)
            used += int(keep.sum())
        sizes.append(used / len(folds))
        errors.append(wrong / max(1, judged))
    return Curve(np.array(sizes), np.array(errors))


def _head(chain: Pipeline, keep: NDArray[np.bool_]) -> Head:
    """A head on the pretrained trunk, of the kind that transfer chose, from the kept labels."""
    task, choice = chain.run.task, chain.choice
    features = chain.features.labeled.views[0][torch.from_numpy(keep)]
    return fit_joint_head(
        features,
        one_hot(task.labels[keep], task.n_classes),
        torch.ones(len(features)),
        [span_metric(metric, features) for metric in chain.features.metrics[choice["metric"]]],
        strength=choice["strength"],
    )


def _share(
    keep: NDArray[np.bool_], labels: Ints, share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """``keep`` (n,) bool with ``share`` of each class, at least one image."""
    part = np.zeros_like(keep)
    for k in np.unique(labels[keep]):
        members = rng.permutation(np.flatnonzero(keep & (labels == k)))
        part[members[: max(1, round(share * len(members)))]] = True
    return part
