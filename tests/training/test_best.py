"""When a model is looked at, what is kept of it, and when its training is in vain."""

import copy
from pathlib import Path

import pytest
import tiny
import torch
import trainings
from torch import Tensor, nn

from tutelage.models.classifier import Classifier
from tutelage.training.best import Best, look_at


def numbered(number: float) -> Classifier:
    model = tiny.classifier()
    torch.nn.init.constant_(model.head.bias, number)
    return model


def number_of(model: Classifier) -> float:
    return float(model.head.bias.detach()[0])


def looked_at(*figures: float, trial: int = 1) -> Best:
    """At a model that is number 0 at its start and then counts on."""
    told = iter(figures)
    best = Best(lambda model: next(told), trial=trial)
    best.begin(numbered(0))
    for number in range(1, len(figures)):
        best.after(2 * number, 8, numbered(number))
    return best


@pytest.mark.parametrize(
    ("steps", "looks"), [(8, [2, 4, 6, 8]), (10, [3, 5, 8, 10]), (2, [1, 2]), (1, [1])]
)
def test_a_look_follows_each_quarter_of_the_steps(steps: int, looks: list[int]) -> None:
    found = []
    for step in range(1, steps + 1):
        best = Best(lambda model: 1.0)
        best.after(step, steps, numbered(0))
        found += [step] * len(best.measured)
    assert found == looks
    assert look_at(1, steps) == looks[0]


def test_the_lowest_is_kept_and_of_equals_the_first() -> None:
    best = looked_at(3.0, 2.0, 1.0, 1.0, 4.0)
    assert best.measured == [3.0, 2.0, 1.0, 1.0, 4.0]
    model = numbered(9)
    assert best.restore(model) is model
    assert number_of(model) == 2


@pytest.mark.parametrize(
    ("figures", "trial", "in_vain"),
    [
        ((1.0,), 1, False),
        ((1.0, 2.0), 1, True),
        ((1.0, 1.0), 1, False),
        ((1.0, 0.5, 2.0), 1, False),  # it stood the trial
        ((1.0, 2.0), 2, False),
        ((1.0, 2.0, 1.5), 2, True),
        ((1.0, 0.5, 1.5), 2, False),
        ((1.0, 2.0, 0.5), 2, False),
        ((1.0, 2.0, 0.5, 2.0), 2, False),
    ],
)
def test_a_training_that_only_makes_the_model_worse_is_in_vain(
    figures: tuple[float, ...], trial: int, in_vain: bool
) -> None:
    assert looked_at(*figures, trial=trial).in_vain == in_vain


# --- known silent bugs


def scripted(*figures: float) -> tuple[Best, list[dict[str, Tensor]]]:
    """What measures these figures at its looks, and the states that it was shown."""
    shown: list[dict[str, Tensor]] = []

    def measure(model: nn.Module) -> float:
        shown.append(copy.deepcopy(model.state_dict()))
        return figures[len(best.measured)]

    best = Best(measure)
    return best, shown


def test_the_best_state_is_delivered() -> None:
    best, shown = scripted(4.0, 3.0, 1.0, 2.0, 5.0)
    found, _ = trainings.trained("supervised", best=best)
    assert len(shown) == 5
    assert all(torch.equal(found[name], value) for name, value in shown[2].items())
    best, shown = scripted(1.0, 1.0, 2.0, 2.0, 1.0)  # no better than the start, which stays
    found, _ = trainings.trained("supervised", best=best)
    assert all(torch.equal(found[name], value) for name, value in shown[0].items())


def test_a_training_in_vain_ends() -> None:
    best, shown = scripted(1.0, 2.0, 0.0, 0.0, 0.0)
    found, history = trainings.trained("supervised", best=best)
    assert len(shown) == 2
    assert history[-1]["step"] == 2
    assert all(torch.equal(found[name], value) for name, value in shown[0].items())


def test_a_training_goes_on_with_its_best_state(tmp_path: Path) -> None:
    figures = (4.0, 1.0, 3.0, 2.0, 5.0)
    expected, _ = trainings.trained("supervised", best=scripted(*figures)[0])
    for after in (1, 2, 4, 6):
        folder = tmp_path / str(after)
        resumed = trainings.cut_off("supervised", folder, after, best=scripted(*figures)[0])
        best, _ = scripted(*figures)
        found, _ = trainings.continued("supervised", resumed, best=best)
        assert best.measured == list(figures)
        assert all(torch.equal(found[name], value) for name, value in expected.items()), after
