"""The CUDA kernels against the reference: in Triton's interpreter, and on a GPU where there is one.

Triton decides when it is imported whether it interprets, so the interpreter gets a process of its
own: this file, run as a program, which prints the largest difference of each case.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from tutelage.augment import (
    Plan,
    Policy,
    RandAugment,
    Strong,
    TrivialAugment,
    Weak,
    apply,
)
from tutelage.augment.engine import trial
from tutelage.augment.extend import then
from tutelage.augment.plan import COLOR_OPS
from tutelage.system.errors import TutelageError

AMOUNTS = {
    "brightness": 1.4,
    "gamma": 0.6,
    "invert": 0.0,
    "posterize": 3.0,
    "solarize": 100.0,
    "contrast": 1.7,
    "autocontrast": 0.0,
    "equalize": 0.0,
    "saturation": 1.8,
    "sharpness": 1.9,
    "blur": 0.7,
}
LEVEL = 0.01  # of 255: what the last bits of a float come to in a steep table after a stencil

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
compiles = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="this session interprets"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@dataclass(frozen=True)
class Case:
    """What is compared: a plan for ``batch`` canvases, and how it is applied."""

    plan: Callable[[Tensor], Plan]
    canvas: tuple[int, int, int] = (33, 38, 3)
    size: tuple[int, int] = (24, 30)
    batch: int = 2
    options: dict[str, Any] = field(default_factory=dict)


def drawn(policy: Policy, seed: int = 0) -> Callable[[Tensor], Plan]:
    def plan(images: Tensor) -> Plan:
        aspect = torch.linspace(0.8, 1.3, len(images))
        return policy.plan(aspect, Generator().manual_seed(seed), 30 / 24)

    return plan


def chain(*names: str, policy: Policy | None = None) -> Callable[[Tensor], Plan]:
    """The operations one after the other, after a crop."""

    def plan(images: Tensor) -> Plan:
        result = drawn(policy or Weak(scale=(0.3, 1.0)))(images)
        for name in names:
            result = then(result, name, AMOUNTS[name])
        return result

    return plan


def turned(images: Tensor) -> Plan:
    """Rotations that look far beyond the canvas."""
    plan = drawn(Weak(scale=(0.5, 1.0), pad=0.4))(images)
    return then(then(plan, "rotate", torch.linspace(-50, 130, len(images))), "scale", 0.6)


def still(images: Tensor) -> Plan:
    return Plan.identity(len(images))


def moved(images: Tensor) -> Plan:
    """Upright, partly beyond the canvas; the last by whole pixels."""
    plan = then(drawn(Weak(scale=(0.5, 1.0), pad=0.5))(images), "sharpness", 1.9)
    plan.matrix[-1].copy_(torch.tensor([[1.0, 0.0, 0.5], [0.0, -1.0, -0.5]]))
    plan.fill.copy_(torch.tensor([10.0, 80.0, 200.0]))
    return plan


CASES: dict[str, Case] = {
    **{name: Case(chain(name)) for name in AMOUNTS},
    **{
        f"{first}, {second}": Case(chain(first, second))
        for first, second in (
            ("equalize", "contrast"), ("posterize", "equalize"), ("saturation", "equalize"),
            ("saturation", "autocontrast"), ("sharpness", "equalize"), ("blur", "posterize"),
            ("gamma", "posterize"), ("invert", "autocontrast"),
        )
    },
    "all stages": Case(chain("gamma", "saturation", "contrast", "sharpness", "equalize")),
    "weak": Case(drawn(Weak())),
    "randaugment": Case(drawn(RandAugment(view=Weak())), batch=3),
    "strong": Case(drawn(Strong(erase=0.8)), batch=5),
    "trivialaugment": Case(drawn(TrivialAugment(view=Weak())), batch=4),
    "minified": Case(drawn(Weak()), canvas=(40, 50, 3), size=(12, 15)),
    "minified, sharpened": Case(chain("sharpness"), canvas=(37, 45, 3), size=(12, 15)),
    "minified, turned": Case(turned, canvas=(40, 47, 3), size=(12, 15)),
    "halved, turned": Case(
        lambda images: then(still(images), "rotate", 30.0), canvas=(24, 30, 3), size=(12, 15)
    ),
    "magnified": Case(drawn(Weak(scale=(0.05, 0.1))), size=(30, 33)),
    "moved": Case(moved),
    "whole, sharpened, counted": Case(
        lambda images: then(then(still(images), "sharpness", 1.9), "contrast", 1.7),
        canvas=(8, 9, 3),
    ),
    "turned": Case(turned),
    **{
        str(dtype)[6:]: Case(drawn(RandAugment(view=Weak())), options={"dtype": dtype})
        for dtype in (torch.uint8, torch.float16, torch.bfloat16)
    },
    "normalised": Case(
        drawn(Weak()), options={"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.5, 1.0)}
    ),
    "tiny": Case(chain("sharpness", "equalize"), canvas=(3, 2, 3), size=(2, 1)),
    "several programs": Case(chain("blur"), size=(45, 50), batch=1),
    "empty batch": Case(drawn(Weak()), batch=0),
}  # fmt: skip


def noise(batch: int, height: int, width: int, channels: int) -> Tensor:
    """Canvases with much and with little contrast."""
    generator = Generator().manual_seed(batch)
    shape = (batch, height, width, channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    images[1::2] = images[1::2] // 3 + 60
    return images


def worst(case: Case, device: str = "cpu", batch: int | None = None) -> float:
    """The largest difference between the kernels and the reference, in grey levels."""
    images = noise(case.batch if batch is None else batch, *case.canvas)
    plan = case.plan(images)
    plain = {**case.options, "dtype": torch.float32}
    expected = apply(images, plan, case.size, backend="reference", **plain).double() * 255
    views = apply(
        images.to(device), plan.to(device), case.size, backend="cuda", **case.options
    ).cpu()
    assert views.dtype == case.options.get("dtype", torch.float32)
    assert views.shape == expected.shape
    if not len(images):
        return 0.0
    if views.dtype == torch.uint8:
        return float((views - expected).abs().max() - 0.5)
    error = (views.double() * 255 - expected).abs()
    if views.dtype != torch.float32:  # the interpreter cuts bfloat16 off instead of rounding it
        error -= expected.abs() * torch.finfo(views.dtype).eps
    return float(error.max())


@pytest.fixture(scope="module")
def interpreted(request: pytest.FixtureRequest) -> dict[str, Any]:
    """In the interpreter: the differences of the cases that are tested, what the trial finds."""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    tests = [test for test in request.session.items if "interpreted" in test.fixturenames]
    names = [t.callspec.params["name"] if hasattr(t, "callspec") else "trial" for t in tests]
    command = [sys.executable, __file__, *names]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    found: dict[str, Any] = json.loads(child.stdout)
    return found


def test_every_colour_operation_has_a_case():
    assert {"identity", *AMOUNTS} == set(COLOR_OPS)


@needs_triton
@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_agree_with_the_reference(name, interpreted):
    assert interpreted[name] < LEVEL


@needs_triton
def test_interpreted_kernels_stand_the_trial(interpreted):
    assert interpreted["trial"] is None


class Driver:
    """As much of a GPU's driver as compiling for it takes."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return -self.capability  # no device has this number, so no device gets what is compiled

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


