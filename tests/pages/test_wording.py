from __future__ import annotations

from tutelage.pages.wording import (
    change_words,
    cut_middle,
    in_words,
    percent,
    points,
    sentence,
    short_paths,
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


def test_a_name_is_shown_as_far_as_it_tells_images_apart() -> None:
    names = ["train/ant/1.png", "train/bee/1.png", "a/x/1.png", "b/x/1.png", "x/1.png", "top.png"]
    assert short_paths(names) == {
        "train/ant/1.png": "ant/1.png",
        "train/bee/1.png": "bee/1.png",
        "a/x/1.png": "a/x/1.png",
        "b/x/1.png": "b/x/1.png",
        "x/1.png": "x/1.png",
        "top.png": "top.png",
    }


def test_a_long_name_keeps_both_ends() -> None:
    assert cut_middle("folder/0001.png", 15) == "folder/0001.png"
    assert cut_middle("folder/0001.png", 10) == "fold\N{HORIZONTAL ELLIPSIS}1.png"


def test_planned_rounds_are_counted_by_kind() -> None:
    frozen, trained = {"trunk": "frozen", "steps": 0}, {"trunk": "trained", "steps": 90}
    plan = {"size": 96, "rounds": [frozen, frozen, trained]}
    said = "2 on the frozen trunk, then 1 with the trunk trained"
    assert in_words({"plan": plan}) == {"plan": {"size": 96, "rounds": said}}
    assert in_words({"plan": {"rounds": []}}) == {"plan": {"rounds": "none"}}


def test_the_agreement_of_clusters_is_explained() -> None:
    told = in_words({"clusters": {"agreement": 0.169, "likelier": False, "doubt": ""}})
    assert told["clusters"] == (
        "agreement with the teacher: 0.17 (Cohen's kappa; 1 is full agreement, 0 is chance)"
    )


def test_what_a_resumed_run_alone_reads_is_left_out() -> None:
    kept = {"request": {"command": "run"}, "place": "photos"}
    internal = {"shortened": {"student, training 1": [[7, 8]]}, "images": "9080d908"}
    assert in_words({**kept, **internal, "notes": ["a note"], "finished": ["a"]}) == kept
