"""What the report shows of a finished run, and the tables in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tutelage.chain.measure import Tested
from tutelage.chain.pipeline import Pipeline
from tutelage.chain.sheets import class_sheets, rounds, sheets, thumbs
from tutelage.chain.types import Finished, Run
from tutelage.data.split import ROLES
from tutelage.deploy.latency import onnx_latency
from tutelage.models.classifier import count_parameters
from tutelage.report.model import (
    FILES,
    CloudImage,
    DeploymentRow,
    PseudoRow,
    Report,
    StageTest,
    Thumb,
)
from tutelage.report.wording import now, title
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Floats, Ints
from tutelage.stats.results import RunMetrics
from tutelage.stats.suggest import directions
from tutelage.system.files import write_parquet

CLOUD = (150, 250)  # labelled and unlabelled images in the cloud, at most
CLOUD_SIDE = 56  # side of each of them, in pixels


def pseudo_label_table(run: Run, finished: Sequence[Finished]) -> dict[str, list[Any]]:
    """Every pool image in every round: its label, how sure that was, and why it was used."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("image", "label", "confidence", "round", "accepted", "reason")
    }
    names = [run.catalog.names[row] for row in run.task.pool]
    for done, labels in rounds(finished):
        columns["image"] += names
        columns["label"] += [run.catalog.classes[k] for k in labels.labels]
        columns["confidence"] += labels.confidence.tolist()
        columns["round"] += [_number(done)] * len(names)
        columns["accepted"] += labels.accepted.tolist()
        columns["reason"] += labels.reasons()
    return columns


def write_pseudo_labels(run: Run, finished: Sequence[Finished]) -> None:
    """Write ``pseudo_labels.parquet``; without rounds it has no rows."""
    path, table = run.folder.path / "pseudo_labels.parquet", pseudo_label_table(run, finished)
    write_parquet(path, table, confidence="float64", round="int32", accepted="bool")


def _number(done: Finished) -> int:
    return int(done.name.rsplit("-", 1)[1])


def pseudo_rows(run: Run, finished: Sequence[Finished]) -> list[PseudoRow]:
    """Yield and, where the truth is known, precision of each round and class."""
    truth = run.split.truth[run.task.pool]
    rows: list[PseudoRow] = []
    for done, labels in rounds(finished):
        for k, name in enumerate(run.catalog.classes):
            members = (labels.labels == k) & ~labels.outside
            taken = members & labels.accepted
            known = taken & (truth >= 0)
            confidence = labels.confidence[taken]
            rows.append(
                {
                    "round": _number(done),
                    "accepted": done.accepted,
                    "class": name,
                    "selected": int(taken.sum()),
                    "pool": int(members.sum()),
                    "precision": float((truth[known] == k).mean()) if known.any() else None,
                    "known": int(known.sum()),
                    "mean_confidence": float(confidence.mean()) if taken.any() else None,
                }
            )
    return rows


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
    teacher = chain.teachers[-1].name
    said += [f"taken for {classes[p.argmax()]} by {teacher}, {p.max():.0%}" for p in probs]
    captions = [f"{names[row]}: {words}" for row, words in zip(rows, said, strict=True)]
    tiles = thumbs(run, rows, captions, CLOUD_SIDE)
    known = [number < len(labeled) for number in range(len(rows))]
    return [
        CloudImage(float(x), float(y), group, has_label, thumb.caption, thumb.image)
        for (x, y), group, has_label, thumb in zip(plane, groups, known, tiles, strict=True)
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


def held_out(finished: Sequence[Finished], labels: Ints) -> StageTest | None:
    """The delivered model's held-out answers, or if it has none, those of its teacher.

    ``labels`` (J,) are those of the judged images; None if no label was held out from either.
    """
    for done in reversed([done for done in finished if done.accepted][-2:]):
        beliefs = done.outcome.beliefs
        if beliefs.known.any():
            probs = softmax(beliefs.judged[beliefs.known], done.outcome.model.spec.temperature)
            return StageTest(probs, labels[beliefs.known])
        if done.name != "student":
            break
    return None


def make_report(
    run: Run,
    finished: Sequence[Finished],
    metrics: RunMetrics,
    tested: Tested,
    deployed: Sequence[DeploymentRow],
    command: str,
    points: Sequence[CloudImage] = (),
    to_review: Sequence[Thumb] = (),
) -> Report:
    """Gather everything the page shows."""
    predictions = {name: StageTest(p, tested.labels) for name, p in tested.probs.items()}
    return Report(
        title=title("tutelage", run.catalog.classes),
        command=command,
        created=now(),
        folder=str(run.folder.path),
        metrics=metrics,
        classes=run.catalog.classes,
        predictions=predictions,
        held_out=held_out(finished, run.task.judged_labels),
        pseudo=pseudo_rows(run, finished),
        to_review=to_review,
        class_sheets=class_sheets(run, finished, tested.rows, predictions),
        sheets=sheets(run, finished),
        notes=run.notes,
        facts=run.facts,
        skipped=sorted(run.store.reasons.items()),
        reasons={done.name: done.reason for done in finished[1:]},
        comparisons={done.name: done.comparison for done in finished if done.comparison},
        deployment=deployed,
        settings=run.folder.read_json("config.json"),
        cloud=points,
        counts={role: len(run.split.indices(role)) for role in ROLES},
        files=[name for name in FILES if _is_left(run.folder.path / name)],
    )


def _is_left(path: Path) -> bool:
    """Whether the run leaves a file; the card is written after the report."""
    return path.exists() or path.name == "MODEL_CARD.md"
