from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tutelage.report.verdict import NOT_JUDGED, Verdict
from tutelage.stats.intervals import paired_change
from tutelage.stats.metrics import Comparison

TWO = {"probe": (0.7, True), "transfer": (0.8, True)}
THREE = {**TWO, "student": (0.9, True)}


def test_each_step_is_held_against_the_last_accepted_one(make_report: Any) -> None:
    stages = {"probe": (0.7, True), "transfer": (0.5, False), "self-train-1": (0.9, True)}
    probe, transfer, last = Verdict(make_report(stages)).steps
    assert probe.change is None
    assert transfer.change == paired_change(0, 40, 200)
    assert "compared with probe" in last.sentence
    assert last.change == paired_change(40, 0, 200)
    assert last.sentence.startswith("gained 20.0 points (95% interval ")


def test_decisions_that_test_contradicts_are_admitted(make_report: Any) -> None:
    verdict = Verdict(make_report({"probe": (0.7, True), "a": (0.9, False), "b": (0.5, True)}))
    _, rejected_gain, kept_loss = verdict.steps
    assert "would have helped" in (rejected_gain.hindsight or "")
    assert "did harm" in (kept_loss.hindsight or "")
    student = Verdict(make_report({"transfer": (0.8, True), "student": (0.6, True)})).steps[-1]
    assert student.sentence.startswith("lost 20.0 points")
    assert student.hindsight is None, "it is smaller"


@pytest.mark.parametrize(
    ("share", "sign", "words"),
    [(0.95, 1, "The final model (probe) is 20.0 points better than always answering “bee”"),
     (0.77, 0, "not shown to be better than always answering “bee” (75.0"),
     (0.40, -1, "The final model (probe) is 35.0 points worse than always answering “bee”")],
)  # fmt: skip
def test_it_is_held_against_always_the_same_answer(
    make_report: Any, share: float, sign: int, words: str
) -> None:
    labels = np.array([0, 1, 1, 1] * 50)
    found = Verdict(make_report({"probe": (share, True)}, labels=labels))
    assert found.standing is not None
    low, high = found.standing.change[1:]
    assert (low > 0, high < 0) == (sign > 0, sign < 0)
    assert found.standing.most_frequent == "bee"
    assert words in found.worth[0]


@pytest.mark.parametrize(
    ("teacher", "student", "n", "lost", "words"),
    [(0.8, 0.60, 200, True, " 40 more wrong than its teacher (60.0% and 80.0% correct)."),
     (0.8, 0.79, 200, False, "2 more wrong than its teacher (79.0% and 80.0% correct), which may"),
     (0.8, 0.80, 200, False, " as many right as its teacher (80.0% and 80.0% correct)."),
     (0.8, 0.95, 200, False, " 30 more right than its teacher (95.0% and 80.0%"),
     (1.0, 26 / 30, 30, True, " 4 more wrong than its teacher (86.7% and 100.0% correct).")],
)  # fmt: skip
def test_the_student_is_held_against_its_teacher_in_images(
    make_report: Any, teacher: float, student: float, n: int, lost: bool, words: str
) -> None:
    stages = {"transfer": (teacher, True), "student": (student, True)}
    found = Verdict(make_report(stages, n=n, folder="runs/a", files=["teacher/"])).against_teacher
    assert found is not None
    assert found.lost is lost
    assert found.sentence.startswith(f"Of {n} test images the student gets ")
    assert words in found.sentence
    where = "The teacher is in runs/a/teacher/model.onnx."
    assert (where in found.sentence) is (student < teacher)


def test_without_a_test_split_folds_speak(make_report: Any, full_fields: dict[str, Any]) -> None:
    verdict = Verdict(make_report(TWO, test=False, **full_fields))
    assert verdict.split == "val"
    assert "40 held-out labelled images" in verdict.headline
    assert verdict.steps[1].change == paired_change(6, 2, 40)
    assert verdict.steps[1].sentence.endswith("on held-out labelled images")
    alone = Verdict(make_report(TWO, test=False))
    assert (alone.standing, alone.steps[1].change) == (None, None)


