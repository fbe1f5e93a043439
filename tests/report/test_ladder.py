from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from tutelage.report import ladder
from tutelage.report.ladder import Arm, Difference, LadderPage
from tutelage.report.numbers import Interval

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7 * 7 }}'


def arm(name: str, value: float, parameters: int = 1000) -> Arm:
    mean = Interval(value, value - 0.02, value + 0.02)
    kept = 2 if name == "transfer" else None
    return Arm(name, [value - 0.01, value, value + 0.01], mean, 0.05, parameters, 12.0, 3.21, kept)


def change(name: str, minus: str, value: float, half: float) -> Difference:
    each = [value - half / 2, value, value + half / 2]
    return Difference(name, minus, each, Interval(value, value - half, value + half))


def page(**changes: Any) -> LadderPage:
    fields: dict[str, Any] = {
        "title": "A ladder",
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
        "notes": ["seed 5 had few labels"],
        "settings": {"data": {"labels_per_class": 10}},
        **changes,
    }
    return LadderPage(**fields)


def text_of(html: str) -> str:
    """What a reader reads."""
    html = re.sub(r"<(style|svg).*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_gains_losses_and_doubts_are_told_alike() -> None:
    text = text_of(ladder.render(page()))
    for part in (
        "Helped transfer against fine-tune: gained 5.0 points (95% interval +3.0 to +7.0); "
        "better in 3, worse in 0 of 3 draws.",
        "Hurt student against transfer: lost 2.0 points (95% interval \N{MINUS SIGN}3.0 to "
        "\N{MINUS SIGN}1.0); better in 0, worse in 3 of 3 draws, with 0.24 times its parameters.",
        "Not told apart student against fine-tune: +3.0 points (95% interval \N{MINUS SIGN}1.0 to "
        "+7.0); better in 3, worse in 0 of 3 draws, with 0.24 times its parameters.",
        "student fine-tune +3.0 \N{MINUS SIGN}1.0 to +7.0 not told apart",
        "transfer fine-tune +5.0 +3.0 to +7.0 helps",
        "student transfer \N{MINUS SIGN}2.0 \N{MINUS SIGN}3.0 to \N{MINUS SIGN}1.0 hurts",
        "2 of 3",
        "tutelage ladder photos --out look --seeds 3",
        "3 draws, seeds 4, 5, 6",
        "seed 5 had few labels",
        "data.labels_per_class",
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
    told = ladder.headline(page(differences=[change("student", "fine-tune", value, half)]))
    assert told.startswith("Over 3 label draws, student names ")
    assert words in told


def test_without_a_baseline_the_headline_claims_nothing() -> None:
    told = ladder.headline(page(differences=[]))
    assert told.endswith("right (95% interval 81.0 to 85.0).")
    assert "Nothing." in ladder.render(page(differences=[]))


def test_the_luck_of_the_test_images_by_hand() -> None:
    # 1.96 sqrt(0.83 * 0.17 / 400) = 3.7 points
    said = ladder.luck(page().arms, 400)
    assert "accuracy of 83.0% by about 3.7 points" in said


def test_the_page_fetches_and_runs_nothing_and_escapes_everything() -> None:
    html = ladder.render(page(title=HOSTILE, command=HOSTILE, notes=[HOSTILE],
                              settings={HOSTILE: HOSTILE}))  # fmt: skip
    assert "<script" not in html
    assert "<img" not in html
    assert "{{ 7 * 7 }}" in html
    assert "://" not in html
    assert html.count("default-src &#39;none&#39;") + html.count("default-src 'none'") == 1
    assert 'aria-label="Mean accuracy of each arm with its 95% interval. fine-tune: 80.0%' in html


def test_every_arm_has_a_meaning() -> None:
    pytest.importorskip("timm")
    from tutelage.ladder import ARMS

    assert tuple(ladder.MEANINGS) == ARMS
