"""The pages of ``augment`` and ``suggest`` in a real browser: on a phone, for all, no request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import violations

pytest.importorskip("torch")

from shapes import SETTINGS

from tutelage import api
from tutelage.explore.suggest import render

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)


def augment_page(photos: Path, out: Path) -> str:
    look = {name: SETTINGS[name] for name in ("teacher", "weights", "input_size", "canvas")}
    api.augment(photos, out / "look", quiet=True, labels_per_class=4, **look)
    return (out / "look" / "augment.html").read_text("utf-8")


def suggest_page(photos: Path, out: Path) -> str:
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
    return render(content, list(PICTURES), ["a warning"])


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("made", [augment_page, suggest_page])
def test_it_fits_a_phone_and_shuts_nobody_out(
    chromium: Any, made: Callable[[Path, Path], str], photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(made(photos, tmp_path), encoding="utf-8")
    with chromium.new_page(viewport={"width": 360, "height": 700}) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) <= 0
        assert violations(page) == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
