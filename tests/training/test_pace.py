"""A training that is too slow makes fewer steps, and the same ones when it is cut off."""

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch

from tutelage.config import TrainConfig
from tutelage.steps.supervised import supervised_step
from tutelage.training.loop import learning_rate_factor, train
from tutelage.training.pace import FIRST_CHECK, Pace


class Machine:
    """Takes ``seconds`` for each step, which may change meanwhile."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds, self.now = seconds, 0.0

    def until(self, deadline: float) -> Callable[[float, float], float]:
        """What a training may take that must end at the deadline."""
        return lambda seconds, left: deadline - self.now

    def run(self, pace: Pace, done: int = 0, stop: int = 10**6) -> list[int]:
        """The numbers of the steps that are made after ``done`` others, up to ``stop``."""
        made, step = [], done
        pace.resume(done)
        while step < min(pace.steps, stop):
            step += 1
            self.now += self.seconds
            made.append(step)
            pace.after(step)
        return made


def paced(machine: Machine, deadline: float, decided: list[tuple[int, int]]) -> Pace:
    def keep(known: list[tuple[int, int]]) -> None:
        decided[:] = known

    return Pace(100, machine.until(deadline), decided=decided, keep=keep, clock=lambda: machine.now)


def test_a_slow_machine_ends_in_time() -> None:
    machine, decided = Machine(4.0), []
    machine.run(paced(machine, 200.0, decided))
    assert machine.now == pytest.approx(200.0, abs=4.0)
    assert decided == [(FIRST_CHECK, 50)]


def test_a_job_that_begins_later_is_noticed() -> None:
    machine, decided = Machine(1.0), []
    pace = paced(machine, 120.0, decided)
    made = machine.run(pace, stop=40)
    assert not decided
    machine.seconds = 3.0
    made += machine.run(pace, done=40)
    assert 115.0 <= machine.now <= 123.0
    assert made == list(range(1, pace.steps + 1))


def test_one_long_step_says_nothing_of_the_others() -> None:
    """Such as the first one with a kernel that is compiled, or one beside a checkpoint."""
    machine, decided = Machine(), []
    pace = paced(machine, 130.0, decided)
    made = machine.run(pace, stop=4)
    machine.now += 20.0
    made += machine.run(pace, done=4)
    assert made == list(range(1, 101))
    assert not decided


def test_without_any_time_left_one_more_step_is_made() -> None:
    machine, decided = Machine(), []
    assert machine.run(paced(machine, -5.0, decided)) == list(range(1, FIRST_CHECK + 2))


@pytest.mark.parametrize("cut", [3, FIRST_CHECK, 30, 49])
@pytest.mark.parametrize("seconds", [0.1, 4.0, 40.0])
def test_what_was_decided_once_holds_on_any_machine(cut: int, seconds: float) -> None:
    """A process that is killed after it decided, and goes on from an earlier or a later step."""
    machine, decided = Machine(4.0), []
    pace = paced(machine, 200.0, decided)
    machine.run(pace)
    again = paced(Machine(seconds), 200.0, list(decided))
    made = Machine(seconds).run(again, done=cut)
    assert made == list(range(cut + 1, 51))
    assert again.planned_step(50) == pace.planned_step(50)


def test_a_training_that_goes_on_measures_anew() -> None:
    """Its first steps warm up, and what earlier processes took says nothing about this one."""
    machine, decided = Machine(4.0), []
    machine.now = 1000.0
    pace = paced(machine, 1100.0, decided)
    made = machine.run(pace, done=80)
    assert not decided
    assert made == list(range(81, 101))


def test_without_a_limit_nothing_is_measured() -> None:
    def broken() -> float:
        raise AssertionError("the clock was read")

    pace = Pace(1000, clock=broken)
    for step in range(1, 1001):
        assert pace.planned_step(step) == step
        pace.after(step)
    assert pace.steps == 1000


# --- known silent bugs


def test_a_shortened_training_has_the_whole_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: Any, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    config = TrainConfig(40, lr_head=1e-3, lr_trunk=1e-3)
    pace = Pace(40, decided=[(10, 16)])  # of the 30 steps that were left, every fifth
    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(tiny.classifier(), tiny.batches(40), supervised_step, config, device=tiny.CPU, pace=pace)
    assert len(rates) == 16
    expected = [1e-3 * learning_rate_factor(at - 1, 40, 4) for at in (9, 10, 15, 20, 40)]
    assert [rates[at - 1] for at in (9, 10, 11, 12, 16)] == pytest.approx(expected)
