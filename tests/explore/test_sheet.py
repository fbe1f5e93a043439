"""The contact sheet of ``tutelage suggest``."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

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
