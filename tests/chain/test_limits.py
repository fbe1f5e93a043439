"""Which students are on offer, and which fit the limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("timm")

import silent_checks as checks
import tiny

from tutelage.chain import limits, prepare
from tutelage.chain.limits import Offer, Shape, Untrained, choose_student, exceeded
from tutelage.config import make_config
from tutelage.data.open import read_catalog
from tutelage.data.runfolder import RunFolder
from tutelage.models.zoo import create
from tutelage.report.model import DeploymentRow
from tutelage.system.errors import TutelageError

SIZES = (224, 160, 96)
PARAMETERS = {"cut": 500, "cut:1": 10, "cut:2": 100, "cut:3": 400, "cut:4": 2000}
Choose = Callable[..., Shape]


class Fake:
    """A machine on which time rises with parameters and pixels; it notes what was timed.

    So nothing is exported or timed.
    """

    def __init__(self) -> None:
        self.timed: list[Shape] = []
        self.slower: dict[str, float] = {}

    def __call__(self, shapes: Sequence[Shape]) -> list[Offer]:
        self.timed += shapes
        return [self.cost(*shape) for shape in shapes]

    def cost(self, name: str, size: int) -> Offer:
        parameters = PARAMETERS.get(name, 3000)
        latency = 0.1 + parameters * (size / 224) ** 2 / 100
        latency *= self.slower.get(f"{name}@{size}", 1.0)
        return Offer(name, size, parameters, latency, parameters / 100)


@pytest.fixture
def fake(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr(limits, "Untrained", lambda *_: fake)
    return fake


@pytest.fixture
def choose(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Choose]:
    """Chooses by limits where "cut" at 160 px is planned, of a trunk of four stages."""
    base: Any = None
    monkeypatch.setattr(limits, "can_be_cut", lambda _: True)
    monkeypatch.setattr(limits, "first_trunk", lambda _: None)
    monkeypatch.setattr(limits, "count_stages", lambda _: 4)

    def chosen(student: str = "cut", **settings: Any) -> Shape:
        config = make_config("run", {"student": student, **settings})
        found, _ = choose_student(config, base, 160, SIZES)
        return found.student, found.size

    return chosen


def test_the_planned_student_is_kept_where_it_fits_and_nothing_else_is_timed(
    fake: Fake, choose: Choose
) -> None:
    assert choose(max_latency_ms=3.0, max_size_mb=5.0) == ("cut", 160)
    assert fake.timed == [("cut", 160)]


def test_else_it_is_the_slowest_that_fits(fake: Fake, choose: Choose) -> None:
    found = choose(max_latency_ms=2.2)
    everything = [fake.cost(name, size) for name in PARAMETERS for size in SIZES]
    fitting = [c for c in everything if c.latency_ms <= 2.2]
    assert fake.cost(*found) == max(fitting, key=lambda c: c.latency_ms)
    assert len(set(fake.timed)) < len(everything)


def test_both_limits_are_kept_and_of_a_cut_that_is_too_large_no_larger_views_are_timed(
    fake: Fake, choose: Choose
) -> None:
    assert choose(max_latency_ms=2.2, max_size_mb=1.0) == ("cut:2", 224)
    assert {name for name, size in fake.timed if size == 224} == {"cut:1", "cut:2"}


def test_what_turns_out_too_slow_makes_way_for_a_faster_one(fake: Fake, choose: Choose) -> None:
    # On the way from 96 to 224 px this one is slower than its neighbours suggest.
    fake.slower = {"cut@160": 2.0, "cut:3@160": 2.0}
    found = choose(max_latency_ms=2.4)
    assert fake.cost(*found).latency_ms <= 2.4
    assert ("cut:3", 160) in fake.timed
    assert found not in {("cut", 160), ("cut:3", 160)}


def test_a_slow_student_of_few_parameters_is_no_offer(fake: Fake, choose: Choose) -> None:
    """As slow as the slowest that fits, but with fewer parameters and views no larger."""
    fake.slower = {f"cut:1@{size}": 10.0 for size in SIZES}
    assert choose(max_latency_ms=1.2)[0] != "cut:1"
    assert fake.cost("cut:1", 96).latency_ms <= 1.2


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


def test_untrained_students_are_exported_once_and_timed() -> None:
    base = create("test_efficientnet", ["a", "b"], canvas=32, weights="none")
    measure = Untrained(make_config("run", {}), base)
    small, large = measure([("cut:1", 32), ("cut:2", 64)])
    assert (small.student, small.size) == ("cut:1", 32)
    assert 0 < small.megabytes < large.megabytes
    assert small.parameters < large.parameters
    assert min(small.latency_ms, large.latency_ms) > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "export_onnx", None)
        assert measure([("cut:1", 32)])[0].megabytes == small.megabytes


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
