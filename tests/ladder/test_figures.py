"""The figures of draws: what is compared with what, in pairs, what is noted, and the curve."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

from drawn import SEEDS, seed_of

from tutelage.config import RunConfig, make_config
from tutelage.data.catalog import Catalog
from tutelage.data.sources import FileSource
from tutelage.ladder import figures as ladder
from tutelage.ladder.figures import HELPS, HURTS, UNCLEAR, Point, summarise, worth
from tutelage.ladder.page import worth_in_words
from tutelage.ladder.request import ARMS, RUNGS, check_budgets
from tutelage.system.errors import TutelageError

T2 = 4.302653  # 97.5% point of Student's t with 2 degrees of freedom


def test_the_figures_of_three_draws_by_hand() -> None:
    arms, differences = summarise(SEEDS)
    assert [arm["name"] for arm in arms] == ["probe", "fine-tune", "transfer", "student"]
    probe, fine_tune, transfer, _ = arms
    assert probe["each"] == [0.5, 0.6, 0.7]
    half = T2 * 0.1 / 3**0.5  # standard deviation 0.1
    assert probe["accuracy"] == pytest.approx(0.6)
    assert probe["accuracy_ci95"] == pytest.approx([0.6 - half, 0.6 + half], abs=1e-6)
    assert (probe["ece"], probe["seconds"], probe["total_seconds"]) == (pytest.approx(0.1), 1, 11)
    assert (probe["parameters"], probe["latency_ms"], probe["kept"]) == (100, 2.0, None)
    assert transfer["kept"] == 2
    by_pair = {(d["arm"], d["minus"]): d for d in differences}
    change = by_pair["transfer", "fine-tune"]  # 8, 8 and 7 points; deviation 1 / sqrt(3)
    assert change["each"] == pytest.approx([0.08, 0.08, 0.07])
    mean, half = 0.23 / 3, T2 * (0.01 / 3**0.5) / 3**0.5
    assert change["mean"] == pytest.approx(mean)
    assert change["ci95"] == pytest.approx([mean - half, mean + half], abs=1e-6)
    # Pairing sees what the spread of the arms hides: their own intervals overlap.
    assert fine_tune["accuracy_ci95"][1] > transfer["accuracy_ci95"][0]
    assert change["verdict"] == HELPS
    assert by_pair["fine-tune", "probe"]["verdict"] == UNCLEAR  # 2, 1, 3 points: 2 +- 2.5
    assert by_pair["student", "fine-tune"]["verdict"] == HURTS  # -12, -10, -14


def test_an_arm_that_a_seed_lacks_is_left_out_for_all() -> None:
    lacking = [*SEEDS[:2], {**SEEDS[2], "arms": SEEDS[2]["arms"][:3]}]
    arms, differences = summarise(lacking)
    assert [arm["name"] for arm in arms] == ["probe", "fine-tune", "transfer"]
    assert "student" not in {d["arm"] for d in differences}


def test_differences_without_spread_are_no_proof() -> None:
    (change,) = summarise([seed_of(n, probe=0.5, transfer=0.6) for n in range(3)])[1]
    assert change["ci95"][0] == change["ci95"][1] > 0
    assert change["verdict"] == UNCLEAR


def test_each_arm_is_compared_with_the_one_before_its_teacher_and_fine_tuning() -> None:
    found: dict[str, list[str]] = {}
    for arm, minus in ladder.pairs(ARMS):
        found.setdefault(arm, []).append(minus)
    assert found == {
        "augment": ["scratch"],
        "probe": ["augment"],
        "fine-tune": ["probe", "augment"],
        "transfer": ["fine-tune"],
        "self-train": ["transfer", "fine-tune"],
        "student-alone": ["self-train", "fine-tune"],
        "student": ["student-alone", "self-train", "fine-tune", "no-augmentation", "no-transfer",
                    "no-self-train"],
    }  # fmt: skip
    assert list(ladder.pairs(["probe", "transfer", "student-alone", "student"])) == [
        ("transfer", "probe"),
        ("student-alone", "transfer"),
        ("student", "student-alone"),
        ("student", "transfer"),
    ]
    assert list(ladder.pairs(["probe"])) == []


def notes(draws: Any, config: RunConfig) -> list[str]:
    noted: list[str] = ladder.ladder_figures(draws, config, command="c", created="d")["notes"]
    return noted


def test_notes_say_what_the_draws_share_and_whose_a_note_is() -> None:
    everything = notes(SEEDS, RunConfig())
    assert everything[0].startswith("Every draw had all labels")
    assert everything[-2:] == ["same (seed 0, 2)", "odd (seed 1)"]
    few = notes(SEEDS, make_config("ladder", {"labels_per_class": 4}))
    assert not any("all labels" in note for note in few)


def test_draws_that_were_not_made_alike_are_noted() -> None:
    def noted(*plans: Any, version: str = "1") -> list[str]:
        seeds = [{**seed, "plan": plan} for seed, plan in zip(SEEDS, plans, strict=True)]
        seeds[2]["versions"] = {"torch": version}
        return [note for note in notes(seeds, RunConfig()) if note in ladder.UNLIKE.values()]

    assert noted({"size": 32}, {"size": 32}, {"size": 32}) == []
    assert noted({"size": 32}, {"size": 64}, {"size": 32}) == [ladder.UNLIKE["plan"]]
    assert noted(None, None, None, version="2") == [ladder.UNLIKE["versions"]]


# --- label efficiency: which numbers of labels are tried, and the distance between two curves


def catalog(*counts: int) -> Catalog:
    labels = np.repeat(np.arange(len(counts)), counts)
    names = tuple(f"{i}.png" for i in range(len(labels)))
    source = FileSource([Path(name) for name in names])
    splits = np.full(len(labels), "train")
    return Catalog(names, labels.astype(np.int32), splits, tuple("abc"[: len(counts)]), source)


@pytest.mark.parametrize(
    ("asked", "counts", "own", "arms", "expected"),
    [
        (None, (100, 100), 10, RUNGS, (5, 20, 40)),  # a quarter is left out: three are enough
        (None, (25, 25), 10, RUNGS, (5, 20, 25)),
        (None, (10, 10), 10, RUNGS, (2, 5)),  # there are no more
        (None, (11, 11), 10, RUNGS, (2, 5)),  # hardly more are no point of their own
        (None, (40, 40), None, RUNGS, (10, 20)),
        (None, (3, 40, 50), 20, RUNGS, (5, 10, 40)),  # the typical class says how many there are
        (None, (3, 3), 3, RUNGS, ()),
        (None, (20, 20), 10, ["probe", "student"], ()),
        ([20, 5, 5, 10], (20, 20), 10, RUNGS, (5, 20)),
        ([], (20, 20), 10, RUNGS, ()),
        ([21], (20, 20), 10, RUNGS, "--curve has 21; it takes labels per class from 1 to 20"),
        ([5], (20, 20), 10, ["transfer"], "--arms leaves out self-train; add them, or give"),
    ],
)
def test_fewer_and_more_labels_are_tried_as_far_as_there_are_any(
    asked: Any, counts: tuple[int, ...], own: int | None, arms: Any, expected: Any
) -> None:
    if isinstance(expected, str):
        with pytest.raises(TutelageError, match=expected):
            check_budgets(asked, catalog(*counts), own, arms)
    else:
        assert check_budgets(asked, catalog(*counts), own, arms) == expected


def point(
    labels: float, without: Any, within: Any, *, own: bool = False, apart: float = 0.01
) -> Point:
    """Two draws, a point apart from each other in both."""
    each = [[mean - apart, mean + apart] for mean in (without, within)]
    return {"labels": labels, "without_pool": without, "with_pool": within,
            "each_without_pool": each[0], "each_with_pool": each[1], "own": own}  # fmt: skip


@pytest.mark.parametrize(
    ("points", "more", "equal"),
    [
        # From 20 to 80 labels alone 20 points in two doublings: 10 points are one doubling.
        ([(10, 0.50, 0.55), (20, 0.60, 0.70), (80, 0.80, 0.82)], True, 40),
        # Without more labels it is the distance to fewer: with the pool 20 points in two
        # doublings; 15 fewer are one and a half.
        ([(10, 0.50, 0.60), (40, 0.65, 0.80)], False, 40 / 2**1.5),
        # Harm is a negative worth.
        ([(10, 0.5, 0.4), (20, 0.6, 0.55), (40, 0.7, 0.7)], True, 10 * math.sqrt(2)),
        # A curve that dips is read as flat: 20 points above the 60% that 10 labels had.
        ([(10, 0.6, 0.6), (20, 0.5, 0.7), (40, 0.8, 0.8)], True, 40),
    ],
)
def test_the_worth_of_the_pool_is_the_distance_between_the_curves(
    points: list[tuple[float, float, float]], more: bool, equal: float
) -> None:
    own = points[1][0]
    found = worth([point(*one, own=one[0] == own) for one in points])
    assert found is not None
    assert (found["labels"], found["more"]) == (own, more)
    for end in ("equal", "low", "high"):  # both draws gain alike: the interval has no width
        assert found[end]["count"] == pytest.approx(equal)  # type: ignore[literal-required]


def test_an_interval_that_holds_nothing_tells_nothing_and_ends_are_bounds() -> None:
    own = point(20, 0.61, 0.62, own=True)
    own |= {"each_without_pool": [0.60, 0.62], "each_with_pool": [0.64, 0.60]}
    found = worth([point(10, 0.5, 0.5), own, point(40, 0.7, 0.7)])
    assert found is not None
    assert found["equal"]["count"] == pytest.approx(20 * 2 ** (0.01 / 0.09))
    assert found["low"] == {"count": 10, "beyond": -1}
    assert found["high"] == {"count": 40, "beyond": 1}
    assert worth([own]) is None


@pytest.mark.parametrize(
    ("more", "equal", "low", "high", "words"),
    [
        (True, (95, 0), (60, 0), (160, 1),
         "With the unlabelled images 40 labels do what 95 do without them (95% interval 60 to "
         "more than 160): they are worth 55 labels."),
        (True, (160, 1), (90, 0), (160, 1),
         "what more than 160 do without them (95% interval 90 to more than 160): they are worth "
         "more than 120 labels."),
        (False, (16, 0), (30, 0), (10, -1),
         "With the unlabelled images 16 do what 40 labels do without them (95% interval fewer "
         "than 10 to 30): they are worth 24 labels."),
        (True, (50, 0), (30, 0), (60, 0), "the draws do not show that they are worth any."),
        (True, (30, 0), (20, 0), (35, 0), "here they do harm."),
    ],
)  # fmt: skip
def test_the_worth_of_the_pool_is_said_in_labels(
    more: bool, equal: Any, low: Any, high: Any, words: str
) -> None:
    equal, low, high = ({"count": n, "beyond": beyond} for n, beyond in (equal, low, high))
    found = {"labels": 40, "more": more, "equal": equal, "low": low, "high": high}
    assert words in worth_in_words(found)  # type: ignore[arg-type]


# --- known silent bugs


def test_ladder_differences_are_paired() -> None:
    draws = [seed_of(0, probe=0.7, transfer=0.8), seed_of(1, probe=0.5, transfer=0.61),
             seed_of(2, probe=0.6, transfer=0.69)]  # fmt: skip
    (change,) = summarise(draws)[1]
    assert change["each"] == pytest.approx([0.1, 0.11, 0.09])
    half = T2 * 0.01 / 3**0.5
    assert [change["mean"], *change["ci95"]] == pytest.approx([0.1, 0.1 - half, 0.1 + half])
