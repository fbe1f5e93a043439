"""The verdict in plain language: what each step gained or lost, and what was rejected."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

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
from tutelage.stats.results import Figures, RunMetrics, Stage

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


@dataclass(frozen=True)
class Step:
    """What one stage changed against the last accepted stage before it."""

    stage: Stage
    figures: Figures | None  # on the split that is reported
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
    final: Stage  # the model that the run delivers
    teacher: Stage | None  # what the student learnt from; None if there is no student
    figures: Figures | None  # of the headline: the final model's, or else its teacher's
    judged_as: str  # whose they are, in words: "final model (student)"
    unjudged: str  # that the final model itself was not judged, in a sentence; empty if it was


def make_verdict(report: Report) -> Verdict:
    """Read the metrics, predictions and decisions into the verdict."""
    split = _split(report.metrics)
    metrics = report.metrics
    stages, final, teacher = metrics["stages"], metrics["final"], metrics["teacher"]
    if teacher is not None and teacher["name"] == final["name"]:
        teacher = None
    steps = _steps(report, split, student=final["name"] if teacher else None)
    standing = _standing(report, final)
    judged = _judged(final, stages, split)
    figures = figures_of(judged, split)
    judged_as = _judged_as(judged, final, teacher)
    return Verdict(
        split=split,
        headline=_headline(figures, judged_as, split),
        standing=standing,
        against_teacher=_against_teacher(report, final, teacher, split),
        worth=[*_against_baseline(figures, standing), *_balanced(report, figures)],
        summary=[*_deployment(report, final), *_rejections(stages)],
        overall=_whole_way(report, stages[0], final, split),
        steps=steps,
        final=final,
        teacher=teacher,
        figures=figures,
        judged_as=judged_as,
        unjudged=_unjudged(final, judged),
    )


def answers(report: Report, stage: Stage | None) -> StageTest | None:
    """A stage's answers on the test images; None without any."""
    found = report.predictions.get(stage["name"]) if stage else None
    return found if found is not None and found.labels.size else None


def figures_of(stage: Stage | None, split: SplitName | None) -> Figures | None:
    """A stage's figures on a split; None where there are none."""
    return stage[split] if stage and split else None


def _split(metrics: RunMetrics) -> SplitName | None:
    names: tuple[SplitName, ...] = ("test", "val")
    return next((n for n in names if any(stage[n] for stage in metrics["stages"])), None)


def _judged(final: Stage, stages: Sequence[Stage], split: SplitName | None) -> Stage | None:
    """The final model, or where it has no figures the last accepted stage that has some.

    A student learns from every label, so without test images only its teacher can be judged.
    """
    known = [stage for stage in (*stages, final) if stage["accepted"] and figures_of(stage, split)]
    return known[-1] if known else None


def _judged_as(judged: Stage | None, final: Stage, teacher: Stage | None) -> str:
    if judged is None:
        return ""
    if judged == final:
        return f"final model ({judged['name']})"
    return f"teacher ({judged['name']})" if judged == teacher else f"step {judged['name']}"


def _unjudged(final: Stage, judged: Stage | None) -> str:
    if judged is None or judged == final:
        return ""
    who = "student" if final["name"] == "student" else f"final model ({final['name']})"
    return f"The {who}, which is what you ship, was not judged: there are no test images."


def _headline(figures: Figures | None, judged_as: str, split: SplitName | None) -> str:
    if figures is None:
        return (
            "There is no accuracy to report: the run had neither test images nor held-out labels."
        )
    return (
        f"The {judged_as} classifies {percent(figures['accuracy'])} of the {figures['n']:,} "
        f"{IMAGES[split]} correctly ({interval_of_share(*figures['accuracy_ci95'])})."
    )


def _standing(report: Report, final: Stage) -> Standing | None:
    test = answers(report, final)
    if test is None:
        return None
    found = baseline(test, report.classes)
    who = "The student" if final["name"] == "student" else f"The final model ({final['name']})"
    always = f"always answering “{shorten(found.name)}” ({percent(found.accuracy)})"
    interval, size = interval_of_change(found.change), size_in_points(found.change.value)
    if found.change.low > 0:
        return Standing(found, "better", f"{who} is {size} better than {always}; {interval}.")
    if found.change.high < 0:
        return Standing(found, "worse", f"{who} is {size} worse than {always}; {interval}.")
    gap = f"the difference is {points(found.change.value)} points, {interval}"
    said = f"{who} is not shown to be better than {always}: {gap}."
    return Standing(found, "not shown to be better", said)


