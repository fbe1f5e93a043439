"""What a run leaves after its last decision: models, exports, test figures, tables, report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.chain import evidence, limits
from tutelage.chain.clock import TENTHS
from tutelage.chain.load import write_skipped
from tutelage.chain.pipeline import Pipeline
from tutelage.chain.sheets import to_review
from tutelage.chain.types import Finished, Run
from tutelage.chain.worklist import write_worklist
from tutelage.data.runfolder import CARD, FINISHED, REPORT, RESULT, command_line
from tutelage.deploy.export import PARITY_IMAGES, noise_images, readable
from tutelage.deploy.find import find_model, reference_file
from tutelage.deploy.onnx import export_onnx, parity
from tutelage.deploy.portable import write_description
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.classifier import count_parameters
from tutelage.models.folder import save_model
from tutelage.report.html import render, render_card
from tutelage.report.model import DeploymentRow
from tutelage.report.verdict import AgainstTeacher, Verdict
from tutelage.stats.results import RunMetrics
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_atomically
from tutelage.system.words import counted, were
from tutelage.watch.reference import make_reference, save_reference

# Roles of images that the model did not learn from, with the words for a reference of them.
HELD_OUT = {"test": "test images", "val": "validation images"}


def finish(chain: Pipeline, command: str, data: str, settings: dict[str, Any]) -> RunMetrics:
    """Write everything that a run leaves; the content of metrics.json.

    ``data`` and ``settings`` are what the user called the images, and gave.
    """
    run = chain.run
    out = run.folder.path
    run.clock.ending()
    shown = run.console.progress.count("report", TENTHS, "tenth")
    with run.part("report"), shown as tenths:  # of the time that are over, about
        with run.part("exports"):
            exported = _export(chain)
        tenths(4)
        with run.part("tables"):
            evidence.write_pseudo_labels(run, chain.finished)
            doubtful = to_review(run, write_worklist(chain)) if chain.teachers else []
        tenths(5)
        with run.part("latency"):
            deployed = evidence.deployment(exported)
        tenths(6)
        told = {done.name: done.reason for done in chain.finished if done.name == "student"}
        for note in (*run.clock.notes(told), *limits.exceeded(run.config.distill, deployed)):
            run.note(note)
        result, tested = evidence.measure(run, chain.finished)
        run.folder.write_json(RESULT, result)
        for entry in result["stages"]:
            run.console.record("result", stage=entry["name"], figures=entry)
        with run.part("reference"):
            write_reference(run)
        write_skipped(run.store, out)  # some of the streamed images may have been lost by now
        tenths(8)
        with run.part("page"):
            line = command_line(command, data, str(out), settings)
            report = evidence.make_report(
                run, chain.finished, result, tested, deployed, line, doubtful
            )
            write_atomically(out / REPORT, render(report))
            write_atomically(out / CARD, render_card(report))
        models = [path.relative_to(out).as_posix() for _, _, path in exported]
        run.folder.pin(FINISHED, [RESULT, REPORT, CARD, *models])
    _say_summary(run, result, deployed, Verdict(report).against_teacher)
    return result


def _export(chain: Pipeline) -> list[tuple[str, Finished, Path]]:
    """The teacher and the student as model folders and as ONNX, each checked against torch."""
    run, out = chain.run, chain.run.folder.path
    named = []
    if chain.teachers:
        named.append(("teacher", chain.teachers[-1], out / "teacher" / "model.onnx"))
    named += [("student", s, out / "student.onnx") for s in chain.finished if s.name == "student"]
    sample = sample_images(run)
    for name, stage, path in named:
        model = stage.outcome.model
        save_model(model, out / name)
        export_onnx(model, path)
        write_description(path, model.spec, count_parameters(model))
        checked = parity(model, path, sample)
        run.console.say(
            f"{name}: {path.name} gives the same class as PyTorch for "
            f"{round(checked.top1_agreement * checked.n)} of {checked.n} images; probabilities "
            f"differ by at most {checked.max_difference:.1g}"
        )
    return named


def sample_images(run: Run) -> list[np.ndarray]:
    """A few training images as files hold them, to check the export on; some may be lost by now."""
    rows = np.flatnonzero(np.isin(run.split.roles, ("labeled", "unlabeled")))
    rows = rows[:: max(1, len(rows) // PARITY_IMAGES)][:PARITY_IMAGES]
    return list(readable(run.catalog, rows)) or noise_images(run.store.canvas)


def write_reference(run: Run) -> None:
    """Write the reference, after the last decision: nothing of the run reads it.

    It is made of test or validation images, whichever are more; without any, of the pool or, if
    there is none, of the labelled images. From these the model has learned, so they say less.
    """
    by_role = {role: run.split.indices(role) for role in (*HELD_OUT, "unlabeled", "labeled")}
    role = max(HELD_OUT, key=lambda name: len(by_role[name]))
    if not len(by_role[role]):
        role = "unlabeled" if len(by_role["unlabeled"]) else "labeled"
    rows = by_role[role]
    labels, words = np.full(len(rows), -1), "training images"
    if role in HELD_OUT:
        labels, words = run.split.truth[rows], HELD_OUT[role]
    found = find_model(run.folder.path)
    assert found.exported is not None
    model, learned = OnnxModel(found.exported, threads=1), role not in HELD_OUT
    try:
        made = make_reference(model, run.catalog, rows, labels, words, learned=learned)
    except TutelageError as error:  # the images may be gone by now, and the run is worth more
        run.note(f"tutelage watch will have nothing to compare images with: {error}")
        return
    save_reference(made, model, reference_file(found))


def _say_summary(
    run: Run,
    result: RunMetrics,
    deployed: Sequence[DeploymentRow],
    against_teacher: AgainstTeacher | None,
) -> None:
    say = run.console.say
    tested = any(entry["test"] for entry in result["stages"])
    figures_of = {e["name"]: e["test"] if tested else e["val"] for e in result["stages"]}
    if known := [figures for figures in figures_of.values() if figures]:
        images = "test images" if tested else "held-out labels"
        say(f"correct on {images}, with 95% intervals:")
        say(f"  {'baseline':<14} {known[0]['majority']:6.1%}  (always the most frequent class)")
    for entry in result["stages"]:
        if not (figures := figures_of[entry["name"]]):
            continue
        low, high = figures["accuracy_ci95"]
        mark = "" if entry["accepted"] else "  (rejected)"
        say(
            f"  {entry['name']:<14} {figures['accuracy']:6.1%}  [{low:.1%}, {high:.1%}] of "
            f"{figures['n']:,}{mark}",
            {"(rejected)": "yellow"},
        )
    for name, figures in figures_of.items():
        if known and not figures:
            say(f"  {name:<14} not judged: there are no test images")
    if against_teacher is not None and against_teacher.lost:
        say(against_teacher.sentence, {against_teacher.sentence: "yellow"})
    for row in deployed:
        say(
            f"  {row['name']:<14} {row['parameters'] / 1e6:.2f}M parameters, "
            f"{row['bytes'] / 1e6:.1f} MB, {row['latency_ms_p50']:.1f} ms an image on one core"
        )
    if run.store.reasons:
        count = len(run.store.reasons)
        skipped = counted(count, "unreadable image")
        say(f"  {skipped} {were(count)} skipped (skipped.csv)", {skipped: "yellow"})
    out = run.folder.path
    student = any(entry["name"] == "student" for entry in result["stages"])
    also = (
        f" (the student; {out / 'teacher'} is the teacher)" if student and result["teacher"] else ""
    )
    say(f"to use it: {shlex.join(['tutelage', 'predict', str(out)])} IMAGES{also}")
    run.console.point("report", out / REPORT)
