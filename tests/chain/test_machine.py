import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tutelage.chain import machine
from tutelage.chain.machine import (
    Speed,
    augmented_by,
    choose_device,
    configure,
    current_speed,
    keep_freed_memory,
    measure_speed,
)
from tutelage.models.classifier import members_of
from tutelage.models.zoo import create, join
from tutelage.system.errors import TutelageError


@pytest.mark.parametrize(
    ("name", "available", "expected"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_device(name: str, available: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device(name).type == expected


def test_cuda_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TutelageError, match="no CUDA device here; use --device cpu"):
        choose_device("cuda")


def test_a_run_on_a_gpu_says_what_augmented_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    assert augmented_by(torch.device("cpu")) == ([], [])
    monkeypatch.setattr(machine.trial, "fault", lambda device: None)
    (fact,), notes = augmented_by(torch.device("cuda"))
    assert "by the Triton kernels" in fact
    assert not notes
    monkeypatch.setattr(machine.trial, "fault", lambda device: "plain torch augments, because")
    assert augmented_by(torch.device("cuda")) == ([], ["plain torch augments, because"])


def test_speed_is_measured_once_per_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def measured(model: Any, device: torch.device, size: int) -> Speed:
        calls.append(model)
        return Speed(device.type, float(len(calls)), 2.0, 128, 128)

    monkeypatch.setattr(machine, "_measure", measured)
    model = tiny.classifier()
    first = measure_speed(model, tiny.CPU, tmp_path / "cache")
    assert measure_speed(model, tiny.CPU, tmp_path / "cache") == first
    assert len(calls) == 1
    (key,) = json.loads((tmp_path / "cache" / "speed.json").read_text())
    assert key.startswith("tiny|")
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert measure_speed(model, tiny.CPU, tmp_path / "cache").forward == 2.0


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_broken_memory_is_measured_again(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = Speed("cpu", 1.0, 2.0, 128, 128)
    monkeypatch.setattr(machine, "_measure", lambda *_: speed)
    (tmp_path / "speed.json").write_text(text)
    assert measure_speed(tiny.classifier(), tiny.CPU, tmp_path) == speed


def test_a_cut_network_is_measured_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = [Speed("cpu", float(n), 2.0 * n, 128, 128) for n in range(1, 4)]
    whole = tiny.classifier()
    cut, skipped = copy.deepcopy(whole), copy.deepcopy(whole)
    cut.spec = dataclasses.replace(whole.spec, cut=2)
    skipped.spec = dataclasses.replace(cut.spec, skipped=("blocks.1.1",))
    measured = iter(speeds)
    monkeypatch.setattr(machine, "_measure", lambda *_: next(measured))
    for _ in range(2):  # the second time from memory
        found = [measure_speed(model, tiny.CPU, tmp_path) for model in (whole, cut, skipped)]
        assert found == speeds


def test_of_several_trunks_all_look_and_the_first_is_trained(tmp_path: Path) -> None:
    names, modes = ("test_efficientnet", "test_resnet"), []
    models = [create(name, ["a"], canvas=32, input_size=32, weights="none") for name in names]
    joint = join(models)
    for member in members_of(joint):
        name = member.spec.architecture
        member.trunk.register_forward_hook(
            lambda m, *_, name=name: modes.append((name, m.training))
        )
    measure_speed(joint, tiny.CPU, tmp_path)
    assert set(modes) == {(names[0], True), (names[0], False), (names[1], False)}
    (key,) = json.loads((tmp_path / "speed.json").read_text())
    assert key.startswith("test_efficientnet + test_resnet|")


def test_measuring_changes_no_weight_and_no_mode(tmp_path: Path) -> None:
    model = tiny.classifier()
    model.freeze_trunk()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    speed = measure_speed(model, tiny.CPU, tmp_path)
    assert 0 < speed.forward < speed.train * 3
    assert model.training
    assert not any(p.requires_grad for p in model.trunk.parameters())
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_memory_setting_works_or_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_freed_memory()
    configure(torch.device("cpu"))
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine.ctypes, "CDLL", None)
    keep_freed_memory()


@pytest.mark.parametrize(
    ("busyness", "factor"), [(1.0, 1.0), (0.9, 1.0), (1.19, 1.0), (1.3, 1.25), (2.1, 1.25**3)]
)
def test_a_busy_machine_is_planned_for_as_a_slower_one(
    busyness: float, factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = Speed("cpu", 1.0, 2.0, 128, 128)
    monkeypatch.setattr(machine, "_measure", lambda *_: speed)
    monkeypatch.setattr(machine, "_busyness", lambda *_: busyness)
    found = current_speed(tiny.classifier(), tiny.CPU, tmp_path)
    figures = (found.forward, found.train, found.busy)
    assert figures == pytest.approx((factor, 2.0 * factor, factor))
    assert measure_speed(tiny.classifier(), tiny.CPU, tmp_path) == speed  # what is remembered stays


def test_what_was_measured_on_a_busy_machine_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([Speed("cpu", 3.0, 9.0, 128, 128), Speed("cpu", 1.0, 3.0, 128, 128)])
    monkeypatch.setattr(machine, "_measure", lambda *_: next(measured))
    monkeypatch.setattr(machine, "_busyness", lambda model, device, speed: 1.0 / speed.forward)
    for _ in range(2):
        assert current_speed(tiny.classifier(), tiny.CPU, tmp_path).forward == 1.0


def test_a_machine_is_as_busy_as_its_forwards_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call warms up; of the others the middle one counts."""
    times = iter([900.0, 96.0, 64.0, 320.0])
    now = iter([0.0, 0.1, 0.2, 0.3, 5.0])
    monkeypatch.setattr(machine, "_timed", lambda *_: next(times))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(now))
    speed = Speed("cpu", 1.5, 2.0, 32, 32)
    assert machine._busyness(tiny.classifier(), tiny.CPU, speed) == pytest.approx(96 / (32 * 1.5))
