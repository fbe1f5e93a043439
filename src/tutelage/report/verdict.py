"""The verdict in plain language: what each step gained or lost, and what was rejected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from tutelage.report.model import DecisionRow, DeploymentRow, Report, StageTest
from tutelage.report.numbers import stage_change
from tutelage.report.wording import (
    change_words,
    interval_of_change,
    interval_of_share,
    percent,
    points,
    size_in_points,
)
from tutelage.stats.intervals import Interval, paired_change

SplitName = Literal["test", "val"]
IMAGES: dict[SplitName | None, str] = {
    "test": "test images",
    "val": "held-out labelled images",
    None: "images",
}


class Rung(NamedTuple):
    """One stage of metrics.json with its figures on the split that is reported."""

    name: str
    accepted: bool
    seconds: float | None
    parameters: int | None
    n: int | None
    accuracy: float | None
    ci95: tuple[float, float] | None
    majority: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    ece: float | None
    nll: float | None


@dataclass(frozen=True)
class Step:
    """What one stage changed against the last accepted stage before it."""

    rung: Rung
    change: Interval | None
    sentence: str
    reason: str | None
    hindsight: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What stands at the top of the page."""

    split: SplitName | None  # where the figures come from; None if there are none
    headline: str  # the final model's accuracy, in a sentence
    summary: list[str]  # sentences on all steps together, the student and the rejections
    steps: list[Step]  # one per stage, in order
    final: Rung | None  # the model that the run delivers
    teacher: Rung | None  # what the student learnt from; None if there is no student


def make_verdict(report: Report) -> Verdict:
    """Read the metrics, predictions and decisions into the verdict."""
    split = _split(report.metrics)
    rungs = [_rung(stage, split) for stage in report.metrics.get("stages") or ()]
    final = _named(report.metrics.get("final"), rungs) or _last_accepted(rungs)
    teacher = _named(report.metrics.get("teacher"), rungs)
    if teacher is not None and final is not None and teacher.name == final.name:
        teacher = None
    steps = _steps(report, rungs, split, student=final.name if final and teacher else None)
    return Verdict(
        split=split,
        headline=_headline(final, split),
        summary=[
            *_whole_way(report, rungs, final),
            *_student(report, final, teacher),
            *_deployment(report.deployment),
            *_rejections(steps),
        ],
        steps=steps,
        final=final,
        teacher=teacher,
    )


def answers(report: Report, rung: Rung | None) -> StageTest | None:
    """A stage's answers on the test images; None without any."""
    found = report.predictions.get(rung.name) if rung else None
    return found if found is not None and found.labels.size else None


def _split(metrics: Mapping[str, Any]) -> SplitName | None:
    stages = metrics.get("stages") or ()
    names: tuple[SplitName, ...] = ("test", "val")
    return next((name for name in names if any(stage.get(name) for stage in stages)), None)


def _rung(stage: Mapping[str, Any], split: SplitName | None) -> Rung:
    figures = (split and stage.get(split)) or {}
    ci95 = figures.get("accuracy_ci95")
    return Rung(
        name=str(stage["name"]),
        accepted=bool(stage.get("accepted", True)),
        seconds=stage.get("seconds"),
        parameters=stage.get("parameters"),
        n=figures.get("n"),
        accuracy=figures.get("accuracy"),
        ci95=(float(ci95[0]), float(ci95[1])) if ci95 else None,
        majority=figures.get("majority"),
        balanced_accuracy=figures.get("balanced_accuracy"),
        macro_f1=figures.get("macro_f1"),
        ece=figures.get("ece"),
        nll=figures.get("nll"),
    )


def _named(stage: Mapping[str, Any] | None, rungs: Sequence[Rung]) -> Rung | None:
    if not stage:
        return None
    return next((rung for rung in rungs if rung.name == stage["name"]), None)


def _last_accepted(rungs: Sequence[Rung]) -> Rung | None:
    return next((rung for rung in reversed(rungs) if rung.accepted), None)


def _headline(final: Rung | None, split: SplitName | None) -> str:
    if final is None:
        return "No stage was accepted, so the run delivers no model."
    if final.accuracy is None:
        return (
            "There is no accuracy to report: the run had neither test images nor held-out labels."
        )
    count = f"{final.n:,} " if final.n else ""
    interval = f" ({interval_of_share(*final.ci95)})" if final.ci95 else ""
    said = (
        f"The final model, {final.name}, gets {percent(final.accuracy)} of the {count}"
        f"{IMAGES[split]} right{interval}; macro-F1 {percent(final.macro_f1)}"
    )
    if final.majority is None:  # a run of an earlier version
        return f"{said}."
    return (
        f"{said}, balanced accuracy {percent(final.balanced_accuracy)}. Always answering the most "
        f"frequent class would get {percent(final.majority)} right."
    )