# Stages, whether there are test images, those that were not judged, what is read, and its words.
SAID = {
    "headline": (
        {"probe": (0.7, True), "student": (0.85, True)}, True, (), lambda v: v.headline,
        "The final model (student) classifies 85.0% of the 200 test images correctly (95% interval "
        "80.0 to 85.0)."),
    "baseline": (
        {"probe": (0.7, True), "student": (0.85, True)}, True, (), lambda v: v.worth[0],
        "The student is 35.0 points better than always answering “ant” (50.0%); 95% interval"),
    "balanced": (
        {"probe": (0.7, True), "student": (0.85, True)}, True, (), lambda v: v.worth[1],
        "Balanced accuracy, the mean over the classes, is 83.0% (50.0% if the answer were always "
        "the same); macro-F1 is 84.0%."),
    "overall": (
        {"probe": (0.7, True), "student": (0.85, True)}, True, (), lambda v: v.overall[0],
        "All steps together, from probe (70.0%) to student: gained 15.0 points"),
    "one step": (
        {"probe": (0.7, True)}, True, (), lambda v: v.overall[0],
        "There is only one step, so there is nothing to compare it with."),
    "baseline, no answers": (
        TWO, False, (), lambda v: v.worth[0],
        "Always answering the most frequent class is correct for 40.0%."),
    "no answers, no interval": (
        TWO, False, (), lambda v: v.steps[1].sentence,
        "+10.0 points compared with probe, without an interval"),
    "no figures": (
        TWO, False, tuple(TWO), lambda v: v.headline, "There is no accuracy to report"),
    "nothing to compare": (
        TWO, False, tuple(TWO), lambda v: v.steps[1].sentence,
        "no figure to compare with probe"),
    "the teacher in the student's place": (
        THREE, False, ("student",), lambda v: v.headline,
        "The teacher (transfer) classifies 80.0% of the 40 held-out labelled images correctly "
        "(95% interval 75.0 to 80.0)."),
    "the student was not judged": (
        THREE, False, ("student",), lambda v: v.unjudged,
        "The student, which is what you ship, was not judged: there are no test images."),
    "worth of the teacher": (
        THREE, False, ("student",), lambda v: v.worth[1],
        "Balanced accuracy, the mean over the classes, is 78.0%; macro"),
    "neither was judged": (
        THREE, False, ("transfer", "student"), lambda v: v.headline,
        "The step probe classifies 70.0% of"),
}  # fmt: skip


@pytest.mark.parametrize(("stages", "test", "bare", "read", "words"), SAID.values(), ids=SAID)
def test_what_is_said(
    make_report: Any,
    without_figures: Any,
    stages: Any,
    test: bool,
    bare: Any,
    read: Any,
    words: str,
) -> None:
    report = without_figures(make_report(stages, test=test), *bare)
    assert read(Verdict(report)).startswith(words)


def test_always_the_same_answer_is_compared_over_the_classes_that_are_judged(
    make_report: Any,
) -> None:
    labels = np.arange(60) % 2  # of five classes, three have no test image
    classes = ("ant", "bee", "fly", "gnat", "wasp")
    balanced = Verdict(make_report(classes=classes, labels=labels)).worth[-1]
    assert "(50.0% if the answer were always the same)" in balanced
    assert not Verdict(make_report(THREE)).unjudged


def test_reasons_and_rejections_are_told(make_report: Any) -> None:
    report = make_report(
        {"probe": (0.8, True), "transfer": (0.7, False), "student": (0.8, True)},
        reasons={"transfer": "2 wins, 6 losses", "student": "its last layer was fitted"},
        comparisons={"transfer": Comparison(40, 2, 6, 0.8, 0.7, 0.4, 0.5)},
    )
    verdict = Verdict(report)
    assert "Rejected, and not part of the final model: transfer." in verdict.summary
    assert [step.reason for step in verdict.steps] == [
        None,
        "Rejected: 2 wins, 6 losses.",
        f"{NOT_JUDGED} Its last layer was fitted.",
    ]
    assert verdict.steps[1].hindsight is None


@pytest.mark.parametrize(
    ("busy", "quickest", "said"), [(1.0, 3.9, False), (4.77, 3.9, True), (1.0, 2.0, True)]
)
def test_size_and_speed_stand_beside_the_teachers_and_a_busy_machine_is_told(
    make_report: Any, full_fields: dict[str, Any], busy: float, quickest: float, said: bool
) -> None:
    teacher, student = full_fields["deployment"]
    sizes = [teacher, {**student, "latency_ms_p05": quickest}]
    full_fields |= {"deployment": sizes, "settings": {"machine": {"busy": busy}}, "folder": "my r"}
    stages = {"probe": (0.7, True), "student": (0.7, True)}
    summary = Verdict(make_report(stages, **full_fields)).summary
    words = "Size and speed: 4.00 MB, 4.0 ms for an image on one core; its teacher: 16.00 MB"
    assert summary[0] == f"{words}, 12.0 ms."
    slow = "The machine was busy, so these times are too long; tutelage bench 'my r' measures them"
    assert (f"{slow} again." in summary) is said
