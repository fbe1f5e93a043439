"""What the page says of several students: which was chosen and why, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.report.numbers import Interval
from tutelage.report.plots import StudentPoint
from tutelage.report.verdict import percent


def points(rows: Sequence[Mapping[str, Any]]) -> list[StudentPoint]:
    """The chart's points, from "students" of metrics.json; none without test images."""
    return [
        StudentPoint(
            name=row["name"],
            latency_ms=row["latency_ms"],
            megabytes=row["megabytes"],
            accuracy=Interval(row["test"]["accuracy"], *row["test"]["accuracy_ci95"]),
            chosen=row["chosen"],
        )
        for row in rows
        if row["test"] is not None
    ]


def sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which was chosen, by what, and what another would have cost and given on test."""
    chosen = next(row for row in rows if row["chosen"])
    judged = chosen["held_out"]
    if judged is None:
        why = f"The costliest of {len(rows)} students, {chosen['name']}, was taken"
        why += ", since no held-out image could judge them"
    else:
        why = f"Of {len(rows)} students {chosen['name']} was chosen by its {judged['by']}"
        why += f" ({percent(judged['score'])} of {judged['n']:,})"
    fastest, slowest = (pick(rows, key=lambda row: row["latency_ms"]) for pick in (min, max))
    other, word = (slowest, "slowest") if chosen is fastest else (fastest, "fastest")
    if chosen["test"] is None:
        return f"{why}; it answers in {chosen['latency_ms']:.2f} ms."
    return (
        f"{why}; on test it names {percent(chosen['test']['accuracy'])} right in "
        f"{chosen['latency_ms']:.2f} ms, where the {word}, {other['name']}, names "
        f"{percent(other['test']['accuracy'])} right in {other['latency_ms']:.2f} ms."
    )
