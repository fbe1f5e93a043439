import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings

from tutelage.models.classifier import EMA
from tutelage.system.process import Terminated, handled
from tutelage.training.checkpoint import KEPT, Checkpoint, Checkpoints, Trainings
from tutelage.training.loop import Training, make_optimizer, train
from tutelage.training.pace import Pace


def several_of(said: list[str] | None = None, every: float = 0.0) -> Trainings:
    return Trainings(every, (said if said is not None else []).append)


def only(folder: Path, said: list[str] | None = None, every: float = 0.0) -> Checkpoints:
    """The checkpoints of a training in ``folder``."""
    return Checkpoints(folder, several_of(said, every))


@pytest.mark.parametrize("kind", trainings.KINDS)
@pytest.mark.parametrize("after", [1, 4])
def test_a_resumed_training_ends_bitwise_as_an_undisturbed_one(
    kind: str, after: int, tmp_path: Path
) -> None:
    weights, history = trainings.trained(kind)
    resumed = trainings.cut_off(kind, tmp_path, after)
    torch.manual_seed(99)  # the generator's state is the checkpoint's
    found, told = trainings.continued(kind, resumed)
    assert told == history
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    weights, history = trainings.trained("softmatch", checkpoints=only(tmp_path))
    resumed = only(tmp_path).newest()
    assert resumed is not None
    assert resumed.step == trainings.STEPS
    found, told = trainings.continued("softmatch", resumed)
    assert told == history
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_moments_are_laid_out_as_the_optimiser_does_it(tmp_path: Path) -> None:
    trainings.trained("supervised", checkpoints=only(tmp_path))
    resumed = only(tmp_path).newest()
    assert resumed is not None
    model, _, step, config = trainings.start("supervised")
    model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, config, torch.device("cpu"))
    ema = EMA(model, 0.9)
    Training(model, ema, optimizer, step, Pace(config.steps)).restore(resumed)
    convolution = model.trunk[0].weight
    assert optimizer.state[convolution]["exp_avg"].stride() == convolution.stride()


def test_sigterm_saves_the_step_and_ends(tmp_path: Path) -> None:
    weights, _ = trainings.trained("freematch")
    model, loader, step, config = trainings.start("freematch")

    def batches() -> Any:
        for number, batch in enumerate(loader, start=1):
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    torch.manual_seed(5)
    with handled(), pytest.raises(Terminated):
        train(
            model,
            batches(),
            step,
            config,
            device=torch.device("cpu"),
            checkpoints=only(tmp_path, every=1e9),
        )
    resumed = only(tmp_path).newest()
    assert resumed is not None
    assert resumed.step == 3
    found, _ = trainings.continued("freematch", resumed)
    assert all(torch.equal(found[name], value) for name, value in weights.items())


# --- files


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, {"a": torch.full((3,), float(step))}, {"note": step})


def test_the_newest_is_read_back_and_old_ones_go(tmp_path: Path) -> None:
    checkpoints = only(tmp_path)
    assert checkpoints.newest() is None
    for step in (9, 10, 11, 100):
        save(checkpoints, step)
    assert len(list(tmp_path.iterdir())) == KEPT
    found = checkpoints.newest()
    assert isinstance(found, Checkpoint)
    assert found.step == 100
    assert torch.equal(found.tensors["a"], torch.full((3,), 100.0))
    assert found.facts["note"] == 100


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [_flip, lambda content: content[:-5], lambda content: b"", lambda content: b"x" * 40]
)
def test_a_damaged_one_is_named_and_the_one_before_is_used(damage: Any, tmp_path: Path) -> None:
    said: list[str] = []
    checkpoints = only(tmp_path, said)
    for step in (1, 2):
        save(checkpoints, step)
    newest = max(tmp_path.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1
    (line,) = said
    assert str(newest) in line
    assert "damaged" in line


def test_if_all_are_damaged_the_training_begins_anew(tmp_path: Path) -> None:
    said: list[str] = []
    checkpoints = only(tmp_path, said)
    for step in (1, 2):
        save(checkpoints, step)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    assert checkpoints.newest() is None
    assert len(said) == 2


def test_one_is_due_when_the_time_is_over(tmp_path: Path) -> None:
    assert only(tmp_path, every=0.0).due()
    assert not only(tmp_path, every=60.0).due()
    soon = only(tmp_path, every=0.2)
    save(soon, 1)
    assert not soon.due()
    time.sleep(0.25)
    assert soon.due()


# --- those of a stage


def test_severalof_a_stage_have_folders_in_their_order_and_go_with_it(tmp_path: Path) -> None:
    stage = tmp_path / "stages" / "transfer"
    several = several_of()
    assert several.next() is None  # no stage is at work
    with suppress(trainings.Cut), several.of(stage):
        for step in (1, 2):
            one = several.next()
            assert one is not None
            save(one, step)
        raise trainings.Cut
    again = several_of()
    with again.of(stage):
        for step in (1, 2):
            one = again.next()
            assert one is not None
            found = one.newest()
            assert found is not None
            assert found.step == step
        assert again.next() is not None
    again.forget(stage)
    assert not list(stage.parent.iterdir())


def test_the_seconds_before_a_death_are_counted(tmp_path: Path) -> None:
    stage = tmp_path / "transfer"
    before = several_of()
    with suppress(trainings.Cut), before.of(stage) as seconds:
        before._began -= 1000  # as if so many had passed
        save(before.next(), 1)
        assert seconds() >= 1000
        raise trainings.Cut
    after = several_of()
    with after.of(stage) as seconds:
        assert seconds() < 10
        after.next().newest()
        assert 1000 <= seconds() < 1010
