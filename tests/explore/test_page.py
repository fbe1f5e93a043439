from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from tutelage.chain.tune import DEFAULT, Tuning, ViewCandidate
from tutelage.explore import page as augment
from tutelage.report.model import Sheet, Thumb
from tutelage.stats.coverage import METRICS
from tutelage.stats.intervals import Interval

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7 * 7 }}'


def intervals(value: float) -> dict[str, Interval]:
    return {name: Interval(value, value - 0.1, value + 0.1) for name in METRICS}


def search() -> Tuning:
    default = ViewCandidate(DEFAULT, intervals(0.4), Interval(0, 0, 0), (), 0.5, Interval(0, 0, 0))
    other = ViewCandidate(
        {**DEFAULT, "num_ops": 3}, intervals(0.61), Interval(0.21, 0.1, 0.3), (), 0.45,
        Interval(-0.05, -0.1, 0.01),
    )  # fmt: skip
    fallen = ViewCandidate(
        {**DEFAULT, "augment": "none", "crop_scale": 0.1}, intervals(0.2),
        Interval(-0.2, -0.3, -0.1), ("density", "distance"),
    )  # fmt: skip
    bounds = {"density": 0.3, "precision": 0.4, "distance": 0.02}
    return Tuning((default, other, fallen), bounds, other.settings, "it covers more", 33.0, 99)


def page(**changes: Any) -> augment.AugmentPage:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (3, 8, 8, 3), dtype=np.uint8)
    fields: dict[str, Any] = {
        "title": "A survey",
        "command": "tutelage augment photos --out look",
        "created": "2025-01-01 00:00",
        "headline": "Yes: it covers more.",
        "sentences": ["One sentence."],
        "lack": "",
        "looked": "12 labelled images against 40",
        "clouds": [augment.Cloud(name, f"note on {name}", v, intervals(0.5))
                   for name, v in (("labelled", 1), ("strong view", 4))],
        "plane": {name: rng.normal(size=(5, 2)) for name in ("pool", "labelled", "strong view")},
        "share": 0.314,
        "sheets": [Sheet("Holes", "far away", [Thumb(pictures[0], "1.7, photo.png")])],
        "strips": [augment.Strip("policies", "weak view", ["a", "b", "c"], [pictures]),
                   augment.Strip("operations", "rotate", ["0", "3", "9"], [pictures, pictures])],
        "tuning": search(),
        "warnings": ["class bee has 1 image"],
        **changes,
    }  # fmt: skip
    return augment.AugmentPage(**fields)


def words(text: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", text.partition("</style>")[2]).split())


def test_the_page_tells_everything() -> None:
    text = augment.render(page())
    told = words(text)
    for part in (
        "A survey", "tutelage augment photos --out look", "Yes: it covers more.", "One sentence.",
        "12 labelled images against 40", "note on strong view", "50% 40 to 60%", "31% of their",
        "1.7, photo.png", "It covers more.", "✓ chosen", "default", "+21 +10 to +30",
        "lost: density, distance", "no operations", "0.450",
        "\N{MINUS SIGN}0.050 \N{MINUS SIGN}0.100 to +0.010",
        "weak view", "rotate", "class bee has 1 image", "33.0 s", "at least 0.30",
    ):  # fmt: skip
        assert part in told, part
    assert text.count("<img ") == 4
    assert text.count("<svg ") == 1


def test_the_page_needs_no_network_and_no_script_and_pictures_have_words() -> None:
    text = augment.render(page())
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f'content="{policy}"' in text
    assert not re.search(r"<(script|link|iframe|object|embed|base|form)\b", text)
    assert not re.search(r"https?://|@import", text)
    sources = re.findall(r'\b(?:src|href)="([^"]*)"', text)
    assert sources
    assert all(source.startswith(("#", "data:image/")) for source in sources)
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall(r"<img [^>]*>", text))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in re.findall(r'href="(#\w+)"', text)} <= set(ids)


def test_hostile_names_stay_text() -> None:
    pictures = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    text = augment.render(
        page(
            title=HOSTILE, command=HOSTILE, created=HOSTILE, headline=HOSTILE, sentences=[HOSTILE],
            looked=HOSTILE, warnings=[HOSTILE, "\udcff"],
            clouds=[augment.Cloud(HOSTILE, HOSTILE, 4, intervals(0.5))],
            sheets=[Sheet(HOSTILE, HOSTILE, [Thumb(pictures[0], HOSTILE)])],
            strips=[augment.Strip("policies", HOSTILE, [HOSTILE], [pictures])],
        )
    )  # fmt: skip
    assert "<script" not in text
    assert "<img src=x" not in text
    assert "{{ 7 * 7 }}" in text
    assert text.count("<img ") == 2
    text.encode("utf-8")


def test_without_figures_the_page_says_why_and_still_shows_the_operations() -> None:
    empty = page(lack="no pool", headline="", clouds=[], plane={}, sheets=[], tuning=None)
    told = words(augment.render(empty))
    assert "Not measured: no pool." in told
    assert "rotate" in told
    assert "Search" not in told
