from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from tutelage.report import plots
from tutelage.report.numbers import Bin
from tutelage.report.threshold import Curve
from tutelage.report.verdict import Step
from tutelage.stats.intervals import Interval, wilson


def step(name: str, accuracy: float, ci95: tuple[float, float], *, accepted: bool = True) -> Step:
    figures: Any = {"accuracy": accuracy, "accuracy_ci95": ci95}
    stage: Any = {"name": name, "accepted": accepted}
    return Step(stage, figures, None, "", None)


PROBE = step("probe", 0.7, (0.6, 0.79))
STEPS = [
    PROBE,
    step("$\\frac$<b>", 0.65, (0.6, 0.7), accepted=False),
    dataclasses.replace(step("unmeasured", 0, (0, 0)), figures=None),
]
BINS = [Bin(0.55, wilson(3, 5), 5), Bin(0.95, wilson(18, 20), 20)]
DRAWS = [
    plots.Draws("probe", [0.5, 0.62, 0.7], Interval(0.607, 0.36, 0.86)),
    plots.Draws("$\\frac$<b>", [0.6, 0.7, 0.8], Interval(0.7, 0.45, 0.95)),
]
CURVE = Curve(np.array([0.2, 0.6, 1.0]), np.array([1.0, 0.9, 0.5]), 0.83)
CHARTS = {  # each drawn once
    "draws": cache(lambda: plots.draws(DRAWS, "accuracy, %")),
    "ladder": cache(lambda: plots.ladder(STEPS, "accuracy, %", 0.58)),
    "recall": cache(
        lambda: plots.curve("recall", CURVE, (0.5, 0.9), ("recall, %", "$\\frac$<b>, %"))
    ),
    "reliability": cache(lambda: plots.reliability({"student": BINS, 'teacher "<i>': BINS[:1]})),
}
every_chart = pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS.keys())


def parse(svg: str) -> ElementTree.Element:
    # Inside HTML the prefix needs no declaration; outside it does.
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns:xlink="x" ', 1))


@every_chart
def test_charts_are_deterministic_whatever_the_user_prefers(chart: Any) -> None:
    first = chart()
    with mpl.rc_context({"font.size": 31, "text.usetex": True, "axes.grid": True}):
        assert chart.__wrapped__() == first


@every_chart
def test_charts_follow_the_page_colours(chart: Any) -> None:
    svg = chart()
    assert "var(--ink)" in svg
    assert "#0102" not in svg
    assert "#000000" not in svg
    assert "fill: #ffffff" not in svg


@every_chart
def test_charts_are_whole_labelled_and_fetch_nothing(chart: Any) -> None:
    svg = chart()
    root = parse(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.get("width") is None
    assert root.get("viewBox")
    assert "http" not in svg


def test_ids_clash_neither_inside_nor_between_charts() -> None:
    page = "".join(chart() for chart in CHARTS.values())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(|href=")#([^")]+)', page)
    assert used
    assert set(used) <= set(ids)


def test_ladder_tells_rejected_from_accepted_without_colour() -> None:
    svg = plots.ladder(STEPS, "accuracy, %", 0.58)
    root = parse(svg)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "65.0 rejected" in texts
    assert "70.0" in texts
    assert "$\\frac$<b>" in texts
    assert "unmeasured" not in texts
    label = root.get("aria-label") or ""
    assert "probe (accepted): 70.0%, 60.0 to 79.0" in label
    assert "$\\frac$<b> (rejected): 65.0%, 60.0 to 70.0" in label
    assert label.endswith("always the most frequent class: 58.0%")


def test_ladder_marks_and_lines_differ_by_more_than_colour() -> None:
    shapes = []
    for accepted in (True, False):
        svg = plots.ladder([step("probe", 0.7, (0.6, 0.79), accepted=accepted)], "x", 0.1)
        marker = re.search(
            r'<path id="(ladder-m[^"]+)" d="([^"]+)" style="[^"]*stroke-width: 2', svg
        )
        assert marker
        shapes.append((marker[2], svg.count("stroke-dasharray")))
    (circle, solid), (cross, dashed) = shapes
    assert ("C" in circle, "C" in cross) == (True, False)
    assert dashed == solid + 1


def test_ladder_draws_the_interval_where_it_belongs() -> None:
    wide = step("probe", 0.7, (0.5, 0.9))
    assert plots.ladder([wide], "x", 0.1) != plots.ladder([PROBE], "x", 0.1)


def test_reliability_says_its_points_in_words() -> None:
    label = parse(plots.reliability({"student": BINS})).get("aria-label") or ""
    assert "student: 55% sure, 60% right (5), 95% sure, 90% right (20)" in label


def test_a_curve_says_its_area_and_the_usual_threshold() -> None:
    root = parse(CHARTS["recall"]())
    label = root.get("aria-label") or ""
    assert label.startswith(
        "$\\frac$<b>, % against recall, %: area 0.830; at the threshold 0.5, 90.0%"
    )
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"0.5", "$\\frac$<b>, %"} <= set(texts)


def test_a_baseline_that_is_far_off_is_told_and_does_not_squeeze_the_stages() -> None:
    least = []
    for value in (0.45, 0.1):
        svg = plots.ladder(STEPS, "accuracy, %", value)
        assert f">most frequent class: {100 * value:.1f}<" in svg
        assert f"always the most frequent class: {value:.1%}" in svg
        least.append(min(map(int, re.findall(r">(\d+)</text>", svg))))
    assert least[0] <= 50
    assert least[1] >= 55
