"""What the report shows of a finished run, and the tables in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.chain.measure import Tested
from tutelage.chain.sheets import class_sheets, rounds, sheets
from tutelage.chain.types import Finished, Run
from tutelage.data.split import ROLES
from tutelage.deploy.bench import onnx_latency
from tutelage.models.classifier import count_parameters
from tutelage.pages.wording import now, title
from tutelage.report.model import (
    FILES,
    DeploymentRow,
    PseudoRow,
    Report,
    StageTest,
    Thumb,
)
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Ints
from tutelage.stats.results import RunMetrics
from tutelage.system.files import write_parquet


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
        files=[name for name in FILES if _is_left(run.folder.path / name)],
    )


def _is_left(path: Path) -> bool:
    """Whether the run leaves a file; the card is written after the report."""
    return path.exists() or path.name == "MODEL_CARD.md"
