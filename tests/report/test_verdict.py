from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tutelage.report.verdict import NOT_JUDGED, Verdict
from tutelage.stats.intervals import paired_change


def test_each_step_is_held_against_the_last_accepted_one(make_report: Any) -> None:
    stages = {"probe": (0.7, True), "transfer": (0.5, False), "self-train-1": (0.9, True)}
    probe, transfer, last = Verdict(make_report(stages)).steps
    assert probe.change is None
    assert transfer.change == paired_change(0, 40, 200)
    assert "compared with probe" in last.sentence
    assert last.change == paired_change(40, 0, 200)
    assert last.sentence.startswith("gained 20.0 points (95% interval ")


def test_the_headline_has_the_accuracy_and_the_summary_what_it_is_worth(make_report: Any) -> None:
    verdict = Verdict(make_report({"probe": (0.7, True), "student": (0.85, True)}))
    assert verdict.headline == (
        "The final model (student) classifies 85.0% of the 200 test images correctly "
        "(95% interval 80.0 to 85.0)."
    )
    baseline, balanced = verdict.worth
    assert baseline.startswith(
        "The student is 35.0 points better than always answering “ant” (50.0%); 95"
    )
    assert balanced == (
        "Balanced accuracy, the mean over the classes, is 83.0% (50.0% if the answer were always "
        "the same); macro-F1 is 84.0%."
    )
    (overall,) = verdict.overall
    assert overall.startswith("All steps together, from probe (70.0%) to student: gained 15.0 poi")


def test_always_the_same_answer_is_compared_over_the_classes_that_are_judged(
    make_report: Any,
) -> None:
    labels = np.arange(60) % 2  # of five classes, three have no test image
    classes = ("ant", "bee", "fly", "gnat", "wasp")
    balanced = Verdict(make_report(classes=classes, labels=labels)).worth[-1]
    assert "(50.0% if the answer were always the same)" in balanced
    unknown = Verdict(make_report(classes=classes, labels=labels, test=False)).worth[-1]
    assert "always the same" not in unknown


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


def test_without_answers_the_baseline_is_only_told(make_report: Any) -> None:
    verdict = Verdict(make_report({"probe": (0.7, True)}, test=False))
    assert verdict.standing is None
    assert verdict.worth[0] == "Always answering the most frequent class is correct for 40.0%."


@pytest.mark.parametrize(
    ("student", "n", "lost", "words"),
    [(0.60, 200, True, " 40 more wrong than its teacher (60.0% and 80.0% correct)."),
     (0.79, 200, False, "2 more wrong than its teacher (79.0% and 80.0% correct), which may be"),
     (0.80, 200, False, " as many right as its teacher (80.0% and 80.0% correct)."),
     (0.95, 200, False, " 30 more right than its teacher (95.0% and 80.0%")],
)  # fmt: skip
def test_the_student_is_held_against_its_teacher_in_images(
    make_report: Any, student: float, n: int, lost: bool, words: str
) -> None:
    stages = {"transfer": (0.8, True), "student": (student, True)}
    found = Verdict(make_report(stages, n=n, folder="runs/a", files=["teacher/"]))
    assert found.against_teacher is not None
    assert found.against_teacher.lost is lost
    assert found.against_teacher.sentence.startswith(f"Of {n} test images the student gets ")
    assert words in found.against_teacher.sentence
    where = "The teacher is in runs/a/teacher/model.onnx."
    assert (where in found.against_teacher.sentence) is (student < 0.8)


def test_a_loss_of_four_among_thirty_images_is_more_than_chance(make_report: Any) -> None:
    stages = {"transfer": (1.0, True), "student": (26 / 30, True)}
    found = Verdict(make_report(stages, n=30)).against_teacher
    assert found is not None
    assert found.lost
    assert found.sentence == (
        "Of 30 test images the student gets 4 more wrong than its teacher (86.7% and 100.0% "
        "correct)."
    )


def test_rejections_come_with_their_reason(make_report: Any, full_fields: dict[str, Any]) -> None:
    full_fields["reasons"] = {"transfer": "2 wins, 6 losses"}
    report = make_report({"probe": (0.8, True), "transfer": (0.7, False)}, **full_fields)
    verdict = Verdict(report)
    assert "Rejected, and not part of the final model: transfer." in verdict.summary
    assert verdict.steps[1].reason == "Rejected: 2 wins, 6 losses."
    assert verdict.steps[1].hindsight is None


def test_decisions_that_test_contradicts_are_admitted(make_report: Any) -> None:
    verdict = Verdict(make_report({"probe": (0.7, True), "a": (0.9, False), "b": (0.5, True)}))
    _, rejected_gain, kept_loss = verdict.steps
    assert "would have helped" in (rejected_gain.hindsight or "")
    assert "did harm" in (kept_loss.hindsight or "")


