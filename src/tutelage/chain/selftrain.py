"""What a round of self-training learns from: whom to ask about the pool, and what is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.chain.stages import Beliefs, Fold, Frozen, Task, held_out_losses
from tutelage.config import RunConfig
from tutelage.heads.bank import Bank
from tutelage.stats.calibrate import softmax
from tutelage.stats.clusters import agreement, fit_clusters
from tutelage.stats.metrics import Floats
from tutelage.stats.pseudo_labels import PseudoLabels, align, confusion, estimate_prior, select
from tutelage.stats.unknown import Detection, detect

LEAST_AGREEMENT = 0.2  # of clusters and head: no more than slight (Landis and Koch 1977)


@dataclass(frozen=True)
class Clustered:
    """What the clusters of the pool say.

    Attributes:
        beliefs: over the pool and the judged images, as a stage's.
        agreement: Cohen's kappa with the teacher about the pool, on all labels.
        likelier: held-out labels are likelier with them than with the teacher.
    """

    beliefs: Beliefs
    agreement: float
    likelier: bool


def ask_clusters(
    task: Task,
    frozen: Frozen,
    metric: str,
    teacher: Beliefs,
    temperature: float,
    detections: Sequence[Detection | None],
) -> Clustered:
    """Fit clusters to labels and pool, once per chain, and compare them with the teacher.

    Args:
        task: the images, with a pool.
        frozen: features of the frozen trunk.
        metric: in which of its metrics.
        teacher: what a head that knows the labels alone believes, for every chain.
        temperature: that calibrates it.
        detections: per chain, the pool images out of class. They take no part.
    """
    mapped = frozen.metrics[metric]
    labeled, unlabeled, judged = (
        mapped(bank.clean_mean()) for bank in (frozen.labeled, frozen.pool, frozen.judged)
    )
    pool: list[Floats | None] = []
    held_out = np.full((len(task.judged), task.n_classes), np.nan)
    chains = zip(task.folds, teacher.pool, detections, strict=True)
    for chain, logits, detection in chains:
        if logits is None:
            pool.append(None)
            continue
        inside = _inside(len(logits), detection)
        beliefs = softmax(logits[inside], temperature)
        prior = _pool_prior(task, chain, teacher, temperature, beliefs)
        clusters = fit_clusters(
            labeled[torch.from_numpy(chain.keep)],
            task.labels[chain.keep],
            unlabeled[torch.from_numpy(inside)],
            prior,
        )
        pool.append(clusters(unlabeled))
        held_out[chain.judges] = clusters(judged[torch.from_numpy(chain.judges)])
    found = Beliefs(pool, held_out)
    ours, theirs = pool[0], teacher.pool[0]
    assert ours is not None
    assert theirs is not None
    inside = _inside(len(ours), detections[0])
    kappa = agreement(ours[inside].argmax(axis=1), theirs[inside].argmax(axis=1), task.n_classes)
    both = (found.known & teacher.known)[:, None]
    ours_nll, theirs_nll = (
        held_out_losses(task, np.where(both, beliefs.judged, np.nan)).sum()
        for beliefs in (found, teacher)
    )
    return Clustered(found, kappa, likelier=bool(ours_nll < theirs_nll))


def _inside(n: int, detection: Detection | None) -> NDArray[np.bool_]:
    return np.ones(n, dtype=bool) if detection is None else ~detection.outside


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
    chains = zip(task.folds, teacher.pool, detections, strict=True)
    for chain, logits, detection in chains:
        if logits is None or len(logits) == 0:
            out.append(None)
            continue
        beliefs = softmax(logits, temperature)
        inside = _inside(len(logits), detection)
        prior = _pool_prior(task, chain, teacher, temperature, beliefs[inside])
        beliefs[inside] = align(beliefs[inside], prior, strength=config.self_train.alignment)
        expected = float(beliefs[inside].max(axis=1).mean())
        taken = 1.0 if fraction is None else fraction * expected
        out.append(select(beliefs, fraction=taken, detection=detection))
    return out


def _pool_prior(
    task: Task, chain: Fold, teacher: Beliefs, temperature: float, beliefs: Floats
) -> Floats:
    """Estimated class frequencies (K,) of pool images that a chain believes (M, K) of.

    The teacher's confusion is that of the judged images, without those that the chain is judged
    on.
    """
    known = teacher.known
    if not chain.keep.all():
        known[chain.judges] = False
    probs = softmax(teacher.judged[known], temperature)
    rates = confusion(probs, task.judged_labels[known], task.n_classes)
    return estimate_prior(beliefs.mean(axis=0), rates, task.labels[chain.keep])


def detections_of(task: Task, frozen: Frozen, config: RunConfig) -> list[Detection | None]:
    """Per chain, the pool images that are none of the classes, as far as its labels can tell."""
    if config.self_train.out_of_class == "keep" or len(task.pool) == 0:
        return [None] * len(task.folds)

    def features(bank: Bank) -> Floats:
        return frozen.metrics["plain"](bank.clean_mean()).numpy().astype(np.float64)

    labeled, pool = features(frozen.labeled), features(frozen.pool)
    return [detect(labeled[chain.keep], task.labels[chain.keep], pool) for chain in task.folds]
