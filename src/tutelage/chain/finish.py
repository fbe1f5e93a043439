"""What a run leaves when its last decision was made: models, exports, figures, report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tutelage.chain import candidates, evidence, pipeline, runs, worklist
from tutelage.deploy.export import PARITY_IMAGES, noise_images, readable
from tutelage.deploy.onnx import export_onnx, parity
from tutelage.models.folder import save_model
from tutelage.report import card
from tutelage.report.html import write, write_page


def finish(work: Any, chain: Any, command: str) -> dict[str, Any]:
    """Everything after the last decision: models, export, test figures, tables, report."""
    out = work.folder.path
    named = []
    for stage in [s for s in chain.finished if s.accepted]:
        if stage.name == "student":
            named.append(("student", stage, out / "student.onnx"))
        elif stage is chain.teachers[-1]:
            named.append(("teacher", stage, out / "teacher" / "model.onnx"))
    sample = sample_images(work)
    for name, stage, path in named:
        save_model(stage.outcome.model, out / name)
        export_onnx(stage.outcome.model, path)
        checked = parity(stage.outcome.model, path, sample)
        work.console.say(
            f"{path.name} agrees with torch on {checked.n} images "
            f"(largest difference {checked.max_difference:.1e})"
        )
    evidence.write_pseudo_labels(work, chain.finished)
    if chain.teachers:
        worklist.write_worklist(chain)
    deployed = evidence.deployment(named)
    for note in candidates.exceeded(work.config.distill, deployed):
        work.note(note)
    result, probs = pipeline.measure(work, chain.finished)
    result["leakage"] = evidence.leakage(work, probs)
    work.folder.write_json("metrics.json", result)
    for entry in result["stages"]:
        work.console.record("result", stage=entry["name"], figures=entry)
    points = evidence.cloud(chain) if chain.teachers else []
    runs.write_skipped(work.store, out)  # of streamed images some may have been lost by now
    report = evidence.make_report(work, chain.finished, result, probs, deployed, command, points)
    write(report, out / "report.html")
    write_page(card.render(report), out / "MODEL_CARD.md")
    _summary(work, result, deployed)
    return result


def sample_images(work: Any) -> list[np.ndarray]:
    """A few training images as files hold them, to check the export on; some may be lost by now."""
    rows = np.flatnonzero(work.split.roles != "unused")
    rows = rows[:: max(1, len(rows) // PARITY_IMAGES)][:PARITY_IMAGES]
    found = list(readable(work.catalog, rows))
    return found or noise_images(work.store.canvas)


def _summary(work: Any, result: dict[str, Any], deployed: Sequence[Any]) -> None:
    say = work.console.say
    for entry in result["stages"]:
        test = entry["test"]
        if test is None:
            continue
        low, high = test["accuracy_ci95"]
        mark = "" if entry["accepted"] else "  (rejected)"
        say(
            f"  {entry['name']:<14} test accuracy {test['accuracy']:.3f} "
            f"[{low:.3f}, {high:.3f}]  macro-F1 {test['macro_f1']:.3f}{mark}"
        )
    for row in deployed:
        say(
            f"  {row['name']:<14} {row['parameters'] / 1e6:.2f}M parameters, "
            f"{row['bytes'] / 1e6:.1f} MB, {row['latency_ms_p50']:.1f} ms an image on one core"
        )
    if work.store.reasons:
        say(f"  {len(work.store.reasons)} unreadable images were skipped (skipped.csv)")
    say(f"report: {work.folder.path / 'report.html'}")
