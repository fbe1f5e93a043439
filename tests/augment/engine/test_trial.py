"""Triton's kernels are used on a GPU only after they made the same views as plain torch."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tutelage.augment import apply
from tutelage.augment.engine import reference, trial
from tutelage.augment.extend import NAMES
from tutelage.augment.plan import COLOR_OPS

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ON_A_GPU: Any = types.SimpleNamespace(device=GPU, dtype=torch.uint8, shape=(2, 8, 8, 3))
"""As much of a batch on a GPU as the choice of a backend looks at."""


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Puts kernels in place of Triton's, which need not be installed."""
    trial.fault.cache_clear()

    def plant(render: Any) -> None:
        name = "tutelage.augment.engine.cuda"
        kernels = None if render is None else types.SimpleNamespace(render=render)
        monkeypatch.setitem(sys.modules, name, kernels)
        monkeypatch.setattr("tutelage.augment.engine.cuda", kernels, raising=False)

    yield plant
    trial.fault.cache_clear()


def darker(*arguments: Any) -> Tensor:
    """A kernel that is wrong in one pixel."""
    views = reference.render(*arguments)
    views[3, 0, 5, 5] += 40
    return views


def failing(*arguments: Any) -> Tensor:
    raise RuntimeError("ptxas fatal:\n  no such architecture")


def test_kernels_that_agree_are_used_without_a_word(planted: Any) -> None:
    planted(reference.render)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trial.fault(CPU) is None


@pytest.mark.parametrize(
    ("render", "words"),
    [
        (darker, "views of 16 images differ by up to 40 grey levels"),
        (failing, r"do not run here \(RuntimeError: ptxas fatal: no such architecture\)"),
        (lambda *a: reference.render(*a) * float("nan"), "differ by up to nan"),
    ],
)
def test_kernels_that_fail_or_differ_are_warned_of_once(
    planted: Any, render: Any, words: str
) -> None:
    planted(render)
    with pytest.warns(RuntimeWarning, match=words) as said:
        found = [trial.fault(CPU) for _ in range(2)]
    assert all(found)
    assert len(said) == 1


def test_without_triton_plain_torch_augments(planted: Any) -> None:
    planted(None)
    with pytest.warns(RuntimeWarning, match="plain torch augments"):
        assert trial.fault(CPU)


def test_a_gpu_gets_the_kernels_unless_they_have_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[apply.__module__]
    monkeypatch.setattr(trial, "fault", lambda device: None)
    assert module._pick_backend("auto", ON_A_GPU, torch.float32) == "cuda"
    monkeypatch.setattr(trial, "fault", lambda device: "they differ")
    assert module._pick_backend("auto", ON_A_GPU, torch.float32) == "reference"


def test_the_trial_needs_every_operation() -> None:
    images, plan = trial.images_and_plan()
    assert len(images) == len(plan) == 16
    assert set(plan.ops.flatten().tolist()) == set(range(len(COLOR_OPS)))
    assert set(trial._AMOUNTS) == set(NAMES)
    slanted = plan.matrix[:, 0, 1] != 0
    assert slanted.any()
    assert not slanted.all()
