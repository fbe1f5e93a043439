import time
from collections.abc import Callable

import pytest

from tutelage.system.progress import Part, Progress

PLAN = {
    "probe": Part(30.0, amount=100, unit="view"),
    "student": Part(60.0, first=20.0, amount=40),
    "report": Part(30.0, first=30.0),
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def planned(clock: Clock) -> Progress:
    progress = Progress(shown=False, clock=clock)
    progress.expect(PLAN)
    return progress


def steps(progress: Progress, clock: Clock, each: float) -> Callable[[Callable[..., None]], None]:
    def made(done: Callable[..., None]) -> None:
        for step in range(1, 41):
            clock.now += each
            done(step)

    return made


def test_a_run_that_is_over_its_time_has_none_left(clock: Clock) -> None:
    progress = Progress(shown=False, clock=clock)
    progress.expect(PLAN, lambda: 100.0 - clock.now)
    with progress.part("report"):
        clock.now = 112.0
        assert progress.text() == "[3/3] report, 0:00 left"


def test_the_bar_says_which_part_and_how_long_the_rest_takes(
    planned: Progress, clock: Clock
) -> None:
    with planned.part("probe"):
        assert planned.text() == "[1/3] probe, 2:00 left"
        with planned.count("features", 100, "view") as done:
            done(0)
            clock.now = 15.0
            done(50)
            assert planned.text() == "[1/3] probe: features, 1:45 left"
            assert planned.fraction() == pytest.approx(15 / 120)
    clock.now = 30.0
    with planned.part("student"):
        assert planned.text().startswith("[2/3] student, 1:")
        assert planned.fraction() == pytest.approx(30 / 120)


def test_time_before_a_part_counts_moves_it_as_far_as_it_was_planned(
    planned: Progress, clock: Clock
) -> None:
    with planned.part("student"):
        clock.now = 10.0
        assert planned.text() == "[2/3] student, 1:20 left"
        clock.now = 25.0
        with planned.count("student", 40, "step") as done:
            done(1)
            clock.now = 45.0
            done(21)
            # 20 seconds of the planned 60 before the steps, and then 21 of 40 steps
            assert planned.fraction() == pytest.approx((30 + 20 + 40 * 21 / 40) / 120)


@pytest.mark.parametrize(("each", "left"), [(2.0, "0:44 left"), (0.5, "0:24 left")])
def test_the_pace_so_far_counts_for_what_is_left(
    planned: Progress, clock: Clock, each: float, left: str
) -> None:
    with planned.part("student"):
        clock.now = 20.0
        assert "1:10 left" in planned.text()
        with planned.count("student", 40, "step") as done:
            steps(planned, clock, each)(done)
            assert left in planned.text()


def test_steps_that_a_run_made_before_it_was_cut_off_say_nothing_of_the_pace(
    planned: Progress, clock: Clock
) -> None:
    with planned.part("student"):
        clock.now = 20.0
        with planned.count("student", 40, "step") as done:
            done(30)
            assert planned.text() == "[2/3] student, 0:40 left"


def test_a_shortened_training_is_as_far_as_its_steps_are(planned: Progress, clock: Clock) -> None:
    with planned.part("student"), planned.count("student", 40, "step") as done:
        done(1)
        done(10, 20)
        assert planned.fraction() == pytest.approx((30 + 20 + 20) / 120)


def test_rounds_are_one_part_that_is_entered_for_each(clock: Clock) -> None:
    progress = Progress(shown=False, clock=clock)
    progress.expect({"rounds": Part(40.0, amount=40), "report": Part(10.0, first=10.0)})
    for name, share in (("self-train-1", 0.25), ("self-train-2", 0.5)):
        with progress.part("rounds"), progress.part(name):
            with progress.count(f"{name}, 1 of 2", 10, "step") as done:
                done(10)
                assert progress.text().startswith(f"[1/2] rounds: {name}, 1 of 2, ")
            assert progress.fraction() == pytest.approx(share * 40 / 50)


def test_counts_of_another_unit_do_not_say_how_far_a_part_is(planned: Progress) -> None:
    with planned.part("student"), planned.count("features", 100, "view") as done:
        done(100)
        assert planned.fraction() == pytest.approx(30 / 120)


def test_without_seconds_in_the_plan_none_are_invented(clock: Clock) -> None:
    progress = Progress(shown=False, clock=clock)
    progress.expect(dict.fromkeys([f"draw {number}" for number in (1, 2, 3, 4)], Part()))
    with progress.part("draw 3"):
        assert progress.text() == "[3/4] draw 3"
        assert progress.fraction() == 0.5
        with progress.part("probe"):
            assert progress.text() == "[3/4] draw 3: probe"


def test_a_count_without_a_plan_tells_its_own_pace(clock: Clock) -> None:
    progress = Progress(shown=False, clock=clock)
    with progress.count("decoding", 4000, "image") as done:
        assert progress.text() == "decoding, 0 of 4,000 images"
        done(0)
        clock.now = 10.0
        done(1000)
        assert progress.text() == "decoding, 1,000 of 4,000 images, 0:30 left"
        assert progress.fraction() == 0.25


def test_the_time_left_goes_on_while_nothing_is_heard(planned: Progress, clock: Clock) -> None:
    with planned.part("student"), planned.count("student", 40, "step") as done:
        done(0)
        clock.now = 20.0
        done(20)
        assert planned.text() == "[2/3] student, 0:50 left"
        clock.now = 25.0
        assert planned.text() == "[2/3] student, 0:45 left"
        clock.now = 90.0  # it is late by now, and what comes after it takes its time
        assert planned.text() == "[2/3] student, 0:30 left"


def test_no_more_is_left_than_can_be(clock: Clock) -> None:
    progress = Progress(shown=False, clock=clock)
    progress.expect(PLAN, lambda: 100.0 - clock.now)
    with progress.part("probe"):
        assert progress.text() == "[1/3] probe, 1:40 left"
        clock.now = 10.0
        assert progress.text() == "[1/3] probe, 1:30 left"


def test_what_nobody_counts_says_how_long_it_has_taken(clock: Clock) -> None:
    progress = Progress(shown=False, clock=clock)
    clock.now = 5.0
    with progress.part("starting PyTorch"):
        clock.now = 6.0
        assert progress.text() == "starting PyTorch"
        clock.now = 9.0
        assert progress.text() == "starting PyTorch, 0:04 so far"


def test_a_terminal_moves_also_where_the_command_is_silent(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("tutelage.system.progress.TICK_S", 0.01)
    progress = Progress(clock=clock)
    shown = ""
    with progress.part("starting PyTorch"):
        clock.now = 4.0
        until = time.monotonic() + 10.0
        while "0:04 so far" not in shown and time.monotonic() < until:
            time.sleep(0.01)
            shown += capsys.readouterr().err
    assert "starting PyTorch, 0:04 so far" in shown
    capsys.readouterr()
    clock.now = 8.0
    time.sleep(0.05)
    assert capsys.readouterr().err == ""  # it ends with what it shows


def test_hours_are_told_as_hours(clock: Clock) -> None:
    progress = Progress(shown=False, clock=clock)
    progress.expect({"draw 1": Part(3725.0, first=3725.0)})
    with progress.part("draw 1"):
        assert progress.text() == "[1/1] draw 1, 1:02:05 left"


def test_without_a_terminal_a_plain_line_comes_every_half_minute(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress(clock=clock)
    progress.expect(PLAN)
    with progress.part("student"), progress.count("student", 40, "step") as done:
        steps(progress, clock, 2.0)(done)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("[2/3] student, ") and " left" in line for line in lines)


def test_a_terminal_shows_one_bar_that_fits_and_is_gone_in_the_end(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = Progress(clock=clock)
    progress.expect({"a part whose name is long" * 5: Part(60.0, amount=40)})
    name = "a part whose name is long" * 5
    with progress.part(name), progress.count("student", 40, "step") as done:
        steps(progress, clock, 1.0)(done)
    drawn = capsys.readouterr().err.split("\r")
    assert len(drawn) > 40  # it moves with every step
    assert max(map(len, drawn)) <= 79
    assert any("..., 0:00 left|" in frame for frame in drawn)  # the name is cut
    assert not drawn[-2].strip()
    assert drawn[-1] == ""


def test_not_shown_prints_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(shown=False, clock=clock)
    with progress.count("student", 40, "step") as done:
        steps(progress, clock, 10.0)(done)
    assert capsys.readouterr() == ("", "")
