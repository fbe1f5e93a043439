"""What the report shows of a finished run, and the tables in the run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.augment import Center, apply
from tutelage.chain.pipeline import Pipeline
from tutelage.chain.types import Finished, Run, is_round
from tutelage.chain.views import pictures, strong_policy
from tutelage.data.split import ROLES
from tutelage.deploy.latency import onnx_latency
from tutelage.models.classifier import count_parameters
from tutelage.report.model import (
    CloudImage,
    DecisionRow,
    DeploymentRow,
    PseudoRow,
    Report,
    Sheet,
    StageTest,
    Thumb,
)
from tutelage.report.wording import now, title
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Floats, metrics
from tutelage.stats.pseudo_labels import PseudoLabels
from tutelage.stats.suggest import directions
from tutelage.system.files import write_parquet
from tutelage.training.loader import Rows

SHOWN = 24  # pictures on a contact sheet
MISTAKES = 60  # pictures on the sheet of mistakes, which can be filtered
CLOUD = (150, 250)  # labelled and unlabelled images in the cloud, at most
CLOUD_SIDE = 56  # side of each of them, in pixels


def pseudo_label_table(run: Run, finished: Sequence[Finished]) -> dict[str, list[Any]]:
    """Every pool image in every round: its label, how sure that was, and why it was used."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("image", "label", "confidence", "round", "accepted", "reason")
    }
    names = [run.catalog.names[row] for row in run.task.pool]
    for number, labels in _rounds(finished):
        columns["image"] += names
        columns["label"] += [run.catalog.classes[k] for k in labels.labels]
        columns["confidence"] += labels.confidence.tolist()
        columns["round"] += [number] * len(names)
        columns["accepted"] += labels.accepted.tolist()
        columns["reason"] += labels.reasons()
    return columns


def write_pseudo_labels(run: Run, finished: Sequence[Finished]) -> None:
    """Write ``pseudo_labels.parquet``; without rounds it has no rows."""
    path, table = run.folder.path / "pseudo_labels.parquet", pseudo_label_table(run, finished)
    write_parquet(path, table, confidence="float64", round="int32", accepted="bool")


def _rounds(finished: Sequence[Finished]) -> list[tuple[int, PseudoLabels]]:
    return [
        (int(done.name.rsplit("-", 1)[1]), done.outcome.pseudo_labels)
        for done in finished
        if is_round(done) and done.outcome.pseudo_labels is not None
    ]


def pseudo_rows(run: Run, finished: Sequence[Finished]) -> list[PseudoRow]:
    """Yield and, where the truth is known, precision of each round and class."""
    truth = run.split.truth[run.task.pool]
    rows: list[PseudoRow] = []
    for number, labels in _rounds(finished):
        for k, name in enumerate(run.catalog.classes):
            members = (labels.labels == k) & ~labels.outside
            taken = members & labels.accepted
            known = taken & (truth >= 0)
            confidence = labels.confidence[taken]
            rows.append(
                {
                    "round": number,
                    "class": name,
                    "selected": int(taken.sum()),
                    "pool": int(members.sum()),
                    "precision": float((truth[known] == k).mean()) if known.any() else None,
                    "known": int(known.sum()),
                    "mean_confidence": float(confidence.mean()) if taken.any() else None,
                }
            )
    return rows


def decisions(finished: Sequence[Finished]) -> list[DecisionRow]:
    """One row per judged stage."""
    return [
        {
            "stage": done.name,
            "accepted": done.accepted,
            "reason": done.reason,
            "before": done.comparison.before if done.comparison.n else None,
            "after": done.comparison.after if done.comparison.n else None,
            "n": done.comparison.n,
            "wins": done.comparison.wins,
            "losses": done.comparison.losses,
        }
        for done in finished
        if done.comparison is not None
    ]


def deployment(named: Sequence[tuple[str, Finished, Path]]) -> list[DeploymentRow]:
    """Size and latency (one image, one thread) of exported models."""
    rows: list[DeploymentRow] = []
    for name, done, path in named:
        timed = onnx_latency(path)
        rows.append(
            {
                "name": name,
                "parameters": count_parameters(done.outcome.model),
                "bytes": path.stat().st_size,
                "latency_ms_p50": timed.p50_ms,
                "latency_ms_p05": timed.p05_ms,
                "format": "ONNX float32",
            }
        )
    return rows