def _whole_way(report: Report, rungs: Sequence[Rung], final: Rung | None) -> list[str]:
    if final is None or final.accuracy is None:
        return []
    first = rungs[0]
    if first.name == final.name:
        return ["Only one stage counts here, so there is nothing to compare it with."]
    change = stage_change(answers(report, first), answers(report, final))
    if change is None:
        return []
    return [
        f"All steps together, from {first.name} ({percent(first.accuracy)}) to {final.name}: "
        f"{change_words(change)}."
    ]


def _student(report: Report, final: Rung | None, teacher: Rung | None) -> list[str]:
    if final is None or teacher is None or final.accuracy is None or teacher.accuracy is None:
        return []
    figures = (
        f"accuracy {percent(final.accuracy)} against {percent(teacher.accuracy)}, "
        f"macro-F1 {percent(final.macro_f1)} against {percent(teacher.macro_f1)}"
    )
    change = stage_change(answers(report, teacher), answers(report, final))
    if change is None:
        return [f"Student against teacher: {figures}. Without paired answers no interval is known."]
    interval = f"{points(change.value)} points, {interval_of_change(change)}"
    if change.high < 0:
        return [f"The student did not keep the teacher's accuracy: {figures} ({interval})."]
    if change.low > 0:
        return [f"The student is more accurate than its teacher: {figures} ({interval})."]
    return [
        f"The student shows no clear loss against its teacher: {figures} ({interval}). "
        f"A loss of up to {size_in_points(change.low)} cannot be ruled out."
    ]


def _deployment(rows: Sequence[DeploymentRow]) -> list[str]:
    teacher = next((row for row in rows if row["name"] == "teacher"), None)
    student = next((row for row in rows if row["name"] == "student"), None)
    if teacher is None or student is None:
        return []
    share = percent(student["parameters"] / teacher["parameters"], 0)
    said = f"The student has {share} of the teacher's parameters"
    # Across formats the ratio would measure the runtime, not the student.
    if teacher["format"] == student["format"]:
        slow, quick = teacher["latency_ms_p50"], student["latency_ms_p50"]
        said += f" and answers in {quick:.1f} ms where the teacher takes {slow:.1f} ms"
    return [f"{said}."]


def _rejections(steps: Sequence[Step]) -> list[str]:
    if len(steps) < 2:
        return []
    rejected = [step for step in steps if not step.rung.accepted]
    return [
        f"{step.rung.name} was rejected and is not part of the final model"
        + (f": {step.reason}." if step.reason else ".")
        for step in rejected
    ] or ["No step was rejected."]


def _steps(
    report: Report, rungs: Sequence[Rung], split: SplitName | None, student: str | None
) -> list[Step]:
    decisions = {row["stage"]: row for row in report.decisions}
    steps: list[Step] = []
    before: Rung | None = None
    for rung in rungs:
        decision = decisions.get(rung.name)
        step = _step(report, before, rung, decision, split)
        # A student is meant to be smaller, not better: its loss stands beside its size.
        if split == "test" and step.change is not None and rung.name != student:
            judged = decision is not None and decision["n"] > 0
            step = replace(step, hindsight=_hindsight(rung, step.change, judged=judged))
        steps.append(step)
        if rung.accepted:
            before = rung
    return steps


def _step(
    report: Report,
    before: Rung | None,
    rung: Rung,
    decision: DecisionRow | None,
    split: SplitName | None,
) -> Step:
    reason = decision["reason"] if decision else None
    if before is None:
        figure = "" if rung.accuracy is None else f": {percent(rung.accuracy)} right"
        return Step(rung, None, f"the start{figure}", reason)
    change = stage_change(answers(report, before), answers(report, rung))
    if change is not None:
        sentence = f"{change_words(change)} against {before.name} on {IMAGES['test']}"
        return Step(rung, change, sentence, reason)
    if split != "test" and decision and decision["n"] and decision["before"] is not None:
        change = paired_change(decision["wins"], decision["losses"], decision["n"])
        sentence = f"{change_words(change)} against {before.name} on {IMAGES['val']}"
        return Step(rung, change, sentence, reason)
    if rung.accuracy is None or before.accuracy is None:
        return Step(rung, None, f"no figure to compare with {before.name}", reason)
    gap = points(rung.accuracy - before.accuracy)
    sentence = f"{gap} points against {before.name}, interval unknown (no paired answers)"
    return Step(rung, None, sentence, reason)


def _hindsight(rung: Rung, change: Interval, *, judged: bool) -> str | None:
    if rung.accepted and change.high < 0:
        kept = (
            "kept on the held-out labels" if judged else "kept without held-out labels to judge it"
        )
        return f"It was {kept}; the test images say that it did harm."
    if not rung.accepted and change.low > 0:
        return "It was rejected on the held-out labels; the test images say it would have helped."
    return None
