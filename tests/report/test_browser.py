"""The page in a real browser: its script runs under its own policy, and asks nobody anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import violations

from tutelage.report.html import render
from tutelage.report.model import StageTest

WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@contextmanager
def opened(chromium: Any, text: str, path: Path, **options: Any) -> Iterator[Any]:
    """The page of a report in a browser; in the end it must have had no fault and asked nobody."""
    path.write_text(text, encoding="utf-8")
    with chromium.new_page(**options) as page:
        faults: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page
        assert faults == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_a_picture_is_enlarged_by_a_click_and_by_the_keyboard(
    chromium: Any, full_page: str, tmp_path: Path
) -> None:
    with opened(chromium, full_page, tmp_path / "report.html") as page:
        button = page.get_by_role("button", name="a.png: taken for bee")
        shown = page.locator("#zoom")
        assert not shown.is_visible()
        button.click()
        assert shown.is_visible()
        assert shown.locator("p").inner_text() == "a.png: taken for bee"
        large, small = shown.locator("img").bounding_box(), button.bounding_box()
        assert large["width"] > 2 * small["width"]
        page.keyboard.press("Escape")
        assert not shown.is_visible()
        assert button.evaluate("b => b === document.activeElement")
        page.keyboard.press("Enter")
        assert shown.is_visible()
        page.get_by_role("button", name="Close").click()
        assert not shown.is_visible()
        assert button.evaluate("b => b === document.activeElement")


def test_the_navigation_stays_and_hides_no_heading(
    chromium: Any, full_page: str, tmp_path: Path
) -> None:
    small = {"width": 390, "height": 844}
    with opened(chromium, full_page, tmp_path / "report.html", viewport=small) as page:
        for size in (small, {"width": 1200, "height": 900}):
            page.set_viewport_size(size)
            for link in page.locator("nav a").all():
                link.click()
                bar = page.locator("nav").bounding_box()
                assert bar["y"] == pytest.approx(0, abs=page.evaluate("scrollY") < 60 and 60)
                target = page.locator(f"{link.get_attribute('href')} h2").bounding_box()
                assert target["y"] >= bar["y"]
                if link.get_attribute("href") != "#answer":  # its heading is for screen readers
                    assert target["y"] >= bar["y"] + bar["height"]
            assert page.evaluate(WIDE) <= 0


def test_the_first_screen_holds_answer_baseline_ladder_and_images(
    chromium: Any, full_page: str, tmp_path: Path
) -> None:
    screen = {"width": 1200, "height": 900}
    with opened(chromium, full_page, tmp_path / "report.html", viewport=screen) as page:
        for part in (".tile.main", ".tile:not(.main)", "#answer .chart", "#answer .sheet img"):
            box = page.locator(part).first.bounding_box()
            assert box["y"] + box["height"] <= 900, part


def unequal(make_report: Any, held_out: StageTest | None) -> Any:
    """100 test images of which 20 are ants; some of both classes are hard to tell."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [20, 80])
    ant = np.where(labels == 0, rng.uniform(0.3, 1.0, 100), rng.uniform(0.0, 0.6, 100))
    report = make_report({"probe": (0.7, True)}, labels=labels, held_out=held_out)
    report.predictions["probe"] = StageTest(np.stack([ant, 1 - ant], axis=1), labels)
    return report, ant, labels


def calibrated(each: int) -> StageTest:
    """Held-out labels, half of them ants, with probabilities that are exactly right.

    Of ``each`` images, 90%, 70%, 30% and 10% are ants where that is their probability.
    """
    sure = (0.9, 0.7, 0.3, 0.1)
    labels = [np.arange(each) >= round(p * each) for p in sure]  # 0 is ant
    ant = np.repeat(sure, each)
    return StageTest(np.stack([ant, 1 - ant], axis=1), np.concatenate(labels).astype(int))