def sheets(run: Run, finished: Sequence[Finished], probs: dict[str, Floats]) -> list[Sheet]:
    """Contact sheets: the student's views, sure and unsure pseudo-labels, the worst mistakes."""
    out = [_views_sheet(run)]
    rounds = _rounds([done for done in finished if done.accepted]) or _rounds(finished)
    if rounds:
        number, labels = rounds[-1]
        order = np.argsort(-labels.confidence, kind="stable")
        order = order[~labels.outside[order]]
        far = np.argsort(-labels.distances, kind="stable")[: labels.outside.sum()]
        for heading, note, chosen in (
            ("Most confident pseudo-labels", "these should all look right", order[:SHOWN]),
            (
                "Least confident pseudo-labels",
                "the teacher is unsure of these",
                order[::-1][:SHOWN],
            ),
            ("Out of class", "left out: these should be none of the classes", far[:SHOWN]),
        ):
            if not len(chosen):
                continue
            captions = [
                f"{run.catalog.classes[labels.labels[i]]} {labels.confidence[i]:.0%}"
                for i in chosen
            ]
            rows = run.task.pool[chosen]
            out.append(Sheet(f"{heading} (round {number})", note, _thumbs(run, rows, captions)))
    if run.copies.found:
        out.append(_copies_sheet(run))
    test = run.split.indices("test")
    if len(test) and finished:
        name = [done for done in finished if done.accepted][-1].name
        truth, predicted = run.split.truth[test], probs[name].argmax(axis=1)
        sure = probs[name].max(axis=1)
        wrong = np.flatnonzero(predicted != truth)
        worst = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
        captions = [
            f"{run.catalog.classes[truth[i]]}, taken for "
            f"{run.catalog.classes[predicted[i]]} {sure[i]:.0%}"
            for i in worst
        ]
        note = f"the most confident wrong answers of the stage '{name}' on test"
        both = [tuple(sorted({int(truth[i]), int(predicted[i])})) for i in worst]
        thumbs = [
            dataclasses.replace(thumb, tags=tags)
            for thumb, tags in zip(_thumbs(run, test[worst], captions), both, strict=True)
        ]
        out.append(Sheet("Worst mistakes", note, thumbs, filters=run.catalog.classes))
    return out


def _views_sheet(run: Run) -> Sheet:
    rows = np.concatenate([run.task.labeled, run.task.pool])[:SHOWN]
    images, aspect = run.task.canvases.take(rows)
    images, aspect = images.cpu(), aspect.cpu()
    generator = torch.Generator().manual_seed(run.seed)
    plan = strong_policy(run.config.transfer, run.base.spec.crop_pct).plan(aspect, generator)
    views = pictures(apply(images, plan, 144))
    note = "training images in the strong view: cropped, mirrored, changed in colour and shape"
    thumbs = [Thumb(view, run.catalog.names[row]) for view, row in zip(views, rows, strict=True)]
    return Sheet("The strong view", note, thumbs)


def _thumbs(run: Run, rows: Rows, captions: Sequence[str], side: int = 144) -> list[Thumb]:
    if not len(rows):
        return []
    images, aspect = run.task.canvases.take(rows)
    pixels = _whole(images.cpu(), aspect.cpu(), side)
    return [Thumb(image, text) for image, text in zip(pixels, captions, strict=True)]


def _whole(images: torch.Tensor, aspect: torch.Tensor, side: int) -> NDArray[np.uint8]:
    """Canvases as pictures uint8 (B, side, side, 3) of their true shape."""
    return pictures(apply(images, Center(1.0).plan(aspect), side))


def _copies_sheet(run: Run) -> Sheet:
    """Both images of the first pairs, side by side; the worst ones first."""
    found = sorted(run.copies.found, key=lambda p: (not p.leaks, not p.contradicts))[:SHOWN]
    where = {name: row for row, name in enumerate(run.catalog.names)}
    rows = np.array([where[name] for pair in found for name in (pair.image, pair.other)])
    images, aspect = run.store.images[rows], run.store.aspect[rows]
    pixels = _whole(torch.from_numpy(images), torch.from_numpy(aspect), 144)
    both = np.concatenate([pixels[::2], pixels[1::2]], axis=2)
    captions = [
        f"{p.kind}: {p.image} ({p.split}, {p.label or 'unlabelled'}) of {p.other} "
        f"({p.other_split}, {p.other_label or 'unlabelled'})"
        for p in found
    ]
    note = (
        "the same image twice: across splits, then under two labels, then within a split; "
        "all are in duplicates.csv"
    )
    thumbs = [Thumb(image, text) for image, text in zip(both, captions, strict=True)]
    return Sheet("Copies", note, thumbs)


