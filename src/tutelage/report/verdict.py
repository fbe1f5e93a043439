"""The verdict in plain language: what each step gained or lost, and what to know beforehand."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from tutelage.pages.wording import (
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
from tutelage.report.model import DeploymentRow, Report, StageTest
from tutelage.report.numbers import stage_change, wins_and_losses
from tutelage.stats.intervals import Interval, paired_change
from tutelage.stats.metrics import Comparison, lost_images
from tutelage.stats.results import Figures, Stage

SplitName = Literal["test", "val"]
SPLITS: tuple[SplitName, ...] = ("test", "val")
IMAGES: dict[SplitName | None, str] = {
    "test": "test images",
    "val": "held-out labelled images",
    None: "images",
}
NAMED = 8  # classes that a note names, at most
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
    """The final model against always answering the most frequent class of the test images."""

    most_frequent: str
    change: Interval  # from that answer to the model, on the same images
    sentence: str


class AgainstTeacher(NamedTuple):
    """The student against the teacher that it learned from, on the same test images."""

    lost: bool  # more images than chance explains: a stage that is judged would not be kept so
    sentence: str


class Verdict:
    """What stands at the top of the page, read from metrics, answers and decisions."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.stages, self.final = report.metrics["stages"], report.metrics["final"]
        teacher = report.metrics["teacher"]
        # What the student learnt from; None if there is no student.
        self.teacher = None if teacher and teacher["name"] == self.final["name"] else teacher
        # Where the figures come from; None if there are none.
        self.split = next((s for s in SPLITS if any(stage[s] for stage in self.stages)), None)

    def answers(self, stage: Stage | None) -> StageTest | None:
        """A stage's answers on the test images; None without any."""
        found = self.report.predictions.get(stage["name"]) if stage else None
        return found if found is not None and found.labels.size else None

    def _figures(self, stage: Stage | None) -> Figures | None:
        return stage[self.split] if stage and self.split else None

    @cached_property
    def _judged(self) -> Stage | None:
        """The final model, or where it has no figures the last accepted stage that has some.

        A student learns from every label, so without test images only its teacher can be judged.
        """
        kept = [stage for stage in (*self.stages, self.final) if stage["accepted"]]
        return next((stage for stage in reversed(kept) if self._figures(stage)), None)

    @property
    def figures(self) -> Figures | None:
        """Those of the headline: the final model's, or else its teacher's."""
        return self._figures(self._judged)

    @property
    def judged_as(self) -> str:
        """Whose these figures are, in words: "final model (student)"."""
        if self._judged is None:
            return ""
        name = self._judged["name"]
        if self._judged == self.final:
            return f"final model ({name})"
        return f"teacher ({name})" if self._judged == self.teacher else f"step {name}"

    @property
    def unjudged(self) -> str:
        """That the final model itself was not judged, in a sentence; empty if it was."""
        if self._judged is None or self._judged == self.final:
            return ""
        name = self.final["name"]
        who = "student" if name == "student" else f"final model ({name})"
        return f"The {who}, which is what you ship, was not judged: there are no test images."

    @property
    def headline(self) -> str:
        """The accuracy of the final model, or of its teacher, in a sentence."""
        if not (found := self.figures):
            return (
                "There is no accuracy to report: the run had neither test images nor held-out "
                "labels."
            )
        return (
            f"The {self.judged_as} classifies {percent(found['accuracy'])} of the {found['n']:,} "
            f"{IMAGES[self.split]} correctly ({interval_of_share(*found['accuracy_ci95'])})."
        )

    @cached_property
    def standing(self) -> Standing | None:
        """The final model against the baseline; None without test images."""
        test = self.answers(self.final)
        if test is None:
            return None
        counts = np.bincount(test.labels, minlength=len(self.report.classes))
        usual = test.labels == (most := int(counts.argmax()))
        change = paired_change(*wins_and_losses(usual, test.correct), len(usual))
        named, final = self.report.classes[most], self.final["name"]
        who = "The student" if final == "student" else f"The final model ({final})"
        always = f"always answering “{shorten(named)}” ({percent(float(usual.mean()))})"
        interval, size = interval_of_change(change), size_in_points(change.value)
        if change.low > 0:
            said = f"{size} better than {always}; {interval}"
        elif change.high < 0:
            said = f"{size} worse than {always}; {interval}"
        else:
            gap = f"the difference is {points(change.value)} points, {interval}"
            said = f"not shown to be better than {always}: {gap}"
        return Standing(named, change, f"{who} is {said}.")

    @property
    def worth(self) -> list[str]:
        """What that accuracy is worth: sentences on the baseline and the classes."""
        if not (found := self.figures):
            return []
        majority = percent(found["majority"])
        against = f"Always answering the most frequent class is correct for {majority}."
        alike = ""
        if tested := next(iter(self.report.predictions.values()), None):
            there = len(np.unique(tested.labels))  # a class without test images does not count
            alike = f" ({percent(1 / there)} if the answer were always the same)"
        balanced = percent(found["balanced_accuracy"])
        return [
            self.standing.sentence if self.standing else against,
            f"Balanced accuracy, the mean over the classes, is {balanced}{alike}; macro-F1 is "
            f"{percent(found['macro_f1'])}.",
        ]

    @property
    def summary(self) -> list[str]:
        """Sentences on size, speed and the rejections."""
        said = _deployment(self.report, self.final)
        if len(self.stages) > 1:
            rejected = ", ".join(s["name"] for s in self.stages if not s["accepted"])
            none = "No step was rejected."
            part = f"Rejected, and not part of the final model: {rejected}."
            said.append(part if rejected else none)
        return said

    @property
    def overall(self) -> list[str]:
        """What all steps together gained or lost, in a sentence."""
        first = self.stages[0]
        if not self._figures(self.final):
            return []
        if first["name"] == self.final["name"]:
            return ["There is only one step, so there is nothing to compare it with."]
        change = stage_change(self.answers(first), self.answers(self.final))
        if change is None or first["test"] is None:
            return []
        accuracy = percent(first["test"]["accuracy"])
        start = f"from {first['name']} ({accuracy}) to {self.final['name']}"
        return [f"All steps together, {start}: {change_words(change)}."]

    @cached_property
    def against_teacher(self) -> AgainstTeacher | None:
        """The student beside its teacher; None without one of them, or without its figures."""
        own, taught = self._figures(self.final), self._figures(self.teacher)
        if own is None or taught is None:
            return None
        figures = f"{percent(own['accuracy'])} and {percent(taught['accuracy'])} correct"
        ours, theirs = self.answers(self.final), self.answers(self.teacher)
        if ours is None or theirs is None:
            return AgainstTeacher(False, f"Student and teacher: {figures}.")
        wins, losses = wins_and_losses(theirs.correct, ours.correct)
        lost, worse = lost_images(wins, losses), losses > wins
        if wins == losses:
            more = "as many right as its teacher"
        elif worse:
            more = f"{losses - wins:,} more wrong than its teacher"
        else:
            more = f"{wins - losses:,} more right than its teacher"
        chance = ", which may be chance" if worse and not lost else ""
        said = f"Of {ours.labels.size:,} test images the student gets {more} ({figures}){chance}."
        if worse and "teacher/" in self.report.files:
            said += f" The teacher is in {self.report.folder}/teacher/model.onnx."
        return AgainstTeacher(lost, said)

    @cached_property
    def steps(self) -> list[Step]:
        """What each stage changed, in order."""
        steps: list[Step] = []
        before: Stage | None = None
        for stage in self.stages:
            compared = self.report.comparisons.get(stage["name"])
            change, said = self._change(before, stage, compared)
            hindsight = None
            # A student is meant to be smaller, not better: its loss stands beside its size.
            is_student = self.teacher is not None and stage["name"] == self.final["name"]
            if self.split == "test" and change is not None and not is_student:
                judged = compared is not None and compared.n > 0
                hindsight = _hindsight(change, accepted=stage["accepted"], judged=judged)
            reason = self.report.reasons.get(stage["name"])
            if reason is not None:
                kept = f"{'Kept' if stage['accepted'] else 'Rejected'}: {reason}"
                uncompared = f"{NOT_JUDGED} {sentence(reason)}"
                reason = uncompared if compared is None else sentence(kept)
            steps.append(Step(stage, self._figures(stage), change, said, reason, hindsight))
            if stage["accepted"]:
                before = stage
        return steps

    def _change(
        self, before: Stage | None, stage: Stage, compared: Comparison | None
    ) -> tuple[Interval | None, str]:
        """What a stage changed, with its interval where images were compared, and in words."""
        was, now = self._figures(before), self._figures(stage)
        if before is None:
            figure = f": {percent(now['accuracy'])} correct" if now else ""
            return None, f"the first step{figure}"
        against = f"compared with {before['name']}"
        change = stage_change(self.answers(before), self.answers(stage))
        if change is not None:
            return change, f"{change_words(change)} {against}, on {IMAGES['test']}"
        if self.split != "test" and compared and compared.n:
            change = paired_change(compared.wins, compared.losses, compared.n)
            return change, f"{change_words(change)} {against}, on {IMAGES['val']}"
        if was is None or now is None:
            return None, f"no figure to compare with {before['name']}"
        gap = points(now["accuracy"] - was["accuracy"])
        return None, f"{gap} points {against}, without an interval"


