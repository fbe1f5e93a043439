"""The verdict in plain language: what each step gained or lost, and what was rejected."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from tutelage.report.model import DecisionRow, DeploymentRow, Report, StageTest
from tutelage.report.numbers import Baseline, baseline, stage_change, wins_and_losses
from tutelage.report.wording import (
    change_words,
    file_size,
    interval_of_change,
    interval_of_share,
    percent,
    points,
    sentence,
    shorten,
    size_in_points,
)
from tutelage.stats.intervals import Interval, paired_change
from tutelage.stats.metrics import lost_images

SplitName = Literal["test", "val"]
IMAGES: dict[SplitName | None, str] = {
    "test": "test images",
    "val": "held-out labelled images",
    None: "images",
}
BUSY = 1.5  # times as long as on a quiet machine, from which on that is said


# Of a stage that nothing decides about, which is the student.
NOT_JUDGED = (
    "Not judged on held-out labels: it is made to be smaller than its teacher, not better, so it "
    "is kept in any case."
)


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
    reason: str | None  # why it was kept or rejected, in a sentence
    hindsight: str | None = None


class Standing(NamedTuple):
    """The final model against always answering the most frequent class."""

    baseline: Baseline
    verdict: Literal["better", "not shown to be better", "worse"]
    sentence: str


class AgainstTeacher(NamedTuple):
    """The student against the teacher that it learned from, on the same test images."""

    lost: bool  # more images than chance explains: a stage that is judged would not be kept so
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """What stands at the top of the page."""

    split: SplitName | None  # where the figures come from; None if there are none
    headline: str  # the accuracy of the final model, or of its teacher, in a sentence
    standing: Standing | None  # against the baseline; None without test images
    against_teacher: AgainstTeacher | None  # None without a student, or without its figures
    worth: list[str]  # what that accuracy is worth: sentences on the baseline and the classes
    summary: list[str]  # sentences on size, speed and the rejections
    overall: list[str]  # what all steps together gained or lost, in a sentence
    steps: list[Step]  # one per stage, in order
    final: Rung | None  # the model that the run delivers
    teacher: Rung | None  # what the student learnt from; None if there is no student
    judged: Rung | None  # whose accuracy the headline gives: the final model, else its teacher
    judged_as: str  # what that is, in words: "final model (student)"
    unjudged: str  # that the final model itself was not judged, in a sentence; empty if it was


def make_verdict(report: Report) -> Verdict:
    """Read the metrics, predictions and decisions into the verdict."""
    split = _split(report.metrics)
    rungs = [_rung(stage, split) for stage in report.metrics.get("stages") or ()]
    final = _named(report.metrics.get("final"), rungs) or _last_accepted(rungs)
    teacher = _named(report.metrics.get("teacher"), rungs)
    if teacher is not None and final is not None and teacher.name == final.name:
        teacher = None
    steps = _steps(report, rungs, split, student=final.name if final and teacher else None)
    standing = _standing(report, final)
    judged = _judged(final, rungs)
    judged_as = _judged_as(judged, final, teacher)
    return Verdict(
        split=split,
        headline=_headline(final, judged, judged_as, split),
        standing=standing,
        against_teacher=_against_teacher(report, final, teacher),
        worth=[*_against_baseline(judged, standing), *_balanced(report, judged)],
        summary=[*_deployment(report, final), *_rejections(steps)],
        overall=_whole_way(report, rungs, final),
        steps=steps,
        final=final,
        teacher=teacher,
        judged=judged,
        judged_as=judged_as,
        unjudged=_unjudged(final, judged),
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


def _judged(final: Rung | None, rungs: Sequence[Rung]) -> Rung | None:
    """The final model, or where it has no figures the last accepted stage that has some.

    A student learns from every label, so without test images only its teacher can be judged.
    """
    if final is None or final.accuracy is not None:
        return final
    return _last_accepted([rung for rung in rungs if rung.accuracy is not None])


def _judged_as(judged: Rung | None, final: Rung | None, teacher: Rung | None) -> str:
    if judged is None:
        return ""
    if judged == final:
        return f"final model ({judged.name})"
    return f"teacher ({judged.name})" if judged == teacher else f"step {judged.name}"


def _unjudged(final: Rung | None, judged: Rung | None) -> str:
    if final is None or judged is None or judged == final:
        return ""
    who = "student" if final.name == "student" else f"final model ({final.name})"
    return f"The {who}, which is what you ship, was not judged: there are no test images."


def _headline(
    final: Rung | None, judged: Rung | None, judged_as: str, split: SplitName | None
) -> str:
    if final is None:
        return "No stage was accepted, so the run delivers no model."
    if judged is None:
        return (
            "There is no accuracy to report: the run had neither test images nor held-out labels."
        )
    count = f"{judged.n:,} " if judged.n else ""
    interval = f" ({interval_of_share(*judged.ci95)})" if judged.ci95 else ""
    return (
        f"The {judged_as} classifies {percent(judged.accuracy)} of the {count}{IMAGES[split]} "
        f"correctly{interval}."
    )


def _standing(report: Report, final: Rung | None) -> Standing | None:
    test = answers(report, final)
    if test is None or final is None:
        return None
    found = baseline(test, report.classes)
    who = "The student" if final.name == "student" else f"The final model ({final.name})"
    always = f"always answering “{shorten(found.name)}” ({percent(found.accuracy)})"
    interval, size = interval_of_change(found.change), size_in_points(found.change.value)
    if found.change.low > 0:
        return Standing(found, "better", f"{who} is {size} better than {always}; {interval}.")
    if found.change.high < 0:
        return Standing(found, "worse", f"{who} is {size} worse than {always}; {interval}.")
    gap = f"the difference is {points(found.change.value)} points, {interval}"
    said = f"{who} is not shown to be better than {always}: {gap}."
    return Standing(found, "not shown to be better", said)


def _against_baseline(judged: Rung | None, standing: Standing | None) -> list[str]:
    if standing is not None:
        return [standing.sentence]
    if judged is None or judged.majority is None:  # no figures, or a run of an earlier version
        return []
    return [f"Always answering the most frequent class is correct for {percent(judged.majority)}."]


def _balanced(report: Report, judged: Rung | None) -> list[str]:
    if judged is None or judged.balanced_accuracy is None:
        return []
    alike = ""
    if tested := next(iter(report.predictions.values()), None):
        there = len(np.unique(tested.labels))  # a class without test images does not count
        alike = f" ({percent(1 / there)} if the answer were always the same)"
    return [
        f"Balanced accuracy, the mean over the classes, is {percent(judged.balanced_accuracy)}"
        f"{alike}; macro-F1 is {percent(judged.macro_f1)}."
    ]


def _whole_way(report: Report, rungs: Sequence[Rung], final: Rung | None) -> list[str]:
    if final is None or final.accuracy is None:
        return []
    first = rungs[0]
    if first.name == final.name:
        return ["There is only one step, so there is nothing to compare it with."]
    change = stage_change(answers(report, first), answers(report, final))
    if change is None:
        return []
    start = f"from {first.name} ({percent(first.accuracy)}) to {final.name}"
    return [f"All steps together, {start}: {change_words(change)}."]


def _against_teacher(
    report: Report, final: Rung | None, teacher: Rung | None
) -> AgainstTeacher | None:
    if final is None or teacher is None or final.accuracy is None or teacher.accuracy is None:
        return None
    figures = f"{percent(final.accuracy)} and {percent(teacher.accuracy)} correct"
    ours, theirs = answers(report, final), answers(report, teacher)
    if ours is None or theirs is None:
        return AgainstTeacher(False, f"Student and teacher: {figures}.")
    wins, losses = wins_and_losses(theirs, ours)
    who = f"Of {ours.labels.size:,} test images the student gets"
    if wins == losses:
        return AgainstTeacher(False, f"{who} as many right as its teacher ({figures}).")
    if wins > losses:
        said = f"{who} {wins - losses:,} more right than its teacher ({figures})."
        return AgainstTeacher(False, said)
    lost = lost_images(wins, losses)
    chance = "" if lost else ", which may be chance"
    said = f"{who} {losses - wins:,} more wrong than its teacher ({figures}){chance}."
    if "teacher/" in report.files:
        said += f" The teacher is in {report.folder}/teacher/model.onnx."
    return AgainstTeacher(lost, said)


def _deployment(report: Report, final: Rung | None) -> list[str]:
    """What the delivered model costs, beside its teacher."""
    rows = report.deployment
    name = "student" if final is not None and final.name == "student" else "teacher"
    delivered = next((row for row in rows if row["name"] == name), None)
    if delivered is None:
        return []
    said = f"Size and speed: {_cost(delivered)} for an image on one core"
    teacher = next((row for row in rows if row["name"] == "teacher"), delivered)
    if teacher is not delivered:
        # Across formats the times would compare the runtimes, not the models.
        alike = teacher["format"] == delivered["format"]
        said += f"; its teacher: {_cost(teacher) if alike else file_size(teacher['bytes'])}"
    found = [f"{said}."]
    if _was_busy(report):
        found.append(
            "The machine was busy, so these times are too long; "
            f"tutelage bench {shlex.quote(report.folder)} measures them again."
        )
    return found


def _cost(row: DeploymentRow) -> str:
    return f"{file_size(row['bytes'])}, {row['latency_ms_p50']:.1f} ms"


def _was_busy(report: Report) -> bool:
    """Whether other jobs slowed the machine while it was planned for, or while models were timed.

    Alone, the median of many runs is hardly above the quickest of them.
    """
    machine = report.settings.get("machine") or {}
    timed = any(r["latency_ms_p50"] > BUSY * r["latency_ms_p05"] for r in report.deployment)
    return timed or machine.get("busy", 1.0) > BUSY


def _rejections(steps: Sequence[Step]) -> list[str]:
    if len(steps) < 2:
        return []
    rejected = [step.rung.name for step in steps if not step.rung.accepted]
    if not rejected:
        return ["No step was rejected."]
    return [f"Rejected, and not part of the final model: {', '.join(rejected)}."]


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
    reason = _reason(rung, decision, report.remarks.get(rung.name))
    if before is None:
        figure = "" if rung.accuracy is None else f": {percent(rung.accuracy)} correct"
        return Step(rung, None, f"the first step{figure}", reason)
    change = stage_change(answers(report, before), answers(report, rung))
    if change is not None:
        said = f"{change_words(change)} compared with {before.name}, on {IMAGES['test']}"
        return Step(rung, change, said, reason)
    if split != "test" and decision and decision["n"] and decision["before"] is not None:
        change = paired_change(decision["wins"], decision["losses"], decision["n"])
        said = f"{change_words(change)} compared with {before.name}, on {IMAGES['val']}"
        return Step(rung, change, said, reason)
    if rung.accuracy is None or before.accuracy is None:
        return Step(rung, None, f"no figure to compare with {before.name}", reason)
    gap = points(rung.accuracy - before.accuracy)
    said = f"{gap} points compared with {before.name}, without an interval"
    return Step(rung, None, said, reason)


def _reason(rung: Rung, decision: DecisionRow | None, remark: str | None) -> str | None:
    if decision is not None:
        return sentence(f"{'Kept' if rung.accepted else 'Rejected'}: {decision['reason']}")
    return None if remark is None else f"{NOT_JUDGED} {sentence(remark)}"


def _hindsight(rung: Rung, change: Interval, *, judged: bool) -> str | None:
    if rung.accepted and change.high < 0:
        why = "by the held-out labels" if judged else "without held-out labels to judge it"
        return f"It was kept {why}, but on the test images it did harm."
    if not rung.accepted and change.low > 0:
        return "The held-out labels rejected it, but on the test images it would have helped."
    return None
