"""The page in a real browser: its script runs under its own policy, and asks nobody anything."""

from pathlib import Path
from typing import Any

import numpy as np
from browser import browser

from tutelage.ladder import page as ladder
from tutelage.ladder.curve import CurvePoint, worth
from tutelage.report.html import render
from tutelage.report.model import Sheet, Thumb
from tutelage.stats.intervals import Interval

STAGES = {"probe": (0.7, True), "student": (0.8, True)}


def test_points_and_filters_work_without_a_network(
    make_report: Any, full_fields: dict[str, Any], tmp_path: Path
) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    thumbs = [Thumb(image, "a", (0, 1)), Thumb(image, "b", (1,))]
    full_fields["sheets"] = [Sheet("Worst mistakes", "note", thumbs, ["ant", "bee"])]
    path = tmp_path / "report.html"
    path.write_text(render(make_report(STAGES, **full_fields)), encoding="utf-8")
    with browser() as chromium:
        page = chromium.new_page()
        faults: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.focus("#cloud")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#cloud-words") == "a.png: labelled ant"
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#cloud-words") == "c.png: taken for ant"
        page.hover("[data-tile='1']")
        assert page.inner_text("#cloud-words") == "b.png: taken for bee"
        page.get_by_label("Show").select_option("ant")
        shown = "f => f.filter(e => e.offsetParent).map(e => e.innerText.trim())"
        assert page.eval_on_selector_all("[data-tags]", shown) == ["a"]
        page.get_by_label("Show").select_option("all classes")
        assert page.eval_on_selector_all("[data-tags]", shown) == ["a", "b"]
        page.set_viewport_size({"width": 360, "height": 700})
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0
        assert faults == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_the_ladder_fits_a_phone_and_is_dark_on_light_on_paper(tmp_path: Path) -> None:
    path = tmp_path / "ladder.html"
    path.write_text(ladder.render(ladder_page()), encoding="utf-8")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    color = "e => getComputedStyle(e).{}.match(/[0-9.]+/g).slice(0, 3).map(Number)"
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 360, "height": 700}, color_scheme="dark")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        assert page.evaluate(wide) <= 0
        ink, ground = (
            sum(page.eval_on_selector("body", color.format(name)))
            for name in ("color", "backgroundColor")
        )
        assert ink > ground
        page.emulate_media(media="print")
        ink = sum(page.eval_on_selector("body", color.format("color")))
        assert ink < 150
        charts = page.locator("svg.chart")
        assert charts.count() == 2
        assert all(chart.get_attribute("aria-label") for chart in charts.all())
        assert asked == [path.as_uri()]


def ladder_page() -> ladder.LadderPage:
    """Every section of the page, with arms of long names."""
    draws = [0.7, 0.8, 0.9]
    arms = [
        ladder.Arm(name, draws, Interval(0.8, 0.75, 0.85), 0.05, 1000, 60.0, 90.0, 3.2, None)
        for name in ladder.MEANINGS
    ]
    changes = [
        ladder.Difference("student", arm, [0.01, 0.02, 0.03], Interval(0.02, 0.01, 0.03))
        for arm in ladder.PARTS.values()
    ]
    points = [CurvePoint(10, draws, draws, False), CurvePoint(40, draws, [0.8, 0.9, 0.95], True)]
    return ladder.LadderPage("A ladder", "tutelage ladder photos --out ladder", "today", [0, 1, 2],
                             400, arms, changes, points, worth(points), 0.4, ["a note"],
                             {"data": {"seed": 0}})  # fmt: skip
