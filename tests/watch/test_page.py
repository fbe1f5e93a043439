"""The page in a real browser: it asks nobody anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from browser import browser, violations
from watching import reference, seen

from tutelage.watch.compare import compare
from tutelage.watch.page import SHOWN, render

NASTY = "<b>&\"'\udcff.png"


def page_of(batch: Any, **options: Any) -> str:
    known = reference(**options)
    result = {
        "model": f"runs/{NASTY}",
        "created": "2026-01-01 00:00 UTC",
        "images": len(batch),
        "skipped": {NASTY: "the file is empty"},
        "reference": {"n": len(known.seen), "images": known.images, "learned": known.learned},
        "false_alarms": 0.05,
        **compare(known, batch, 1.64, 0.05),
        "to_label": "out/to_label.csv",
    }
    pixels = np.zeros((30, 40, 3), np.uint8)
    pictures = [
        (NASTY, "stands for itself alone among the chosen images", pixels),
        ("gone.png", "one", None),
    ]
    return render(result, known.seen, batch, pictures * SHOWN)


def test_what_the_page_shows(tmp_path: Path) -> None:
    plain, _ = seen(120)
    batch, _ = seen(120, energy=plain["energy"] + 1)
    path = tmp_path / "watch.html"
    path.write_text(page_of(batch), encoding="utf-8")
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 360, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        assert "differ from the reference in images of none" in page.inner_text(".headline")
        assert "Do not rely on it" in page.inner_text(".summary")
        assert "here these may have changed, so do not rely on it" in page.inner_text("main")
        assert page.inner_text("h1") == "tutelage watch: 1 alarm"
        rows = page.locator("table").first.locator("tbody tr")
        assert rows.count() == 10
        assert rows.locator(".rejected").all_inner_texts() == ["alarm"]
        assert page.locator("svg.curve").count() == 8
        assert page.locator(".sheet img").count() == SHOWN // 2
        assert page.locator(".sheet b").count() == 0  # names are text
        assert page.locator("figcaption bdi").first.inner_text().startswith('<b>&"')
        assert violations(page) == []
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_shares_of_unchanged_images_hold() -> None:
    for changed, state in (({}, "no alarm"), ({"predicted": 0}, "1 alarm")):
        page = page_of(seen(120, **changed)[0])
        assert f"<h1>tutelage watch: {state}</h1>" in page
        assert "not the images of a class.</p>" in page


def test_what_it_says_without_held_out_images() -> None:
    page = page_of(seen(120)[0], learned=True, labelled=0)
    assert "so do not rely on it" not in page
    assert "Today&#39;s accuracy is not estimated" in page
    assert "Shares are not estimated" in page
    assert "unsure answers" not in page