def test_costs_choose_a_threshold_on_held_out_labels(
    chromium: Any, make_report: Any, tmp_path: Path
) -> None:
    report, probs, labels = unequal(make_report, calibrated(100))
    with opened(chromium, render(report), tmp_path / "report.html") as page:
        assert page.input_value("#ratio") == "1"  # until it is said that one costs more
        assert "A missed “ant” costs" in page.inner_text("#costs")
        assert page.input_value("#share") == "20"
        page.fill("#share", "50")
        assert page.inner_text("#least-words") == "0.50"
        assert page.inner_text("#advice") == "Recommended: 0.50, the default."
        assert "--threshold ant=0.50" in page.inner_text("#threshold pre")
        assert "At 0.50" not in page.inner_text("#effect")
        page.fill("#ratio", "4")
        assert page.inner_text("#least-words") == "0.20"  # 1 / (1 + 4)
        assert page.inner_text("#advice") == "Recommended: 0.20."
        page.fill("#ratio", "1")
        assert page.inner_text("#least-words") == "0.50"
        page.fill("#share", "20")  # ants are rarer than among the labels: be surer of them
        rarer = float(page.inner_text("#least-words"))
        assert rarer > 0.6
        missed = int(((probs < rarer) & (labels == 0)).sum())
        alarms = int(((probs >= rarer) & (labels == 1)).sum())
        said = page.inner_text("#effect")
        assert f"misses {missed} of 20 “ant” and raises {alarms} false alarms among 80 “b" in said
        assert " At 0.50 it would be " in said
        assert f"--threshold ant={rarer:.2f}" in page.inner_text("#threshold pre")
        page.fill("#least", "0.35")
        assert "--threshold ant=0.35" in page.inner_text("#threshold pre")
        page.fill("#ratio", "-1")  # no cost: nothing changes
        assert page.inner_text("#least-words") == "0.35"
        page.fill("#ratio", "1")
        page.fill("#least", "0.35")
        page.click("#recommended")
        assert float(page.inner_text("#least-words")) == rarer


def test_few_held_out_labels_do_not_recommend_another_threshold(
    chromium: Any, make_report: Any, tmp_path: Path
) -> None:
    report, _, _ = unequal(make_report, calibrated(10))
    with opened(chromium, render(report), tmp_path / "report.html") as page:
        page.fill("#share", "50")
        page.fill("#ratio", "4")
        # At 0.20 three missed ants less, at 4 each, stand against seven false alarms more: a saving
        # of 5, of which 1.645 * sqrt(3 * 4 * 4 + 7) = 12 is no more than chance.
        assert page.inner_text("#least-words") == "0.50"
        assert "The estimate for these costs is 0.20, but" in page.inner_text("#advice")
        few = "40 held-out labels are too few to tell whether it is cheaper, so 0.50 stays."
        assert few in page.inner_text("#advice")
        assert "--threshold ant=0.50" in page.inner_text("#threshold pre")
        page.fill("#ratio", "1.2")  # no label lies between 0.45 and 0.50
        assert "on the 40 held-out labels it is not cheaper" in page.inner_text("#advice")


def test_without_held_out_labels_costs_alone_choose(
    chromium: Any, make_report: Any, tmp_path: Path
) -> None:
    report, _, _ = unequal(make_report, None)
    with opened(chromium, render(report), tmp_path / "report.html") as page:
        page.fill("#ratio", "3")
        assert page.inner_text("#least-words") == "0.25"


def test_the_reason_of_a_decision_is_in_sight_on_a_phone(
    chromium: Any, full_page: str, tmp_path: Path
) -> None:
    screen = {"width": 390, "height": 844}
    with opened(chromium, full_page, tmp_path / "report.html", viewport=screen) as page:
        page.click("#decisions summary")
        box = page.get_by_text("Kept: it wins more.", exact=True).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


@pytest.mark.parametrize("width", [1200, 390])
def test_axe_finds_nothing(chromium: Any, full_page: str, tmp_path: Path, width: int) -> None:
    screen = {"width": width, "height": 900}
    with opened(chromium, full_page, tmp_path / "report.html", viewport=screen) as page:
        assert violations(page) == []
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert violations(page) == []
        page.get_by_role("button", name="a.png: taken for bee").click()
        assert violations(page) == []
