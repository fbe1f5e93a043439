"""The figures of draws: what is compared with what, in pairs, and what is noted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("timm")

from drawn import SEEDS, seed_of

from tutelage.config import RunConfig, make_config
from tutelage.data.open import read_catalog
from tutelage.ladder import figures as ladder
from tutelage.ladder.figures import summarise
from tutelage.ladder.page import HELPS, HURTS, UNCLEAR
from tutelage.ladder.request import ARMS

T2 = 4.302653  # 97.5% point of Student's t with 2 degrees of freedom


def test_the_figures_of_three_draws_by_hand() -> None:
    arms, differences = ladder.summarise(SEEDS)
    assert [arm.name for arm in arms] == ["probe", "fine-tune", "transfer", "student"]
    probe, _, transfer, _ = arms
    assert probe.each == [0.5, 0.6, 0.7]
    half = T2 * 0.1 / 3**0.5  # standard deviation 0.1
    assert probe.mean == pytest.approx((0.6, 0.6 - half, 0.6 + half), abs=1e-6)
    assert (probe.ece, probe.seconds, probe.total) == (pytest.approx(0.1), 1.0, 11.0)
    assert (probe.parameters, probe.latency_ms, probe.kept) == (100, 2.0, None)
    assert transfer.kept == 2
    by_pair = {(d.arm, d.minus): d for d in differences}
    change = by_pair["transfer", "fine-tune"]  # 8, 8 and 7 points; deviation 1 / sqrt(3)
    assert change.each == pytest.approx([0.08, 0.08, 0.07])
    mean, half = 0.23 / 3, T2 * (0.01 / 3**0.5) / 3**0.5
    assert change.mean == pytest.approx((mean, mean - half, mean + half), abs=1e-6)
    assert change.verdict == HELPS
    assert by_pair["fine-tune", "probe"].verdict == UNCLEAR  # 2, 1, 3 points: 2 +- 2.5
    assert by_pair["student", "fine-tune"].verdict == HURTS  # -12, -10, -14
    assert by_pair["student", "transfer"].verdict == HURTS


def test_pairing_sees_what_the_spread_of_the_arms_hides() -> None:
    (_, fine_tune, transfer, _), differences = ladder.summarise(SEEDS)
    assert fine_tune.mean.high > transfer.mean.low  # the arms' own intervals overlap
    assert {(d.arm, d.minus): d.verdict for d in differences}["transfer", "fine-tune"] == HELPS


def test_an_arm_that_a_seed_lacks_is_left_out_for_all() -> None:
    lacking = [*SEEDS[:2], {**SEEDS[2], "arms": SEEDS[2]["arms"][:3]}]
    arms, differences = ladder.summarise(lacking)
    assert [arm.name for arm in arms] == ["probe", "fine-tune", "transfer"]
    assert "student" not in {d.arm for d in differences}


def test_differences_without_spread_are_no_proof() -> None:
    alike = [seed_of(n, probe=0.5, transfer=0.6) for n in range(3)]
    (change,) = ladder.summarise(alike)[1]
    assert change.mean.low == change.mean.high > 0
    assert change.verdict == UNCLEAR


def test_each_arm_is_compared_with_the_one_before_its_teacher_and_fine_tuning() -> None:
    assert list(ladder.pairs(ARMS)) == [
        ("augment", "scratch"),
        ("probe", "augment"),
        ("fine-tune", "probe"),
        ("fine-tune", "augment"),
        ("transfer", "fine-tune"),
        ("self-train", "transfer"),
        ("self-train", "fine-tune"),
        ("student-alone", "self-train"),
        ("student-alone", "fine-tune"),
        ("student", "student-alone"),
        ("student", "self-train"),
        ("student", "fine-tune"),
        ("student", "no-augmentation"),
        ("student", "no-transfer"),
        ("student", "no-self-train"),
    ]
    assert list(ladder.pairs(["probe", "transfer", "student-alone", "student"])) == [
        ("transfer", "probe"),
        ("student-alone", "transfer"),
        ("student", "student-alone"),
        ("student", "transfer"),
    ]
    assert list(ladder.pairs(["probe"])) == []


def test_notes_say_what_the_draws_share_and_whose_a_note_is(data: Path) -> None:
    def page(config: RunConfig) -> Any:
        return ladder.make_page(SEEDS, read_catalog(data), config, command="c", created="d")

    everything = page(RunConfig())
    assert everything.notes[0].startswith("Every draw had all labels")
    assert everything.notes[-2:] == ["same (seed 0, 2)", "odd (seed 1)"]
    few = page(make_config("ladder", {"labels_per_class": 4}))
    assert not any("all labels" in note for note in few.notes)
    assert few.title == "tutelage ladder: ant, bee"


def test_draws_that_were_not_made_alike_are_noted(data: Path) -> None:
    def noted(*plans: Any, version: str = "1") -> list[str]:
        seeds = [{**seed, "plan": plan} for seed, plan in zip(SEEDS, plans, strict=True)]
        seeds[2]["versions"] = {"torch": version}
        page = ladder.make_page(seeds, read_catalog(data), RunConfig(), command="c", created="d")
        return [note for note in page.notes if note in ladder.UNLIKE.values()]

    assert noted({"size": 32}, {"size": 32}, {"size": 32}) == []
    assert noted({"size": 32}, {"size": 64}, {"size": 32}) == [ladder.UNLIKE["plan"]]
    assert noted(None, None, None, version="2") == [ladder.UNLIKE["versions"]]


# --- known silent bugs


def test_ladder_differences_are_paired() -> None:
    def drawn(seed: int, **accuracy: float) -> dict[str, Any]:
        shared = {"kept": None, "seconds": 1.0, "total_seconds": 1.0, "parameters": 1,
                  "latency_ms": None}  # fmt: skip
        arms = [
            {"arm": arm, "test": {"n": 100, "accuracy": value, "ece": 0.1}, **shared}
            for arm, value in accuracy.items()
        ]
        return {"seed": seed, "arms": arms}

    draws = [drawn(0, probe=0.7, transfer=0.8), drawn(1, probe=0.5, transfer=0.61),
             drawn(2, probe=0.6, transfer=0.69)]  # fmt: skip
    (change,) = summarise(draws)[1]
    assert change.each == pytest.approx([0.1, 0.11, 0.09])
    half = 4.302653 * 0.01 / 3**0.5
    assert change.mean == pytest.approx((0.1, 0.1 - half, 0.1 + half), abs=1e-6)