def test_a_smaller_student_is_not_called_harm(make_report: Any) -> None:
    student = Verdict(make_report({"transfer": (0.8, True), "student": (0.6, True)})).steps[-1]
    assert student.sentence.startswith("lost 20.0 points")
    assert student.hindsight is None


def test_without_a_test_split_folds_speak(make_report: Any, full_fields: dict[str, Any]) -> None:
    stages = {"probe": (0.7, True), "transfer": (0.8, True)}
    verdict = Verdict(make_report(stages, test=False, **full_fields))
    assert verdict.split == "val"
    assert "40 held-out labelled images" in verdict.headline
    assert verdict.steps[1].change == paired_change(6, 2, 40)
    assert verdict.steps[1].sentence.endswith("on held-out labelled images")


def test_without_any_figures_the_verdict_says_so(make_report: Any, without_figures: Any) -> None:
    report = make_report({"probe": (0.7, True), "transfer": (0.8, True)}, test=False)
    verdict = Verdict(without_figures(report, "probe", "transfer"))
    assert verdict.split is None
    assert "no accuracy to report" in verdict.headline
    assert verdict.steps[1].sentence == "no figure to compare with probe"


def test_without_test_images_the_teacher_is_the_answer(
    make_report: Any, without_figures: Any
) -> None:
    stages = {"probe": (0.7, True), "transfer": (0.8, True), "student": (0.9, True)}
    report = make_report(stages, test=False)
    verdict = Verdict(without_figures(report, "student"))
    assert verdict.headline == (
        "The teacher (transfer) classifies 80.0% of the 40 held-out labelled images correctly "
        "(95% interval 75.0 to 80.0)."
    )
    assert verdict.unjudged == (
        "The student, which is what you ship, was not judged: there are no test images."
    )
    assert verdict.worth[0].endswith("most frequent class is correct for 40.0%.")
    assert verdict.worth[1].startswith("Balanced accuracy, the mean over the classes, is 78.0%")
    assert not Verdict(report).unjudged


def test_a_teacher_without_figures_is_not_called_judged(
    make_report: Any, without_figures: Any
) -> None:
    stages = {"probe": (0.7, True), "transfer": (0.8, True), "student": (0.9, True)}
    report = without_figures(make_report(stages, test=False), "transfer", "student")
    assert Verdict(report).headline.startswith("The step probe classifies 70.0% of")


def test_a_stage_that_is_not_compared_has_its_remark(make_report: Any) -> None:
    stages = {"transfer": (0.8, True), "student": (0.9, True)}
    verdict = Verdict(make_report(stages, reasons={"student": "its last layer was fitted"}))
    assert verdict.steps[1].reason == f"{NOT_JUDGED} Its last layer was fitted."


def test_figures_without_answers_get_no_interval(make_report: Any) -> None:
    report = make_report({"probe": (0.7, True), "transfer": (0.8, True)}, test=False)
    verdict = Verdict(report)
    assert verdict.steps[1].change is None
    assert verdict.steps[1].sentence.startswith("+10.0 points compared with probe, without an")


def test_one_stage_has_nothing_to_compare_with(make_report: Any) -> None:
    verdict = Verdict(make_report({"probe": (0.7, True)}))
    assert verdict.teacher is None
    assert verdict.overall == ["There is only one step, so there is nothing to compare it with."]


def test_speed_stands_beside_the_teachers(make_report: Any, full_fields: dict[str, Any]) -> None:
    stages = {"probe": (0.7, True), "student": (0.7, True)}
    words = "Size and speed: 4.00 MB, 4.0 ms for an image on one core; its teacher: 16.00 MB"
    assert f"{words}, 12.0 ms." in Verdict(make_report(stages, **full_fields)).summary


@pytest.mark.parametrize(
    ("busy", "quickest", "said"), [(1.0, 3.9, False), (4.77, 3.9, True), (1.0, 2.0, True)]
)
def test_times_of_a_busy_machine_are_called_too_long(
    make_report: Any, full_fields: dict[str, Any], busy: float, quickest: float, said: bool
) -> None:
    student = {**full_fields["deployment"][1], "latency_ms_p05": quickest}
    full_fields |= {"deployment": [student], "settings": {"machine": {"busy": busy}}}
    full_fields["folder"] = "my run"
    summary = Verdict(
        make_report({"probe": (0.7, True), "student": (0.7, True)}, **full_fields)
    ).summary
    words = (
        "The machine was busy, so these times are too long; tutelage bench 'my run' measures them "
        "again."
    )
    assert (words in summary) is said
