"""What is spent of the minutes, and what each training may take of the rest."""

import json
import time
from pathlib import Path

import pytest

from tutelage.chain import clock as clocks
from tutelage.chain.clock import Clock, Share, foreseen, in_minutes, later_seconds, shares
from tutelage.chain.plan import AFTER_S, AFTER_SHARE, RunPlan, Work
from tutelage.data.runfolder import RunFolder
from tutelage.system.console import Console
from tutelage.system.progress import Part
from tutelage.training.checkpoint import Trainings
from tutelage.training.pace import Pace

FROZEN = Work("frozen")
TRAINED = Work("trained", steps=100, seconds=60.0)
STUDENT = Work("trained", steps=200, seconds=100.0)
PLAN = RunPlan(5, 224, 2, 4, 1, FROZEN, (FROZEN, FROZEN, TRAINED), STUDENT, 250.0)


class Time:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now = 1000.0


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Time:
    watch = Time()
    monkeypatch.setattr(time, "monotonic", lambda: watch.now)
    return watch


def begun(folder: Path, watch: Time, budget: float = 300.0) -> tuple[Clock, Trainings]:
    run = RunFolder(folder)
    if not (folder / "config.json").exists():
        folder.mkdir(exist_ok=True)
        run.write_json("config.json", {})
    trainings = Trainings(60.0, print)
    return Clock(run, trainings, Console(quiet=True), budget=budget, after=AFTER_S), trainings


def steps_of(pace: Pace, watch: Time, seconds: float) -> int:
    """How many steps are made that take so many seconds each."""
    step = 0
    pace.resume(0)
    while step < pace.steps:
        step += 1
        watch.now += seconds
        pace.after(step)
    return step


def test_what_is_spent_is_what_stages_took(tmp_path: Path, watch: Time) -> None:
    clock, trainings = begun(tmp_path / "run", watch)
    watch.now += 500.0  # between stages nothing is counted: another process may have taken it
    for _ in range(2):  # a second pipeline finds the stage finished
        clock.count("probe", 30.0)
    assert clock.spent() == 30.0
    with trainings.of(tmp_path / "run" / "stages" / "student"):
        watch.now += 5.0
        assert clock.spent() == 35.0
        trainings.credit(20.0)  # the stage goes on from a checkpoint
        assert clock.spent() == 50.0


def paced(clock: Clock, trainings: Trainings, folder: Path, share: Share) -> Pace:
    return clock.pace(trainings.next(), 200, share)


def test_a_student_ends_before_the_exports_begin(tmp_path: Path, watch: Time) -> None:
    """Twice as slow as planned, with 180 s left: 128 are the student's, the exports need 52."""
    clock, trainings = begun(tmp_path / "run", watch)
    clock.count("probe", 120.0)
    with trainings.of(tmp_path / "run" / "stages" / "student"):
        steps = steps_of(paced(clock, trainings, tmp_path, Share(0.5, 0.0)), watch, 1.0)
        assert clock.spent() == pytest.approx(300.0 - 2 * AFTER_S, abs=1.5)
    assert steps == pytest.approx(128, abs=2)
    (note,) = clock.notes({})
    assert note == (
        f"student was trained for only {steps} steps, to end within 5 minutes (--minutes); "
        "26 s are kept for the exports, the test and the report, which may take less"
    )


def test_what_is_left_is_never_less_than_the_exports_need(tmp_path: Path, watch: Time) -> None:
    clock, _ = begun(tmp_path / "run", watch)
    clock.count("probe", 100.0)
    assert clock.left() == 200.0
    clock.count("student", 400.0)
    assert clock.left() == AFTER_S
    clock.ending()
    watch.now += 10.0
    assert clock.left() == AFTER_S - 10.0


def test_exports_keep_no_more_than_their_share_however_slow_the_machine(
    tmp_path: Path, watch: Time
) -> None:
    clock, trainings = begun(tmp_path / "run", watch)
    with trainings.of(tmp_path / "run" / "stages" / "student"):
        steps_of(paced(clock, trainings, tmp_path, Share(0.5, 0.0)), watch, 5.0)
        assert clock.spent() == pytest.approx(300.0 * (1 - AFTER_SHARE), abs=5.5)


def test_a_stage_of_several_shortened_trainings_has_one_line_and_a_note(
    tmp_path: Path, watch: Time
) -> None:
    clock, _ = begun(tmp_path / "run", watch)
    clock._console.events = events = tmp_path / "events.jsonl"
    for number, steps in ((1, 27), (1, 25), (2, 36)):
        clock._keep(f"self-train-5, training {number}", [(9, steps)])
    clock._keep("student, training 1", [(9, 7)])
    assert clock.notes({"student": "7 of 40 steps"}) == [
        "self-train-5 was trained for only 25 and 36 steps, to end within 5 minutes (--minutes); "
        "26 s are kept for the exports, the test and the report, which may take less",
        "7 of 40 steps",
    ]
    assert clock.made("student, training 1") == 7
    assert clock.made("student, training 2") is None
    said = [json.loads(line)["text"] for line in events.read_text().splitlines()]
    assert [text.partition(",")[0] for text in said] == [
        "self-train-5: fewer steps than planned",
        "student: fewer steps than planned",
    ]


