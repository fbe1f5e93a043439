"""The ladder's page in a real browser: narrow, dark, on paper, for all, and without a request."""

from pathlib import Path
from typing import Any

from browser import violations

from tutelage.ladder import page as ladder
from tutelage.ladder.curve import CurvePoint, worth
from tutelage.stats.intervals import Interval


def test_the_ladder_fits_a_phone_and_is_dark_on_light_on_paper(
    chromium: Any, tmp_path: Path
) -> None:
    path = tmp_path / "ladder.html"
    path.write_text(ladder.render(ladder_page()), encoding="utf-8")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    color = "e => getComputedStyle(e).{}.match(/[0-9.]+/g).slice(0, 3).map(Number)"
    with chromium.new_page(viewport={"width": 360, "height": 700}, color_scheme="dark") as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        assert page.evaluate(wide) <= 0
        ink, ground = (
            sum(page.eval_on_selector("body", color.format(name)))
            for name in ("color", "backgroundColor")
        )
        assert ink > ground
        assert violations(page) == []
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
