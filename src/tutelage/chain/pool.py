"""What a round of self-training learns from: the pool's pseudo-labels.

A teacher's calibrated beliefs about the pool, or those of the pool's own clusters, are aligned to
the estimated class frequencies. Images that are none of the classes are left out first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.chain.answers import held_out_nll
from tutelage.chain.frozen import Features
from tutelage.chain.types import Beliefs, Fold, Run, Task
from tutelage.heads.bank import Bank
from tutelage.stats.calibrate import softmax
from tutelage.stats.clusters import agreement, fit_clusters
from tutelage.stats.metrics import Floats, Ints
from tutelage.stats.pseudo_labels import (
    PseudoLabels,
    align_to_prior,
    confusion_rates,
    estimate_prior,
    select,
)
from tutelage.stats.unknown import Detection, detect

# Cohen's kappa by the words of Landis and Koch 1977: above 0.2 "fair", 0.4 "moderate", 0.6
# "substantial".
SLIGHT, FAIR, MODERATE = 0.2, 0.4, 0.6
KAPPA = "Cohen's kappa; 1 is full agreement, 0 is chance"
LEAST_SHARE = 0.8  # of the agreement among heads that clusters must reach


def detect_unknown(run: Run, features: Features) -> list[Detection | None]:
    """Per fold, the pool images that are none of the classes, as far as its labels can tell."""
    task = run.task
    if run.config.self_train.out_of_class == "keep" or len(task.pool) == 0:
        return [None] * len(task.folds)

    def clean(bank: Bank) -> Floats:
        return features.mapped("plain", bank.clean_mean()).numpy().astype(np.float64)

    labeled, pool = clean(features.labeled), clean(features.pool)
    return [detect(labeled[fold.keep], task.labels[fold.keep], pool) for fold in task.folds]


def label_pool(
    run: Run, teacher: Beliefs, temperature: float, detections: Sequence[Detection | None]
) -> list[PseudoLabels | None]:
    """Pseudo-labels per fold: calibrated, and aligned to the pool's estimated classes.

    The ``temperature`` calibrates the teacher's beliefs. Images that each fold's detection calls
    out of class are left out first: they say nothing about how frequent the classes are.
    """
    out: list[PseudoLabels | None] = []
    for fold, logits, detection in zip(run.task.folds, teacher.pool, detections, strict=True):
        if logits is None or len(logits) == 0:
            out.append(None)
            continue
        beliefs = softmax(logits, temperature)
        inside = _inside(len(logits), detection)
        prior = _pool_prior(run.task, fold, teacher, temperature, beliefs[inside])
        strength = run.config.self_train.alignment
        beliefs[inside] = align_to_prior(beliefs[inside], prior, strength=strength)
        out.append(select(beliefs, detection))
    return out


@dataclass(frozen=True)
class Clustered:
    """What the clusters of the pool say."""

    beliefs: Beliefs  # about the pool and the judged images, as a stage's
    agreement: float  # Cohen's kappa with the teacher about the pool, on all labels
    likelier: bool  # held-out labels are likelier with the clusters than with the teacher
    # Mean kappa about the pool of two heads from different folds; None where there is but one head.
    heads: float | None

    @property
    def doubt(self) -> str:
        """What speaks against rounds of self-training, in words; empty if nothing does.

        A round moves boundaries to where the pool is thin, so the pool must fall into the classes.
        If it does, a head agrees with its clusters better than with another head, which has errors
        of its own; heads that hardly agree know too little to say that. And where few labels make
        unsettled heads, held-out labels must be likelier with the clusters than with the head.
        The bars are from 20 draws of labels on five data sets (benchmarks/log.md).
        """
        said = f"agreement between the clusters and the teacher: {self.agreement:.2f}"
        if self.heads is None:
            return f"{said} ({KAPPA})" if self.agreement < SLIGHT else ""
        if self.heads > FAIR and self.agreement < LEAST_SHARE * self.heads:
            return (
                f"{said}, between teachers fitted to parts of the labels: {self.heads:.2f} "
                f"({KAPPA})"
            )
        if self.heads <= MODERATE and not self.likelier:
            return (
                "agreement between teachers fitted to parts of the labels: only "
                f"{self.heads:.2f} ({KAPPA}), and clusters predict held-out labels no better"
            )
        return ""


def ask_clusters(
    run: Run,
    features: Features,
    metric: str,
    teacher: Beliefs,
    temperature: float,
    detections: Sequence[Detection | None],
) -> Clustered:
    """Fit clusters to labels and pool, once per fold, and compare them with the teacher.

    The teacher is a head that knows the labels alone, calibrated by the ``temperature``. The pool
    images that a fold's detection calls out of class take no part.
    """
    task = run.task
    labeled, unlabeled, judged = (
        features.mapped(metric, bank.clean_mean())
        for bank in (features.labeled, features.pool, features.judged)
    )
    pool: list[Floats | None] = []
    held_out = np.full((len(task.judged), task.n_classes), np.nan)
    for fold, logits, detection in zip(task.folds, teacher.pool, detections, strict=True):
        if logits is None:
            pool.append(None)
            continue
        inside = _inside(len(logits), detection)
        beliefs = softmax(logits[inside], temperature)
        clusters = fit_clusters(
            labeled[torch.from_numpy(fold.keep)],
            task.labels[fold.keep],
            unlabeled[torch.from_numpy(inside)],
            _pool_prior(task, fold, teacher, temperature, beliefs),
        )
        pool.append(clusters(unlabeled))
        held_out[fold.judges] = clusters(judged[torch.from_numpy(fold.judges)])
    found = Beliefs(pool, held_out)

    def answers(beliefs: Beliefs) -> list[Ints]:
        """Per fold that was run, the likeliest class of the pool images that are not left out."""
        known = [logits for logits in beliefs.pool if logits is not None]
        return [logits[_inside(len(logits), detections[0])].argmax(axis=1) for logits in known]

    heads = answers(teacher)
    pairs = [agreement(a, b, task.n_classes) for a, b in itertools.combinations(heads, 2)]
    # An image of a class without labels favours neither: no model knows that class.
    learnt = np.isin(task.judged_labels, task.labels)
    both = (found.known & teacher.known & learnt)[:, None]
    ours, theirs = (
        held_out_nll(task, np.where(both, beliefs.judged, np.nan)).sum()
        for beliefs in (found, teacher)
    )
    return Clustered(
        found,
        agreement(answers(found)[0], heads[0], task.n_classes),
        likelier=bool(ours < theirs),
        heads=float(np.mean(pairs)) if pairs else None,
    )


def _inside(n: int, detection: Detection | None) -> NDArray[np.bool_]:
    return np.ones(n, dtype=bool) if detection is None else ~detection.outside


def _pool_prior(
    task: Task, fold: Fold, teacher: Beliefs, temperature: float, beliefs: Floats
) -> Floats:
    """Estimated class frequencies (K,) of pool images, from a fold's ``beliefs`` (M, K) about them.

    The teacher's confusion is measured on the judged images, without those that judge the fold. A
    split for validation judges the only fold there is, and is not left out: all that it gives is a
    number for each class.
    """
    known = teacher.known
    if not fold.keep.all():
        known[fold.judges] = False
    probs = softmax(teacher.judged[known], temperature)
    rates = confusion_rates(probs, task.judged_labels[known], task.n_classes)
    return estimate_prior(beliefs.mean(axis=0), rates, task.labels[fold.keep])