def _deployment(report: Report, final: Stage) -> list[str]:
    """What the delivered model costs, beside its teacher."""
    rows = {row["name"]: row for row in report.deployment}
    delivered = rows.get("student" if final["name"] == "student" else "teacher")
    if delivered is None:
        return []
    said = f"Size and speed: {_cost(delivered)} for an image on one core"
    teacher = rows.get("teacher", delivered)
    if teacher is not delivered:
        said += f"; its teacher: {_cost(teacher)}"
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


def _hindsight(change: Interval, *, accepted: bool, judged: bool) -> str | None:
    if accepted and change.high < 0:
        why = "by the held-out labels" if judged else "without held-out labels to judge it"
        return f"It was kept {why}, but on the test images it did harm."
    if not accepted and change.low > 0:
        return "The held-out labels rejected it, but on the test images it would have helped."
    return None


def notes(verdict: Verdict) -> list[str]:
    """The run's own notes, between those on its figures and those that hold for every model."""
    return [
        *_figures(verdict),
        *map(sentence, verdict.report.notes),
        _where_it_holds(verdict),
        "The pretrained weights that it started from have their own licence, and so has the data "
        "that they were trained on.",
    ]


def calibration(verdict: Verdict) -> str:
    """What the probabilities were calibrated on: the answers of the teacher, or held-out labels."""
    final = verdict.final
    if final["name"] == "student":
        images = "unlabelled" if verdict.report.counts.get("unlabeled") else "labelled"
        return (
            f"The student's probabilities were calibrated on {images} training images, to be as "
            "sure as its teacher's."
        )
    what = "held-out labels" if final["val"] else "what its teacher said of the unlabelled images"
    return f"The probabilities of {final['name']} were calibrated on {what}."


