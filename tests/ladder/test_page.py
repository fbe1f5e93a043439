from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("timm")

from tutelage.ladder import page as ladder
from tutelage.ladder.curve import CurvePoint, LabelCount, Worth, worth
from tutelage.ladder.page import Arm, Difference, LadderPage
from tutelage.ladder.request import ARMS, LEFT_OUT
from tutelage.stats.intervals import Interval

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>{{ 7 * 7 }}'


def arm(name: str, value: float, parameters: int = 1000) -> Arm:
    mean = Interval(value, value - 0.02, value + 0.02)
    kept = 2 if name == "transfer" else None
    each = [value - 0.01, value, value + 0.01]
    return Arm(name, each, mean, 0.05, parameters, 12.0, 90.0, 3.21, kept)


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
        "points": [],
        "worth": None,
        "price": None,
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
    assert told.startswith("Over 3 label draws, student gets ")
    assert words in told


def test_without_a_baseline_the_headline_claims_nothing() -> None:
    told = ladder.headline(page(differences=[]))
    assert told.endswith("right (95% interval 81.0 to 85.0).")
    assert "Nothing." in ladder.render(page(differences=[]))


def test_each_part_left_out_is_told_with_what_it_adds() -> None:
    whole = [
        change("student", "no-augmentation", 0.05, 0.02),
        change("student", "no-transfer", 0.30, 0.02),
        change("student", "no-self-train", -0.03, 0.02),
        change("student", "student-alone", 0.01, 0.02),
    ]
    less = [arm(name, 0.78) for name in ("student-alone", *LEFT_OUT)]
    shown = page(arms=[arm("student", 0.83), *less], differences=whole)
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
    text = text_of(ladder.render(shown))
    assert told in text
    assert "augmentation no-augmentation +5.0 +3.0 to +7.0 helps" in text
    assert "distillation student-alone +1.0" in text
    assert "Each part left out" not in text_of(ladder.render(page()))


def test_a_price_tells_what_an_arm_costs() -> None:
    shown = page(price=4.0)
    assert "costs 0.10." in ladder.summary(shown)  # 90 s of 4 an hour
    assert "0.1000" in text_of(ladder.render(shown))
    assert shown.cost(shown.arms[0]) == pytest.approx(0.1)
    assert page().cost(shown.arms[0]) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Worth(40, True, LabelCount(95), LabelCount(60), LabelCount(160, 1)),
         "With the unlabelled images 40 labels do what 95 do without them (95% interval 60 to "
         "more than 160): they are worth 55 labels."),
        (Worth(40, True, LabelCount(160, 1), LabelCount(90), LabelCount(160, 1)),
         "what more than 160 do without them (95% interval 90 to more than 160): they are worth "
         "more than 120 labels."),
        (Worth(40, False, LabelCount(16), LabelCount(30), LabelCount(10, -1)),
         "With the unlabelled images 16 do what 40 labels do without them (95% interval fewer "
         "than 10 to 30): they are worth 24 labels."),
        (Worth(40, True, LabelCount(50), LabelCount(30), LabelCount(60)),
         "the draws do not show that they are worth any."),
        (Worth(40, True, LabelCount(30), LabelCount(20), LabelCount(35)), "here they do harm."),
    ],
)  # fmt: skip
def test_the_worth_of_the_pool_is_said_in_labels(found: Worth, words: str) -> None:
    assert words in ladder.worth_in_words(found)


def test_the_curve_has_a_chart_a_table_and_words_for_readers_who_cannot_see_it() -> None:
    points = [
        CurvePoint(10, [0.4, 0.5, 0.6], [0.4, 0.5, 0.6], False),
        CurvePoint(20, [0.6, 0.6, 0.6], [0.7, 0.7, 0.7], True),
    ]
    html = ladder.render(page(points=points, worth=worth(points)))
    assert (
        'aria-label="Accuracy against the number of labels. with unlabelled images: 50.0% at 10, '
        '70.0% at 20; labels only: 50.0% at 10, 60.0% at 20"' in html
    )
    text = text_of(html)
    assert "20 (yours) 60.0% 70.0%" in text
    assert "With the unlabelled images 14 do what 20 labels do without them" in text


def test_the_luck_of_the_test_images_by_hand() -> None:
    # 1.96 sqrt(0.83 * 0.17 / 400) = 3.7 points
    said = ladder.luck_note(page().arms, 400)
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
    assert tuple(ladder.MEANINGS) == ARMS
