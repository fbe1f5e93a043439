"""Which students are on offer, and which fit the limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("timm")

import silent_checks as checks
import tiny

from tutelage.chain import limits, prepare
from tutelage.chain.limits import Offer, choose_student, exceeded
from tutelage.config import RunConfig, make_config
from tutelage.data.open import read_catalog
from tutelage.data.runfolder import RunFolder
from tutelage.models.zoo import create
from tutelage.report.model import DeploymentRow
from tutelage.system.errors import TutelageError

SIZES = (224, 160, 96)
PARAMETERS = {"cut": 500, "cut:1": 10, "cut:2": 100, "cut:3": 400, "cut:4": 2000}
Choose = Callable[..., tuple[str, int]]


class Fake:
    """A machine on which time rises with parameters and pixels; it notes what was timed.

    So nothing is exported or timed.
    """

    def __init__(self) -> None:
        self.timed: list[tuple[str, int]] = []
        self.slower: dict[str, float] = {}

    def __call__(self, config: RunConfig, base: Any, name: str, size: int) -> Offer:
        self.timed.append((name, size))
        return self.cost(name, size)

    def cost(self, name: str, size: int) -> Offer:
        parameters = PARAMETERS.get(name, 3000)
        latency = 0.1 + parameters * (size / 224) ** 2 / 100
        latency *= self.slower.get(f"{name}@{size}", 1.0)
        return Offer(name, size, latency, parameters / 100)


@pytest.fixture
def fake(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(limits, "measure", fake)
    return fake


@pytest.fixture
def choose(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Choose:
    """Chooses by limits where "cut" at 160 px is planned, of a trunk of four stages."""
    base: Any = None
    monkeypatch.setattr(limits, "can_be_cut", lambda _: True)
    monkeypatch.setattr(limits, "first_trunk", lambda _: None)
    monkeypatch.setattr(limits, "count_stages", lambda _: 4)

    def chosen(student: str = "cut", **settings: Any) -> tuple[str, int]:
        config = make_config("run", {"student": student, **settings})
        found, _ = choose_student(config, base, 160, SIZES)
        return found.student, found.size

    return chosen


@pytest.mark.parametrize(
    ("limits", "slower", "found"),
    [
        ({"max_latency_ms": 3.0, "max_size_mb": 5.0}, {}, ("cut", 160)),  # what is planned
        ({"max_latency_ms": 2.2}, {}, ("cut", 96)),  # else its views become smaller
        ({"max_latency_ms": 4.0}, {"cut@160": 2.0}, ("cut", 96)),  # and it is timed itself
        ({"max_latency_ms": 0.9}, {}, ("cut:3", 96)),  # else it has fewer stages
        ({"max_latency_ms": 2.2, "max_size_mb": 1.0}, {}, ("cut:2", 224)),  # of views as large
        ({"max_latency_ms": 1.0, "max_size_mb": 1.0}, {}, ("cut:2", 160)),  # as fit
    ],
)
def test_the_student_keeps_all_limits_with_the_most_stages_and_then_the_largest_views(
    limits: dict[str, float],
    slower: dict[str, float],
    found: tuple[str, int],
    fake: Fake,
    choose: Choose,
) -> None:
    fake.slower = slower
    assert choose(**limits) == found
    kept = fake.cost(*found)
    assert kept.latency_ms <= limits["max_latency_ms"]
    assert kept.megabytes <= limits.get("max_size_mb", 99)
    if found == ("cut", 160):
        assert fake.timed == [found]


@pytest.mark.parametrize(
    ("settings", "slower", "words"),
    [
        (
            {"max_latency_ms": 0.1},
            {},
            r"no student fits --max-latency-ms 0\.1: the fastest is cut:1 at 96 px \(0\.12 ms, "
            r"0\.10 MB\).*allow more than that, or store the images on a smaller --canvas",
        ),
        ({"max_size_mb": 0.05}, {}, r"fits --max-size-mb 0\.05.*allow more than that$"),
        (
            {"max_latency_ms": 0.5, "max_size_mb": 0.1},
            {"cut:1@96": 10.0},
            r"and --max-size-mb 0\.1: the fastest is cut:2 at 96.*, the smallest cut:1 at 96",
        ),
    ],
)
def test_nothing_fits(
    settings: dict[str, float], slower: dict[str, float], words: str, fake: Fake, choose: Choose
) -> None:
    fake.slower = slower
    with pytest.raises(TutelageError, match=words):
        choose(**settings)


@pytest.mark.parametrize("student", ["cut:2", "resnet18"])
def test_what_the_user_named_is_not_cut_elsewhere(student: str, fake: Fake, choose: Choose) -> None:
    limit = fake.cost(student, 96).megabytes / 2
    with pytest.raises(TutelageError, match="no student fits"):
        choose(student, max_size_mb=limit)
    assert {name for name, _ in fake.timed} == {student}


def test_a_teacher_that_cannot_be_cut_has_one_student_on_offer(
    fake: Fake, choose: Choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "can_be_cut", lambda _: False)
    assert choose(max_latency_ms=2.2) == ("cut", 96)
    assert {name for name, _ in fake.timed} == {"cut"}


def test_a_student_that_is_not_trained_yet_is_measured() -> None:
    base = create("test_efficientnet", ["a", "b"], canvas=32, weights="none")
    config = make_config("run", {})
    small, large = (limits.measure(config, base, *one) for one in (("cut:1", 32), ("cut:2", 64)))
    assert (small.student, small.size) == ("cut:1", 32)
    assert 0 < small.megabytes < large.megabytes
    assert min(small.latency_ms, large.latency_ms) > 0


def test_a_finished_student_over_its_limit_is_told() -> None:
    row: DeploymentRow = {"name": "student", "parameters": 1, "bytes": 3_000_000, "format": "f",
                          "latency_ms_p50": 2.5, "latency_ms_p05": 2.0}  # fmt: skip
    kept = make_config("run", {"max_latency_ms": 2.5, "max_size_mb": 3.0}).distill
    assert exceeded(kept, [row]) == []
    (note,) = exceeded(dataclasses.replace(kept, max_latency_ms=2.4), [row])
    assert "does not keep its limit: 2.50 ms exceeds --max-latency-ms 2.4" in note
    assert exceeded(dataclasses.replace(kept, max_size_mb=1.0), []) == []


# --- in a run folder


def test_the_choice_is_pinned_and_followed(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"student": "cut", "max_latency_ms": 0.3, "input_size": None}
    first = checks.prepared(tmp_path, monkeypatch, **settings)
    student, work = first.config.distill.student, first.plan.student
    assert fake.cost(student, work.size).latency_ms <= 0.3
    pinned = first.folder.read_json("config.json")["student"]
    assert (pinned["student"], pinned["work"]) == (student, dataclasses.asdict(work))
    planned = first.folder.read_json("config.json")["plan"]
    more = first.plan.estimated_seconds - planned["estimated_seconds"]
    assert more == pytest.approx(work.seconds - planned["student"]["seconds"])
    assert any("does not fit --max-latency-ms 0.3" in note for note in first.notes)
    fake.timed.clear()
    fake.slower.clear()
    again = checks.prepared(tmp_path, monkeypatch, **settings)
    assert fake.timed == []
    assert again.config == first.config
    assert again.plan == first.plan
    assert again.notes == first.notes


def test_runs_that_must_agree_share_one_choice(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_data(tmp_path / "data")
    monkeypatch.setattr(prepare, "current_speed", lambda *_: checks.SPEED)
    both = RunFolder(tmp_path / "both")
    both.claim({"command": "ladder"})
    catalog, chosen = read_catalog(tmp_path / "data"), []
    for seed in (0, 1):
        settings = {**checks.SETTINGS, "student": "cut", "max_latency_ms": 0.15, "seed": seed}
        config, out = make_config("ladder", settings), tmp_path / f"seed-{seed}"
        run = prepare.prepare("ladder", catalog, "data", out, config, quiet=True, shared=both)
        chosen.append((run.config.distill.student, run.plan.student))
        fake.slower = {"cut:2@32": 100.0}
    assert chosen[0] == chosen[1]


def test_with_a_fixed_size_only_the_cuts_vary(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = checks.prepared(tmp_path, monkeypatch, student="cut", max_latency_ms=0.15)
    assert {size for _, size in fake.timed} == {run.config.data.input_size}
    assert len(fake.timed) > 2


def test_a_teacher_that_cannot_be_cut_is_planned_with_another_student(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"teacher": "test_vit", "student": "cut", "input_size": None, "canvas": 64}
    run = checks.prepared(tmp_path, monkeypatch, **settings)
    assert run.plan.size % 16 == 0
    assert run.base.spec.input_size == run.plan.size
    assert any("no student can be cut from test_vit, so it is cut from tf" in f for f in run.facts)
    plain = checks.prepared(
        tmp_path, monkeypatch, "plain", **{**settings, "teacher": "test_resnet"}
    )
    assert not any("no student can be cut" in fact for fact in plain.facts)


def test_a_refused_limit_gives_a_new_folder_back(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TutelageError, match="no student fits"):
        checks.prepared(tmp_path, monkeypatch, "out", max_latency_ms=0.001)
    assert not (tmp_path / "out").exists()