def why_no_rounds(report: Report) -> str:
    """Why the unlabelled images were not used in rounds of self-training, in words."""
    if not report.counts.get("unlabeled"):
        return "the run had no unlabelled images"
    if doubt := (report.settings.get("clusters") or {}).get("doubt"):
        return f"the unlabelled images do not seem to group by class ({doubt})"
    if left_out := report.settings.get("left_out"):
        return f"no time was left for {left_out}"
    return "no round of self-training was planned"


def _figures(verdict: Verdict) -> list[str]:
    if verdict.split == "val":
        low = "too low, because the models that were judged learned from fewer labels, or "
        if verdict.report.counts.get("val"):  # else they are those of the models of the folds
            low = ""
        return [
            "There are no test images. The figures come from held-out labelled images. They may "
            f"be {low}too high, because the same images chose between the steps. Add images under "
            "test/<class>/ for a figure to rely on."
        ]
    if verdict.split is None:
        return [
            "There are no test images and no held-out figure. Nothing here says how good the model "
            "is. Add images under test/<class>/."
        ]
    final = verdict.answers(verdict.final)
    return [] if final is None else _absent(final, verdict.report.classes)


def _absent(final: StageTest, classes: Sequence[str]) -> list[str]:
    """The classes of which there is no test image."""
    shown = {*final.labels.tolist()}
    absent = [shorten(name) for k, name in enumerate(classes) if k not in shown]
    if not absent:
        return []
    named = ", ".join(absent[:NAMED])
    if len(absent) > NAMED:
        named += f" and {len(absent) - NAMED} more"
    them = "it is" if len(absent) == 1 else "they are"
    return [f"No test image shows {named}: nothing here says how well {them} recognised."]


def _where_it_holds(verdict: Verdict) -> str:
    if verdict.split == "test":
        return (
            "The accuracy holds for images like the test images. Before you use the model on "
            "others (another camera, season or site), test it on some of them."
        )
    unseen = "test it on labelled images that the run has not seen."
    if verdict.figures is None:
        return f"Nobody has tested the model. Before you use it, {unseen}"
    alone = ""
    if verdict.unjudged:
        alone = f", and for the {verdict.judged_as}: nobody has tested the {verdict.final['name']}"
    holds = f"The accuracy holds for images like the labelled ones{alone}."
    return f"{holds} Before you use the model, {unseen}"
