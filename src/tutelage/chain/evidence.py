"""Every stage's figures on the test images, and what the report and the tables show of a run.

The test images are looked at here and nowhere else in a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tutelage.chain.answers import evaluation_look
from tutelage.chain.sheets import class_sheets, rounds, sheets
from tutelage.chain.types import Finished, Run
from tutelage.data.split import ROLES
from tutelage.deploy.bench import onnx_latency
from tutelage.models.classifier import count_parameters
from tutelage.pages.wording import now, title
from tutelage.report.model import FILES, DeploymentRow, PseudoRow, Report, StageTest, Thumb
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Floats, Ints, metrics
from tutelage.stats.results import Figures, Leakage, RunMetrics, Stage
from tutelage.system.files import write_parquet
from tutelage.training.loader import Rows


@dataclass(frozen=True)
class Tested:
    """What the stages answered about the N test images."""

    rows: Rows  # (N,) in the catalog, without those that were streamed and lost on the way
    labels: Ints  # (N,)
    probs: dict[str, Floats]  # stage -> (N, K), calibrated; empty without test images


def predict_test(run: Run, finished: Sequence[Finished]) -> Tested:
    """Let each stage look at the test images.

    Stages that share the frozen trunk share its features: those of the model that looks at most
    of them, which begin with the trunk's own.
    """
    rows = run.split.indices("test")
    if not len(rows):
        return Tested(rows, run.split.truth[rows], {})
    features: Tensor | None = None
    frozen = [done.outcome.model for done in finished if done.outcome.frozen]
    widest = max(frozen, key=lambda model: model.num_features, default=None)
    look = partial(evaluation_look, run.task.canvases, rows)
    out: dict[str, Floats] = {}
    for done in finished:
        model = done.outcome.model
        with run.progress(f"test, {done.name}", len(rows), "image") as tick:
            if widest is None or not done.outcome.frozen:
                logits = look(model, run.device, progress=tick)
            else:
                if features is None:
                    features = look(widest, run.device, "features", progress=tick)
                with torch.no_grad():
                    logits = model.head(features[:, : model.num_features])
        out[done.name] = softmax(logits.numpy().astype(np.float64), model.spec.temperature)
    there = np.array([run.catalog.names[row] not in run.store.reasons for row in rows])
    rows = rows[there]
    probs = {name: answers[there] for name, answers in out.items()}
    return Tested(rows, run.split.truth[rows], probs if len(rows) else {})


def measure(run: Run, finished: Sequence[Finished]) -> tuple[RunMetrics, Tested]:
    """The content of metrics.json, and the answers behind it."""
    tested = predict_test(run, finished)
    entries: list[Stage] = [
        {
            "name": done.name,
            "accepted": done.accepted,
            "seconds": round(done.seconds, 2),
            "parameters": count_parameters(done.outcome.model),
            "val": _held_out(run, done),
            "test": metrics(tested.probs[done.name], tested.labels) if tested.probs else None,
        }
        for done in finished
    ]
    teachers = [entry for entry in entries if entry["accepted"] and entry["name"] != "student"]
    teacher = teachers[-1] if teachers else None
    final = entries[-1] if teacher is None or entries[-1]["name"] == "student" else teacher
    leaks = leakage(run, tested)
    return {"stages": entries, "final": final, "teacher": teacher, "leakage": leaks}, tested


def leakage(run: Run, tested: Tested) -> Leakage:
    """What copies there are, and each stage's figures without the copied test images."""
    copies, labels = run.copies, tested.labels
    leaking = copies.leaking("test")
    clean = np.array([run.catalog.names[row] not in leaking for row in tested.rows], dtype=bool)
    return {
        "test": int((~clean).sum()),
        "val": len(copies.leaking("val")),
        "two_labels": sum(pair.contradicts for pair in copies.found),
        "left_out": len(copies.left_out),
        "pairs": len(copies.found),
        "without": {name: metrics(p[clean], labels[clean]) for name, p in tested.probs.items()}
        if clean.any() and not clean.all()
        else {},
    }


def _held_out(run: Run, done: Finished) -> Figures | None:
    beliefs = done.outcome.beliefs
    if not beliefs.known.any():
        return None
    probs = softmax(beliefs.judged[beliefs.known], done.outcome.model.spec.temperature)
    return metrics(probs, run.task.judged_labels[beliefs.known])


def write_pseudo_labels(run: Run, finished: Sequence[Finished]) -> None:
    """Write ``pseudo_labels.parquet``: every pool image in every round, and why it was used."""
    names, known = [run.catalog.names[row] for row in run.task.pool], rounds(finished)
    table = {
        "image": names * len(known),
        "label": [run.catalog.classes[k] for _, labels in known for k in labels.labels],
        "confidence": [p for _, labels in known for p in labels.confidence.tolist()],
        "round": [_number(done) for done, _ in known for _ in names],
        "accepted": [taken for _, labels in known for taken in labels.accepted.tolist()],
        "reason": [reason for _, labels in known for reason in labels.reasons()],
    }
    path = run.folder.path / "pseudo_labels.parquet"
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
        counts={role: len(run.split.indices(role)) for role in ROLES},
        # The card is written after the report.
        files=[n for n in FILES if n == "MODEL_CARD.md" or (run.folder.path / n).exists()],
    )
