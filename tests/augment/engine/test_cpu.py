"""The CPU kernel: what the reference means, on any number of threads, without copies."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.augment import (
    Plan,
    RandAugment,
    Strong,
    TrivialAugment,
    Weak,
    apply,
    extend,
    then,
)
from tutelage.augment.policy import Policy

pytest.importorskip("numba")

HARD = RandAugment(
    3, 22.0, operations=("sharpness", "blur", "solarize", "posterize", "equalize", "rotate",
                         "gamma", "saturation", "contrast", "invert"), view=Weak()
)  # fmt: skip
POLICIES: list[Policy] = [
    Weak(scale=(0.05, 1.0)),
    Weak(scale=(3.0, 12.0), pad=0.3),  # minifies, and shows much of what lies outside
    RandAugment(view=Weak()),
    Strong(erase=1.0),
    TrivialAugment(view=Weak()),
    HARD,
]


def pictures(kind: str, batch: int, height: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "noise":
        shape = (batch, height, width, 3)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    waves = torch.rand(batch, 3, 7, 7, generator=generator)
    waves = torch.nn.functional.interpolate(waves, size=(height, width), mode="bicubic")
    images = (waves.clamp(0, 1) * 255).to(torch.uint8)
    return images.permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["noise", "smooth"]),
    canvas=st.sampled_from([(48, 48), (40, 61)]),
    size=st.sampled_from([(48, 48), (37, 50), (14, 19)]),
    seed=st.integers(0, 2**31),
)
def test_every_pixel_agrees_with_the_reference(policy, kind, canvas, size, seed):
    images = pictures(kind, 6, *canvas, seed)
    generator = torch.Generator().manual_seed(seed)
    plan = policy.plan(torch.full((6,), canvas[1] / canvas[0]), generator, size[1] / size[0])
    ours, theirs = (apply(images, plan, size, backend=b) for b in ("cpu", "reference"))
    error = (ours - theirs).abs().amax((1, 2, 3)) * 255
    assert error.max() <= 1, str(plan[int(error.argmax())])


@pytest.mark.parametrize("name", extend.NAMES)
@pytest.mark.parametrize("amount", [0.0, 0.3, 1.7, 4.0, 130.0])
def test_each_operation_agrees_at_any_amount(name, amount):
    if name in ("scale", "blur") and amount == 0:
        amount = 0.5
    if name.startswith("shear"):
        amount = min(amount, 4.0)
    images = pictures("noise", 2, 32, 32, 3)
    plan = then(Plan.identity(2), name, amount)
    ours, theirs = (apply(images, plan, 32, backend=b) for b in ("cpu", "reference"))
    assert (ours - theirs).abs().max() * 255 <= 0.51


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("width", [5, 16, 37, 64])
def test_normalised_and_whole_numbers(dtype, width):
    """Widths above and below, and no multiple of, what is written at once."""
    images = pictures("smooth", 3, 40, 40, 0)
    plan = RandAugment(view=Weak()).plan(torch.ones(3), torch.Generator().manual_seed(0))
    numbers = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)} if dtype.is_floating_point else {}
    ours, theirs = (
        apply(images, plan, (9, width), dtype=dtype, backend=backend, **numbers)
        for backend in ("cpu", "reference")
    )
    assert ours.dtype == theirs.dtype == dtype
    assert ours.shape == (3, 3, 9, width)
    step = 1 if dtype == torch.uint8 else 1 / 255 / 0.2
    assert (ours.float() - theirs.float()).abs().max() <= step
    if numbers:
        plain = apply(images, plan, (9, width), backend="cpu")
        mean, std = (torch.tensor(numbers[n])[:, None, None] for n in ("mean", "std"))
        torch.testing.assert_close(ours, (plain - mean) / std, atol=1e-5, rtol=0)


@pytest.fixture
def two_threads(monkeypatch):
    from tutelage.augment.engine import cpu

    cpu._pool.cache_clear()
    monkeypatch.setattr(cpu, "cores", lambda: 2)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)
    cpu._pool.cache_clear()


def test_threads_do_not_change_the_views(two_threads):
    images = pictures("noise", 41, 32, 32, 1)
    plan = Strong().plan(torch.ones(41), torch.Generator().manual_seed(0))
    alone = torch.cat(
        [apply(images[i : i + 1], plan[i], 24, backend="cpu") for i in range(len(images))]
    )
    assert torch.equal(apply(images, plan, 24, backend="cpu"), alone)


@pytest.mark.parametrize("width", [512, 510], ids=["past the caches", "odd width"])
def test_views_that_no_cache_holds_are_the_same(width, two_threads):
    from tutelage.augment.engine.kernel import CACHED

    images = pictures("noise", 12, 64, 64, 1)
    plan = Strong().plan(torch.ones(12), torch.Generator().manual_seed(0))
    alone = torch.cat([apply(images[i : i + 1], plan[i], (512, width)) for i in range(12)])
    assert alone[0].nbytes < CACHED < alone.nbytes
    assert torch.equal(apply(images, plan, (512, width)), alone)


class NeverBegun(Future[None]):
    """What a thread was asked for, when a busy machine does not let it begin."""

    def result(self, timeout: float | None = None) -> None:
        raise AssertionError("a thread without work was waited for")


def test_a_thread_that_has_not_begun_is_not_waited_for(two_threads, monkeypatch):
    from tutelage.augment.engine import cpu

    images = pictures("noise", 9, 24, 24, 1)
    plan = Weak().plan(torch.ones(9), torch.Generator().manual_seed(0))
    expected = apply(images, plan, 16, backend="cpu")
    asked = []
    pool = SimpleNamespace(submit=lambda *work: asked.append(work) or NeverBegun())
    monkeypatch.setattr(cpu, "ThreadPoolExecutor", lambda *_, **__: pool)
    cpu._pool.cache_clear()
    assert torch.equal(apply(images, plan, 16, backend="cpu"), expected)
    assert len(asked) == 1


def test_what_a_thread_raises_is_raised(two_threads, monkeypatch):
    from tutelage.augment.engine import cpu

    def render(*arguments):
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError("in a thread")

    monkeypatch.setattr(cpu, "kernel", SimpleNamespace(render=render))
    with pytest.raises(MemoryError, match="in a thread"):
        apply(pictures("noise", 4, 8, 8, 1), Plan.identity(4), 8, backend="cpu")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
def test_a_process_of_one_core_gets_one_thread(monkeypatch):
    from tutelage.augment.engine import cpu

    renders, allowed = [], os.sched_getaffinity(0)
    render = cpu.kernel.render
    monkeypatch.setattr(cpu.kernel, "render", lambda *a: renders.append(1) or render(*a))
    torch.set_num_threads(4)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        apply(pictures("noise", 8, 24, 24, 1), Plan.identity(8), 16, backend="cpu")
    finally:
        os.sched_setaffinity(0, allowed)
        torch.set_num_threads(1)
    assert renders == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_has_threads_of_its_own(two_threads):
    """As in a DataLoader's workers: the parent's threads are not there."""
    images = pictures("noise", 20, 24, 24, 1)
    plan = Weak().plan(torch.ones(20), torch.Generator().manual_seed(0))
    from tutelage.augment.engine import cpu

    expected = apply(images, plan, 16, backend="cpu")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if torch.equal(apply(images, plan, 16, backend="cpu"), expected) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert cpu._pool.cache_info().currsize >= 1


def test_it_is_what_auto_takes_and_says_what_it_cannot_do(monkeypatch):
    from tutelage.augment.engine import cpu
    from tutelage.system.errors import TutelageError

    images = pictures("smooth", 2, 16, 16, 0)
    calls = []
    render = cpu.render
    monkeypatch.setattr(cpu, "render", lambda *a: calls.append(1) or render(*a))
    apply(images, Plan.identity(2), 16)
    assert calls == [1]
    apply(images.float(), Plan.identity(2), 16)  # the reference
    apply(images[:, :1], Plan.identity(2), 16)
    apply(images[..., :1], Plan.identity(2), 16)
    assert calls == [1]
    with pytest.raises(TutelageError, match=r"backend 'cpu': the images are torch.float32"):
        apply(images.float(), Plan.identity(2), 16, backend="cpu")
    with pytest.raises(TutelageError, match="the plan is for 3 images, there are 2"):
        apply(images, Plan.identity(3), 16)
    with pytest.raises(TutelageError, match="mean has 2 values, the images 3"):
        apply(images, Plan.identity(2), 16, mean=(0.5, 0.5))
    with pytest.raises(TutelageError, match="uint8 views cannot be normalised"):
        apply(images, Plan.identity(2), 16, mean=(0.5,) * 3, dtype=torch.uint8)


@pytest.mark.parametrize("size", [1, 2, (1, 9)])
def test_a_turned_view_whose_pixels_are_larger_than_the_canvas(size):
    images = pictures("noise", 2, 6, 6, 1)
    plan = then(then(Plan.identity(2), "rotate", 30.0), "scale", 0.4)
    ours, theirs = (apply(images, plan, size, backend=b) for b in ("cpu", "reference"))
    assert (ours - theirs).abs().max() * 255 <= 0.51


def test_far_out_of_the_canvas_there_is_only_fill():
    images = pictures("noise", 2, 16, 16, 0)
    plan = then(Plan.identity(2), "translate_x", torch.tensor([3.0, -3.0]))
    plan.matrix[1, 0, 1] = 0.01
    for backend in ("cpu", "reference"):
        views = apply(images, plan, 16, backend=backend)
        assert np.allclose(views.numpy(), 0.5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 100))
def test_extreme_plans_stay_in_memory_and_in_range(data, seed):
    """Compiled code checks no index: whatever a plan says, a view is a picture."""
    images = pictures("noise", 2, 24, 31, seed)
    numbers = st.floats(-1e30, 1e30) | st.floats(-5, 5)
    plan = Plan.identity(2)
    for name in data.draw(st.lists(st.sampled_from(extend.NAMES[8:]), max_size=4)):
        plan = then(plan, name, data.draw(st.floats(-1e4, 1e4)))
    plan.matrix.copy_(
        torch.tensor(data.draw(st.lists(numbers, min_size=12, max_size=12))).view(2, 2, 3)
    )
    plan.window.copy_(torch.tensor(data.draw(st.lists(numbers, min_size=4, max_size=4))))
    plan.erase.copy_(torch.tensor(data.draw(st.lists(numbers, min_size=4, max_size=4))))
    size = data.draw(st.sampled_from([16, (1, 40), (23, 2)]))
    views = apply(images, plan, size, backend="cpu")
    assert views.isfinite().all()
    assert views.min() >= 0
    assert views.max() <= 1


def test_numbers_that_are_not_finite_are_refused():
    from tutelage.system.errors import TutelageError

    images = pictures("noise", 1, 16, 16, 0)
    for name, value in (("matrix", float("nan")), ("amounts", float("inf"))):
        plan = then(Plan.identity(1), "brightness", 1.0)
        getattr(plan, name)[0, 0] = value
        with pytest.raises(TutelageError, match="not finite"):
            apply(images, plan, 16, backend="cpu")
