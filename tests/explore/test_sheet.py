"""The contact sheet of ``suggest``; it and the page of ``augment`` in a real browser."""

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
from tutelage.explore.suggest import render, whole

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7 * 7 }}'


def page(count: int, pictures: int, **facts: object) -> str:
    rows = [{"image": f"{i}.jpg", "rank": i + 1, "why": f"reason {i}"} for i in range(count)]
    content = {
        "command": "tutelage suggest photos --out s --budget 3",
        "created": "now",
        "next": "tutelage run photos --decisions s",
        "unlabelled": 1234,
        "labelled": 0,
        "copies": 0,
        "unreadable": 0,
        "teacher": "net",
        "size": 96,
        "suggested": rows,
        **facts,
    }
    noise = np.random.default_rng(0).integers(0, 256, (pictures, 144, 144, 3), dtype=np.uint8)
    return render(content, list(noise), ["a warning"])


def test_rank_name_and_reason_stand_beside_each_picture() -> None:
    text = page(3, 3)
    assert text.count('src="data:image/jpeg') == 3
    assert "<strong>2</strong> <bdi>1.jpg</bdi>" in text
    for part in ("reason 2", "1,234 unlabelled images", "net, 96 px", "a warning",
                 "tutelage run photos --decisions s"):  # fmt: skip
        assert part in text
    for part in ("Copies", "could not be read", "left out", "<script"):
        assert part not in text


def test_what_took_no_part_is_counted() -> None:
    text = page(1, 1, copies=2, unreadable=3, labelled=40)
    assert "counts once: 2 (duplicates.csv)" in text
    assert "could not be read: 3 (skipped.csv)" in text
    assert "what 40 labelled images leave out" in text


def test_pictures_that_do_not_fit_are_counted() -> None:
    text = page(500, 400)
    shown = text.count("<figure>")
    assert 50 < shown < 400
    assert f"{500 - shown} more left out to keep this page small" in text
    assert len(text) < 5e6


def test_names_are_never_markup() -> None:
    rows = [{"image": HOSTILE, "rank": 1, "why": HOSTILE}]
    text = page(1, 1, suggested=rows, command=HOSTILE, next=HOSTILE)
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("aspect", "shape"), [(1.0, (144, 144)), (2.0, (72, 144)), (0.5, (144, 72)), (1e-9, (144, 1))]
)
def test_a_picture_has_its_true_shape(aspect: float, shape: tuple[int, int]) -> None:
    canvas = np.full((32, 32, 3), 7, np.uint8)
    small = whole(canvas, aspect)
    assert small.shape == (*shape, 3)
    assert (small == 7).all()


def augment_page(photos: Path, out: Path) -> str:
    look = {name: SETTINGS[name] for name in ("teacher", "weights", "input_size", "canvas")}
    api.augment(photos, out / "look", quiet=True, labels_per_class=4, **look)
    return (out / "look" / "augment.html").read_text("utf-8")


def suggest_page(photos: Path, out: Path) -> str:
    return page(3, 3, labelled=4, copies=2, unreadable=1)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("made", [augment_page, suggest_page])
def test_it_fits_a_phone_and_shuts_nobody_out(
    chromium: Any, made: Callable[[Path, Path], str], photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(made(photos, tmp_path), encoding="utf-8")
    with chromium.new_page(viewport={"width": 360, "height": 700}) as shown:
        asked: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(path.as_uri())
        shown.evaluate(
            "document.querySelectorAll('details').forEach(part => { part.open = true; })"
        )
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert shown.evaluate(wide) <= 0
        assert violations(shown) == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