def leakage(run: Run, probs: Mapping[str, Floats]) -> dict[str, Any]:
    """What copies there are, and each stage's figures without the copied test images.

    ``probs`` holds each stage's answers (N, K) to the N test images.
    """
    copies, rows = run.copies, run.split.indices("test")
    leaking = copies.leaking("test")
    clean = np.array([run.catalog.names[row] not in leaking for row in rows], dtype=bool)
    truth = run.split.truth[rows]
    return {
        "test": int((~clean).sum()),
        "val": len(copies.leaking("val")),
        "two_labels": sum(pair.contradicts for pair in copies.found),
        "left_out": len(copies.left_out),
        "pairs": len(copies.found),
        "without": {name: metrics(stage[clean], truth[clean]) for name, stage in probs.items()}
        if clean.any() and not clean.all()
        else {},
    }


def cloud(chain: Pipeline) -> list[CloudImage]:
    """Some training images, in the plane, by the pretrained trunk's features.

    By t-SNE (van der Maaten and Hinton 2008) where scikit-learn is installed, else in their first
    two principal directions.
    """
    run, task = chain.run, chain.run.task
    rng = np.random.default_rng(run.seed)
    labeled, pool = (
        np.sort(rng.permutation(len(rows))[:most])
        for rows, most in zip((task.labeled, task.pool), CLOUD, strict=True)
    )
    own = run.base.own_features
    features = [
        bank.views[0][torch.from_numpy(chosen), :own].numpy()
        for bank, chosen in ((chain.features.labeled, labeled), (chain.features.pool, pool))
    ]
    plane = _plane(np.concatenate(directions(*features, seed=run.seed)))
    temperature = chain.teachers[-1].outcome.model.spec.temperature
    probs = softmax(chain.pool_logits[pool], temperature)
    names, classes = run.catalog.names, run.catalog.classes
    rows = np.concatenate([task.labeled[labeled], task.pool[pool]])
    groups = [*task.labels[labeled].tolist(), *probs.argmax(axis=1).tolist()]
    said = [f"labelled {classes[k]}" for k in task.labels[labeled]]
    said += [f"taken for {classes[p.argmax()]}, {p.max():.0%}" for p in probs]
    captions = [f"{names[row]}: {words}" for row, words in zip(rows, said, strict=True)]
    thumbs = _thumbs(run, rows, captions, CLOUD_SIDE)
    known = [number < len(labeled) for number in range(len(rows))]
    return [
        CloudImage(float(x), float(y), group, has_label, thumb.caption, thumb.image)
        for (x, y), group, has_label, thumb in zip(plane, groups, known, thumbs, strict=True)
    ]


def _plane(features: Floats) -> Floats:
    """Features (N, D) in the unit square (N, 2)."""
    plane = features[:, :2]
    if len(features) > 10 and find_spec("sklearn"):
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(features) - 1) / 3)
        plane = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    span = np.ptp(plane, axis=0)
    return np.asarray((plane - plane.min(axis=0)) / np.where(span > 0, span, 1.0))


def make_report(
    run: Run,
    finished: Sequence[Finished],
    metrics: dict[str, Any],
    probs: dict[str, Floats],
    deployed: Sequence[DeploymentRow],
    command: str,
    points: Sequence[CloudImage] = (),
) -> Report:
    """Gather everything the page shows."""
    labels = run.split.truth[run.split.indices("test")]
    return Report(
        title=title("tutelage", run.catalog.classes),
        command=command,
        created=now(),
        metrics=metrics,
        classes=run.catalog.classes,
        predictions={name: StageTest(p, labels) for name, p in probs.items()},
        pseudo=pseudo_rows(run, finished),
        sheets=sheets(run, finished, probs),
        notes=run.notes,
        skipped=sorted(run.store.reasons.items()),
        decisions=decisions(finished),
        deployment=deployed,
        settings=run.folder.read_json("config.json"),
        cloud=points,
        counts={role: len(run.split.indices(role)) for role in ROLES},
    )
