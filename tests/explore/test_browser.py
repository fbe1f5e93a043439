"""The pages of ``augment`` and ``suggest`` in a real browser: on a phone, for all, no request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import violations

pytest.importorskip("torch")

from tutelage.chain.tune import DEFAULT, Tuning, ViewCandidate
from tutelage.explore import page as augment
from tutelage.explore import sheet
from tutelage.report.model import Sheet, Thumb
from tutelage.stats.coverage import METRICS
from tutelage.stats.intervals import Interval

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)


def augment_page() -> str:
    values = {name: Interval(0.5, 0.4, 0.6) for name in METRICS}
    none = Interval(0, 0, 0)
    candidate = ViewCandidate(DEFAULT, values, none, ("density",), 0.5, none)
    bounds = {"density": 0.3, "precision": 0.4, "distance": 0.02}
    return augment.render(
        augment.AugmentPage(
            "A survey", "tutelage augment photos --out look", "today", "It covers more.",
            ["A sentence."], "", "12 labelled images against 40",
            [augment.Cloud("strong view", "as in training", 4, values)],
            {name: RNG.normal(size=(5, 2)) for name in ("pool", "labelled", "strong view")}, 0.3,
            [Sheet("Holes", "far away", [Thumb(PICTURES[0], "1.7, photo.png")])],
            [augment.Strip("operations", "rotate", ["0", "3", "9"], [PICTURES])],
            Tuning((candidate,), bounds, DEFAULT, "nothing covers more", 33.0, 99),
            ["class bee has 1 image"],
        )
    )  # fmt: skip


def suggest_page() -> str:
    rows = [{"image": f"folder/{k}.jpg", "rank": k + 1, "why": "unlike the rest"} for k in range(3)]
    content = {
        "command": "tutelage suggest photos --out s --budget 3",
        "created": "today",
        "next": "tutelage run photos --decisions s",
        "unlabelled": 1234,
        "labelled": 4,
        "copies": 2,
        "unreadable": 1,
        "teacher": "net",
        "size": 96,
        "suggested": rows,
    }
    return sheet.render(sheet.SuggestPage(content, list(PICTURES), ["a warning"]))


@pytest.mark.parametrize("made", [augment_page, suggest_page])
def test_it_fits_a_phone_and_shuts_nobody_out(
    chromium: Any, made: Callable[[], str], tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(made(), encoding="utf-8")
    with chromium.new_page(viewport={"width": 360, "height": 700}) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0
        assert violations(page) == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