def _against_baseline(figures: Figures | None, standing: Standing | None) -> list[str]:
    if standing is not None:
        return [standing.sentence]
    if figures is None:
        return []
    majority = percent(figures["majority"])
    return [f"Always answering the most frequent class is correct for {majority}."]


def _balanced(report: Report, figures: Figures | None) -> list[str]:
    if figures is None:
        return []
    alike = ""
    if tested := next(iter(report.predictions.values()), None):
        there = len(np.unique(tested.labels))  # a class without test images does not count
        alike = f" ({percent(1 / there)} if the answer were always the same)"
    return [
        f"Balanced accuracy, the mean over the classes, is {percent(figures['balanced_accuracy'])}"
        f"{alike}; macro-F1 is {percent(figures['macro_f1'])}."
    ]


def _whole_way(report: Report, first: Stage, final: Stage, split: SplitName | None) -> list[str]:
    if not figures_of(final, split):
        return []
    if first["name"] == final["name"]:
        return ["There is only one step, so there is nothing to compare it with."]
    change = stage_change(answers(report, first), answers(report, final))
    if change is None or first["test"] is None:
        return []
    start = f"from {first['name']} ({percent(first['test']['accuracy'])}) to {final['name']}"
    return [f"All steps together, {start}: {change_words(change)}."]


def _against_teacher(
    report: Report, final: Stage, teacher: Stage | None, split: SplitName | None
) -> AgainstTeacher | None:
    own, taught = figures_of(final, split), figures_of(teacher, split)
    if own is None or taught is None:
        return None
    figures = f"{percent(own['accuracy'])} and {percent(taught['accuracy'])} correct"
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


def _deployment(report: Report, final: Stage) -> list[str]:
    """What the delivered model costs, beside its teacher."""
    rows = report.deployment
    name = "student" if final["name"] == "student" else "teacher"
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


def _rejections(stages: Sequence[Stage]) -> list[str]:
    if len(stages) < 2:
        return []
    rejected = [stage["name"] for stage in stages if not stage["accepted"]]
    if not rejected:
        return ["No step was rejected."]
    return [f"Rejected, and not part of the final model: {', '.join(rejected)}."]


def _steps(report: Report, split: SplitName | None, student: str | None) -> list[Step]:
    decisions = {row["stage"]: row for row in report.decisions}
    steps: list[Step] = []
    before: Stage | None = None
    for stage in report.metrics["stages"]:
        decision = decisions.get(stage["name"])
        change, said = _change(report, before, stage, decision, split)
        hindsight = None
        # A student is meant to be smaller, not better: its loss stands beside its size.
        if split == "test" and change is not None and stage["name"] != student:
            judged = decision is not None and decision["n"] > 0
            hindsight = _hindsight(change, accepted=stage["accepted"], judged=judged)
        reason = _reason(stage, decision, report.remarks.get(stage["name"]))
        steps.append(Step(stage, figures_of(stage, split), change, said, reason, hindsight))
        if stage["accepted"]:
            before = stage
    return steps


def _change(
    report: Report,
    before: Stage | None,
    stage: Stage,
    decision: DecisionRow | None,
    split: SplitName | None,
) -> tuple[Interval | None, str]:
    """What a stage changed, with its interval where images were compared, and in words."""
    was, now = figures_of(before, split), figures_of(stage, split)
    if before is None:
        figure = f": {percent(now['accuracy'])} correct" if now else ""
        return None, f"the first step{figure}"
    against = f"compared with {before['name']}"
    change = stage_change(answers(report, before), answers(report, stage))
    if change is not None:
        return change, f"{change_words(change)} {against}, on {IMAGES['test']}"
    if split != "test" and decision and decision["n"]:
        change = paired_change(decision["wins"], decision["losses"], decision["n"])
        return change, f"{change_words(change)} {against}, on {IMAGES['val']}"
    if was is None or now is None:
        return None, f"no figure to compare with {before['name']}"
    gap = points(now["accuracy"] - was["accuracy"])
    return None, f"{gap} points {against}, without an interval"


def _reason(stage: Stage, decision: DecisionRow | None, remark: str | None) -> str | None:
    if decision is not None:
        return sentence(f"{'Kept' if stage['accepted'] else 'Rejected'}: {decision['reason']}")
    return None if remark is None else f"{NOT_JUDGED} {sentence(remark)}"


def _hindsight(change: Interval, *, accepted: bool, judged: bool) -> str | None:
    if accepted and change.high < 0:
        why = "by the held-out labels" if judged else "without held-out labels to judge it"
        return f"It was kept {why}, but on the test images it did harm."
    if not accepted and change.low > 0:
        return "The held-out labels rejected it, but on the test images it would have helped."
    return None
