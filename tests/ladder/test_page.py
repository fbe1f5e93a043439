"""The page of a ladder: what it says, to whom, and that it fetches and runs nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("timm")

from browser import violations

from tutelage.ladder import page as ladder
from tutelage.ladder.figures import HELPS, HURTS, UNCLEAR, worth
from tutelage.ladder.request import ARMS, LEFT_OUT

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7 * 7 }}'


def arm(name: str, value: float, parameters: int = 1000) -> dict[str, Any]:
    return {"name": name, "accuracy": value, "accuracy_ci95": [value - 0.02, value + 0.02],
            "each": [value - 0.01, value, value + 0.01], "ece": 0.05, "parameters": parameters,
            "seconds": 12.0, "total_seconds": 90.0, "latency_ms": 3.21,
            "kept": 2 if name == "transfer" else None}  # fmt: skip


def change(name: str, minus: str, value: float, half: float) -> dict[str, Any]:
    clear = abs(value) > half
    verdict = (HELPS if value > 0 else HURTS) if clear else UNCLEAR
    return {"arm": name, "minus": minus, "mean": value, "ci95": [value - half, value + half],
            "each": [value - half / 2, value, value + half / 2], "verdict": verdict}  # fmt: skip


def point(labels: int, without: float, within: float, *, own: bool) -> dict[str, Any]:
    return {"labels": labels, "without_pool": without, "with_pool": within, "own": own,
            "each_without_pool": [without] * 3, "each_with_pool": [within] * 3}  # fmt: skip


POINTS: list[Any] = [point(10, 0.5, 0.5, own=False), point(20, 0.6, 0.7, own=True)]


def content(**changes: Any) -> dict[str, Any]:
    return {
        "command": "tutelage ladder photos --out look --seeds 3",
        "created": "2025-01-01 00:00 UTC",
        "seeds": [4, 5, 6],
        "n_test": 400,
        "arms": [arm("fine-tune", 0.8), arm("transfer", 0.85), arm("student", 0.83, 240)],
        "differences": [
            change("transfer", "fine-tune", 0.05, 0.02),
            change("student", "transfer", -0.02, 0.01),
            change("student", "fine-tune", 0.03, 0.04),
        ],
        "curve": [],
        "worth": None,
        "notes": ["seed 5 had few labels"],
        "settings": {"data": {"labels_per_class": 10}},
        **changes,
    }


def page(title: str = "A ladder", **changes: Any) -> str:
    return ladder.render(content(**changes), title)


def text_of(html: str) -> str:
    """What a reader reads."""
    html = re.sub(r"<(style|svg).*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_gains_losses_and_doubts_are_told_alike() -> None:
    text = text_of(page())
    for part in (
        "student fine-tune +3.0 \N{MINUS SIGN}1.0 to +7.0 not told apart",
        "transfer fine-tune +5.0 +3.0 to +7.0 helps",
        "student transfer \N{MINUS SIGN}2.0 \N{MINUS SIGN}3.0 to \N{MINUS SIGN}1.0 hurts",
        "2 of 3",
        "tutelage ladder photos --out look --seeds 3",
        "3 draws, seeds 4, 5, 6",
        "seed 5 had few labels",
        "data.labels_per_class",
        # 1.96 sqrt(0.83 * 0.17 / 400) = 3.7 points
        "accuracy of 83.0% by about 3.7 points",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("value", "half", "words"),
    [
        (0.03, 0.02, "83.0% of the test images right (95% interval 81.0 to 85.0): 3.0 points more "
         "than plain fine-tuning on the labels (95% interval +1.0 to +5.0)."),
        (-0.03, 0.02, "3.0 points less than plain fine-tuning on the labels"),
        (0.03, 0.04, "it cannot be told apart from plain fine-tuning on the labels: +3.0 points"),
    ],
)  # fmt: skip
def test_the_headline_is_by_the_interval_against_fine_tuning(
    value: float, half: float, words: str
) -> None:
    told = ladder.headline(content(differences=[change("student", "fine-tune", value, half)]))
    assert told.startswith("Over 3 label draws, student gets ")
    assert words in told


def test_without_a_baseline_the_headline_claims_nothing() -> None:
    told = ladder.headline(content(differences=[]))
    assert told.endswith("right (95% interval 81.0 to 85.0).")


def test_each_part_left_out_is_told_with_what_it_adds() -> None:
    whole = [
        change("student", "no-augmentation", 0.05, 0.02),
        change("student", "no-transfer", 0.30, 0.02),
        change("student", "no-self-train", -0.03, 0.02),
        change("student", "student-alone", 0.01, 0.02),
    ]
    less = [arm(name, 0.78) for name in ("student-alone", *LEFT_OUT)]
    shown = content(arms=[arm("student", 0.83), *less], differences=whole)
    told = ladder.summary(shown)
    # Not the arm that stands last.
    assert ladder.headline(shown).startswith("Over 3 label draws, student gets 83.0%")
    for part in (
        "The whole chain needs augmentation (+5.0 points), pretrained weights (+30.0 points).",
        "It would be better without self-training (\N{MINUS SIGN}3.0 points).",
        "3 draws do not show what it would be without distillation (+1.0 points).",
        "One draw of student takes 1.5 minutes here.",
    ):
        assert part in told, part
    text = text_of(ladder.render(shown, "A ladder"))
    assert told in text
    assert "augmentation no-augmentation +5.0 +3.0 to +7.0 helps" in text
    assert "distillation student-alone +1.0" in text
    assert "Each part left out" not in text_of(page())


def test_the_curve_has_a_chart_a_table_and_words_for_readers_who_cannot_see_it() -> None:
    html = page(curve=POINTS, worth=worth(POINTS))
    assert (
        'aria-label="Accuracy against the number of labels. with unlabelled images: 50.0% at 10, '
        '70.0% at 20; labels only: 50.0% at 10, 60.0% at 20"' in html
    )
    text = text_of(html)
    assert "20 (yours) 60.0% 70.0%" in text
    assert "With the unlabelled images 14 do what 20 labels do without them" in text


def test_the_page_fetches_and_runs_nothing_and_escapes_everything() -> None:
    html = page(HOSTILE, command=HOSTILE, notes=[HOSTILE], settings={HOSTILE: HOSTILE})
    assert "<script" not in html
    assert "<img" not in html
    assert "{{ 7 * 7 }}" in html
    assert "://" not in html
    assert html.count("default-src &#39;none&#39;") + html.count("default-src 'none'") == 1
    assert 'aria-label="Mean accuracy of each arm with its 95% interval. fine-tune: 80.0%' in html


def test_every_arm_has_a_meaning() -> None:
    text = page(arms=[arm(name, 0.8) for name in ARMS])
    assert dict(re.findall(r"<dt>(.+?)</dt><dd>(\w+)", text)).keys() == {*ARMS}


def test_the_ladder_fits_a_phone_and_is_dark_on_light_on_paper(
    chromium: Any, tmp_path: Path
) -> None:
    path = tmp_path / "ladder.html"
    arms = [arm(name, 0.8) for name in ARMS]
    changes = [change("student", name, 0.02, 0.01) for name in ladder.PARTS.values()]
    html = page(arms=arms, differences=changes, curve=POINTS, worth=worth(POINTS))
    path.write_text(html, encoding="utf-8")
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    color = "e => getComputedStyle(e).{}.match(/[0-9.]+/g).slice(0, 3).map(Number)"
    with chromium.new_page(viewport={"width": 360, "height": 700}, color_scheme="dark") as shown:
        asked: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(path.as_uri())
        assert shown.evaluate(wide) <= 0
        ink, ground = (
            sum(shown.eval_on_selector("body", color.format(name)))
            for name in ("color", "backgroundColor")
        )
        assert ink > ground
        assert violations(shown) == []
        shown.emulate_media(media="print")
        assert sum(shown.eval_on_selector("body", color.format("color"))) < 150
        charts = shown.locator("svg.chart")
        assert charts.count() == 2
        assert all(chart.get_attribute("aria-label") for chart in charts.all())
        assert asked == [path.as_uri()]
