"""The sentence on several students, and their place on the page."""

from __future__ import annotations

from typing import Any

from tutelage.report import students
from tutelage.report.html import render


def row(name: str, latency: float, accuracy: float | None, **fields: Any) -> dict[str, Any]:
    test = None
    if accuracy is not None:
        test = {"accuracy": accuracy, "accuracy_ci95": [accuracy - 0.03, accuracy + 0.03]}
    held_out = {"by": "agreement with the teacher", "n": 1200, "score": accuracy or 0.5}
    return {"name": name, "student": "cut:2<b>", "size": 96, "parameters": 9000, "megabytes": 1.25,
            "latency_ms": latency, "held_out": held_out, "chosen": False, "test": test,
            **fields}  # fmt: skip


def test_the_sentence_tells_the_choice_and_what_another_costs() -> None:
    rows = [row("student-1", 0.9, 0.7), row("student-2", 4.5, 0.8, chosen=True)]
    assert students.sentence(rows) == (
        "Of 2 students student-2 was chosen by its agreement with the teacher (80.0% of 1,200); "
        "on test it names 80.0% right in 4.50 ms, where the fastest, student-1, names 70.0% right "
        "in 0.90 ms."
    )
    rows = [row("student-1", 0.9, 0.7, chosen=True), row("student-2", 4.5, 0.8)]
    assert "where the slowest, student-2, names 80.0%" in students.sentence(rows)


def test_without_test_or_held_out_images_it_says_no_more_than_it_knows() -> None:
    rows = [row("student-1", 0.9, None), row("student-2", 4.5, None, chosen=True, held_out=None)]
    said = students.sentence(rows)
    assert said.startswith("The costliest of 2 students, student-2, was taken, since no held-out")
    assert said.endswith("it answers in 4.50 ms.")
    assert students.points(rows) == []


def test_the_page_has_chart_and_table_of_several_students_alone(make_report: Any) -> None:
    stages = {"probe": (0.7, True), "student": (0.8, True)}
    report = make_report(stages)
    assert 'id="students"' not in render(report)
    rows = [row("student-1", 0.9, 0.7), row("student-2", 4.5, 0.8, chosen=True)]
    report.metrics["students"] = rows
    page = render(report)
    assert 'id="pareto-' in page
    assert "✓ chosen" in page
    assert "cut:2&lt;b&gt;</bdi> at 96 px" in page
    report.metrics["students"] = [{**one, "test": None} for one in rows]
    page = render(report)
    assert 'id="pareto-' not in page
    assert 'id="students"' in page