def test_a_machine_as_planned_shortens_nothing(tmp_path: Path, watch: Time) -> None:
    clock, trainings = begun(tmp_path / "run", watch)
    clock.count("probe", 120.0)
    with trainings.of(tmp_path / "run" / "stages" / "student"):
        assert steps_of(paced(clock, trainings, tmp_path, Share(0.5, 0.0)), watch, 0.5) == 200
    assert clock.notes({"student": "told"}) == []


def test_a_training_leaves_those_after_it_their_share(tmp_path: Path, watch: Time) -> None:
    """Of 260 s for what was planned as 200 s and 200 s, half is this one's."""
    clock, trainings = begun(tmp_path / "run", watch)
    with trainings.of(tmp_path / "run" / "stages" / "self-train-1"):
        steps = steps_of(paced(clock, trainings, tmp_path, Share(1.0, 200.0)), watch, 2.0)
    assert 2.0 * steps == pytest.approx((300 - 2 * AFTER_S) / 2, rel=0.05)


def test_a_killed_run_makes_the_same_steps(tmp_path: Path, watch: Time) -> None:
    found = []
    for seconds in (1.0, 0.1, 0.9):  # it goes on where the machine is as fast or faster
        clock, trainings = begun(tmp_path / "run", watch)
        clock.count("probe", 120.0)
        with trainings.of(tmp_path / "run" / "stages" / "student"):
            pace = paced(clock, trainings, tmp_path, Share(0.5, 0.0))
            found.append(steps_of(pace, watch, seconds))
    assert found[0] < 200
    assert found == [found[0]] * 3


def test_arms_without_a_share_and_runs_without_a_limit_make_all_steps(
    tmp_path: Path, watch: Time
) -> None:
    clock, trainings = begun(tmp_path / "run", watch, budget=float("inf"))
    with trainings.of(tmp_path / "run" / "stages" / "student"):
        unlimited = paced(clock, trainings, tmp_path, Share(0.5, 0.0))
        assert steps_of(unlimited, watch, 100.0) == 200
    clock, trainings = begun(tmp_path / "run", watch)
    with trainings.of(tmp_path / "run" / "stages" / "student-alone"):
        alone = clock.pace(trainings.next(), 200, None)
        assert steps_of(alone, watch, 100.0) == 200


def test_a_stage_that_would_get_too_little_is_late(tmp_path: Path, watch: Time) -> None:
    clock, _ = begun(tmp_path / "run", watch)
    needed = clocks.LEAST * (TRAINED.seconds + STUDENT.seconds)
    clock.count("probe", 300.0 - AFTER_S - needed - 1)
    assert not clock.late(PLAN, TRAINED)
    clock.count("transfer", 2.0)
    assert clock.late(PLAN, TRAINED)
    assert not clock.late(PLAN, FROZEN)
    clock.count("self-train-1", AFTER_S + needed)
    assert clock.late(PLAN, FROZEN)


def test_later_stages_are_those_after_it_in_the_plan() -> None:
    assert later_seconds(PLAN, TRAINED) == 100.0
    assert later_seconds(PLAN, STUDENT) == 0.0
    assert later_seconds(PLAN, PLAN.rounds[0]) == 160.0
    assert later_seconds(PLAN, Work("trained", seconds=5.0)) == 0.0  # an arm of the ladder


def test_trainings_of_a_stage_share_its_seconds_by_their_steps() -> None:
    first, second = shares(TRAINED, [100, 50], later=100.0)
    assert (first.step, second.step) == (0.4, 0.4)
    assert (first.after, second.after) == (120.0, 100.0)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(300, "5 minutes"), (60, "1 minute"), (334.08, "about 5.6 minutes"), (90, "1.5 minutes"),
     (58, "about 1 minute")],
)  # fmt: skip
def test_minutes_are_said_as_a_person_says_them(seconds: float, said: str) -> None:
    assert in_minutes(seconds) == said


def test_the_bar_foresees_what_is_planned() -> None:
    parts = foreseen(PLAN, "run", 100)
    assert [*parts] == ["probe", "transfer", "rounds", "student", "report"]
    assert parts["probe"] == Part(amount=100 * PLAN.views, unit="view")
    assert parts["rounds"].seconds == TRAINED.seconds
    assert parts["rounds"].amount == round(1.5 * TRAINED.steps)
    assert parts["student"] == Part(STUDENT.seconds, amount=STUDENT.steps)
    assert parts["report"] == Part(AFTER_S, amount=10, unit="tenth")
    assert [*foreseen(PLAN, "distill", 100)] == ["student", "report"]
    assert [*foreseen(PLAN, "transfer", 100)] == ["probe", "transfer", "report"]
    assert [*foreseen(PLAN, "self-train", 100)] == ["probe", "transfer", "rounds", "report"]
