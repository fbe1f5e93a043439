from __future__ import annotations

from tutelage.pages.wording import (
    change_words,
    cut_middle,
    flat_settings,
    percent,
    points,
    sentence,
    signed,
    title,
)
from tutelage.stats.intervals import Interval


def test_numbers_are_written_for_people() -> None:
    assert percent(0.8489) == "84.9%"
    assert percent(None) == "\N{EN DASH}"
    assert points(0.045) == "+4.5"
    assert points(-0.045) == "\N{MINUS SIGN}4.5"
    assert points(-0.0001) == points(0.0) == "0.0"


def test_gain_and_loss_are_said_only_when_the_interval_excludes_zero() -> None:
    assert change_words(Interval(0.05, 0.01, 0.09)).startswith("gained 5.0 points")
    assert change_words(Interval(-0.05, -0.09, -0.01)).startswith("lost 5.0 points")
    assert change_words(Interval(0.05, -0.01, 0.11)).startswith("no clear change: +5.0 points")


def test_signs_are_typographic_and_zero_has_none() -> None:
    assert signed(0.1234, 3) == "+0.123"
    assert signed(-0.1234, 3) == "\N{MINUS SIGN}0.123"
    assert signed(-0.4, 0) == signed(0.0, 0) == "0"
    assert points(0.21, 0) == "+21"


def test_a_title_names_six_classes() -> None:
    assert title("tutelage", ["ant", "bee"]) == "tutelage: ant, bee"
    assert title("tutelage", list("abcdefg")) == "tutelage: a, b, c, d, e, f ..."


def test_a_note_becomes_a_sentence() -> None:
    assert sentence("no test images") == "No test images."
    assert sentence("Images: a.") == "Images: a."
    assert sentence("--minutes is short (2)") == "--minutes is short (2)."


def test_a_long_name_keeps_both_ends() -> None:
    assert cut_middle("folder/0001.png", 15) == "folder/0001.png"
    assert cut_middle("folder/0001.png", 10) == "fold\N{HORIZONTAL ELLIPSIS}1.png"


def test_settings_are_flat_and_the_planned_rounds_are_told_in_words() -> None:
    frozen, trained = {"trunk": "frozen", "steps": 0}, {"trunk": "trained", "steps": 90}
    plan = {"size": 96, "rounds": [frozen, frozen, trained]}
    told = dict(flat_settings({"plan": plan, "limit": None, "none": {}}))
    rounds = "frozen, frozen, trained"
    assert told == {"plan.size": "96", "plan.rounds": rounds, "limit": "null", "none": "{}"}
    assert dict(flat_settings({"plan": {"rounds": []}})) == {"plan.rounds": "none"}


def test_what_a_resumed_run_alone_reads_is_left_out() -> None:
    kept = {"request": {"command": "run", "images": "a"}, "place": "photos"}
    internal = {"shortened": {"student, training 1": [[7, 8]]}, "images": "9080d908"}
    told = dict(flat_settings({**kept, **internal, "notes": ["a note"], "finished": ["a"]}))
    assert told == {"request.command": "run", "request.images": "a", "place": "photos"}
