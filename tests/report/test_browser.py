"""The page in a real browser: its script runs under its own policy, and asks nobody anything."""

from pathlib import Path
from typing import Any

import numpy as np
from browser import browser

from tutelage.report.html import render
from tutelage.report.model import Sheet, Thumb

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