@needs_triton
@compiles
@pytest.mark.parametrize(
    ("capability", "canvas", "size", "options"),
    [
        (90, (64, 96, 3), (32, 48), {"dtype": torch.bfloat16}),
        (80, (70, 60, 3), (33, 35), {"dtype": torch.uint8}),
        (80, (9, 11, 3), (1, 1), {}),
    ],
)
def test_kernels_compile_without_a_gpu(capability, canvas, size, options, monkeypatch, tmp_path):
    import triton
    from triton.runtime.jit import JITFunction

    from tutelage.augment.engine import cuda

    found, launch = {}, JITFunction.run

    def run(self: Any, *args: Any, **settings: Any) -> None:
        found[self.__name__] = launch(self, *args, **(settings | {"warmup": True})).asm

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(JITFunction, "run", run)
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver(capability))
    monkeypatch.setattr(cuda, "_check_device", lambda images: None)
    images = noise(2, *canvas)
    apply(images, drawn(Weak())(images), size, backend="cuda", **options)
    assert list(found) == ["_compile", "_render"]
    assert all(asm["cubin"] for asm in found.values())
    assert "fma.rn.f32" not in found["_compile"]["ptx"]  # see _STRICT
    assert "convert_layout" not in found["_render"]["ttgir"]  # no exchange between threads


@needs_triton
@compiles
def test_images_on_a_cpu_are_refused():
    images = noise(1, 8, 8, 3)
    with pytest.raises(TutelageError, match=r"on 'cpu'.*TRITON_INTERPRET=1"):
        apply(images, Plan.identity(1), 8, backend="cuda")


@needs_gpu
@pytest.mark.parametrize("name", CASES)
def test_kernels_on_a_gpu_agree_with_the_reference(name):
    assert worst(CASES[name], "cuda", batch=64 if CASES[name].batch else 0) < 1


@needs_gpu
def test_kernels_on_a_gpu_stand_the_trial():
    assert trial.fault(torch.device("cuda")) is None


@needs_gpu
@pytest.mark.parametrize("name", ["weak", "randaugment", "strong", "trivialaugment"])
def test_equal_seeds_give_equal_plans_on_both_devices(name):
    case = CASES[name]
    here, there = (case.plan(noise(32, *case.canvas).to(device)) for device in ("cpu", "cuda"))
    moved = there.to("cuda").tensors()
    for part, tensor in here.tensors().items():
        assert torch.equal(tensor, moved[part].cpu()), part


@needs_gpu
def test_a_gpu_is_the_default_for_its_images_and_waits_for_nothing():
    images = noise(32, 24, 24, 3).cuda()
    plan = CASES["randaugment"].plan(images).to("cuda")
    views = apply(images, plan, 16)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = apply(images, plan, 16)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(views, again)


def main(*names: str) -> None:
    """Print what these cases come to."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    print(json.dumps({n: trial.fault(device) if n == "trial" else worst(CASES[n]) for n in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
