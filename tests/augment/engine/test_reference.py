"""What a plan means: geometry against Pillow and the truth, fill, erase, order of the parts.

Every test here holds for the reference and for the CPU kernel.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from warps import crop, warp

from tutelage.augment import Center, Plan, Strong, center_view, extend, ops, then
from tutelage.augment import apply as apply_with
from tutelage.augment.engine import reference
from tutelage.augment.engine.colors import compile as compile_tables
from tutelage.augment.engine.colors import convolve, count_levels, lookup
from tutelage.system.errors import TutelageError


@pytest.fixture(params=["reference", "cpu"])
def apply(request):
    if request.param == "cpu":
        pytest.importorskip("numba")
    return partial(apply_with, backend=request.param)


def noise(batch: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, generator=generator)


def smooth(size: int) -> Tensor:
    """A picture that is known everywhere: (1, size, size, 3) of a slow wave."""
    centers = (torch.arange(size) + 0.5) / size
    return wave(centers[None, :], centers[:, None]).round().to(torch.uint8)[None]


def wave(x: Tensor, y: Tensor) -> Tensor:
    both = x + 0 * y, y + 0 * x
    red = 127 + 100 * torch.sin(5 * both[0] + 3 * both[1])
    green = 127 + 100 * torch.cos(4 * both[0] - 2 * both[1])
    return torch.stack([red, green, 255 * both[0] * both[1]], dim=-1)


def with_matrix(*matrices: Tensor) -> Plan:
    plan = Plan.identity(len(matrices))
    for row, matrix in zip(plan.matrix, matrices, strict=True):
        row.copy_(matrix[0, :2])
    return plan


def test_identity_is_exact(apply):
    images = noise(3, 32)
    views = apply(images, Plan.identity(3), 32)
    assert views.shape == (3, 3, 32, 32)
    assert views.dtype == torch.float32
    assert torch.equal((views * 255).round().to(torch.uint8), images.permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", [20, 64, 90])
def test_crop_equals_pillow(apply, size):
    image = noise(1, 64)
    box = (5.5, 10.25, 45.0, 61.0)
    left, top, right, bottom = (value / 64 for value in box)
    plan = with_matrix(crop(left, top, right - left, bottom - top))
    theirs = Image.fromarray(image[0].numpy()).resize(
        (size, size), Image.Resampling.BILINEAR, box=box
    )
    ours = apply(image, plan, size)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - np.asarray(theirs, dtype=np.float32)).max() <= 1.02


@pytest.mark.parametrize("aspect", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("size", [24, 100])
def test_center_plan_is_the_evaluation_view(apply, aspect, size):
    images, aspects = noise(2, 48), torch.tensor([aspect, 1.3])
    ours = apply(images, Center(0.8).plan(aspects), size)
    torch.testing.assert_close(ours, center_view(images, aspects, size, 0.8), atol=1e-5, rtol=0)


def test_affine_and_straight_paths_agree(apply):
    image = smooth(64)
    cropped = crop(0.2, 0.1, 0.5, 0.6)
    nearly = cropped @ warp("rotate", 1e-4)
    straight, slanted = apply(image.repeat(2, 1, 1, 1), with_matrix(cropped, nearly), 48)
    assert (straight - slanted).abs().max() * 255 < 0.2


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_minification_does_not_alias(apply, degrees):
    board = (torch.arange(96)[:, None] + torch.arange(96)[None, :]) % 2 * 255
    images = board.to(torch.uint8)[None, :, :, None].repeat(1, 1, 1, 3)
    plan = with_matrix(warp("rotate", degrees))
    views = apply(images, plan, 24)[:, :, 8:16, 8:16] * 255
    assert (views - 127.5).abs().max() < 12  # a checkerboard seen from afar is grey


def test_fill_is_constant_and_colours_do_not_change_it(apply):
    images = torch.full((1, 32, 32, 3), 200, dtype=torch.uint8)
    plan = then(with_matrix(warp("translate_x", 0.5)), "invert", 1.0)
    plan.fill.copy_(torch.tensor([[10.0, 20.0, 30.0]]))
    views = apply(images, plan, 32)[0] * 255
    expected = torch.tensor([10.0, 20.0, 30.0])[:, None, None].expand(3, 32, 16)
    torch.testing.assert_close(views[:, :, :16], expected)
    torch.testing.assert_close(views[:, :, 16:], torch.full((3, 32, 16), 55.0))


def test_fill_covers_the_fraction_outside(apply):
    images = torch.full((2, 32, 32, 3), 255, dtype=torch.uint8)
    plan = with_matrix(crop(-0.5, -0.5, 2.0, 2.0), warp("rotate", 45.0))
    plan.fill.zero_()
    views = apply(images, plan, 31)  # the canvas ends inside pixels
    assert views[0].mean().item() == pytest.approx(0.25, abs=1e-4)
    # An octagon remains of a square turned by 45 degrees: 2 sqrt(2) - 2 of its area.
    assert views[1].mean().item() == pytest.approx(2 * 2**0.5 - 2, abs=2e-3)


def test_a_view_inside_the_canvas_has_no_rim(apply):
    images = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    for box in ([0.0, 0.0, 1.0, 1.0], [0.0, 0.3, 0.4, 0.7]):
        for size in (16, 32, 50):
            assert apply(images, with_matrix(crop(*box)), size).min() > 1 - 1e-6


def test_erase_box_and_fill(apply):
    images = noise(2, 40)
    plan = Plan.identity(2)
    plan.erase[1] = torch.tensor([0.25, 0.5, 0.75, 1.0])
    views = apply(images, plan, 40) * 255
    plain = apply(images, Plan.identity(2), 40) * 255
    assert torch.equal(views[0], plain[0])
    assert (views[1, :, 20:, 10:30] - 127.5).abs().max() < 1e-3
    views[1, :, 20:, 10:30] = plain[1, :, 20:, 10:30]
    assert torch.equal(views[1], plain[1])


def test_parts_come_in_the_documented_order(apply):
    images = noise(1, 16)
    plan = with_matrix(warp("rotate", 20.0) @ warp("scale", 1.8))
    for name, amount in (("gamma", 0.6), ("saturation", 1.7), ("invert", 1.0), ("sharpness", 1.5),
                         ("solarize", 99.0)):  # fmt: skip
        plan = then(plan, name, amount)
    pixels = (255 * (images.permute(0, 3, 1, 2) / 255) ** 0.6).round()
    mixer, stencil = (
        torch.from_numpy(part(np.array([amount], np.float32)))
        for part, amount in ((extend.saturation, 1.7), (extend.sharpness, 1.5))
    )
    pixels = (mixer @ pixels.flatten(2)).clamp(0, 255).view_as(pixels)
    view = reference.warp(255 - pixels.round(), plan.matrix, (16, 16))
    view = convolve(view, stencil)
    after = ops.solarize(torch.arange(256.0).expand(1, 3, 256), torch.tensor([99.0]))
    # The stencil and the mixer are kept in steps of 1 / 4096; solarize's step multiplies that.
    error = (apply(images, plan, 16) * 255 - lookup(view, after)).abs()
    assert error.median() < 0.05
    assert (error < 2).float().mean() > 0.97


def test_tables_belong_to_their_stage():
    images = noise(1, 16)
    plan = Plan.identity(1)
    steps = (("gamma", 2.0), ("saturation", 0.5), ("invert", 1.0), ("blur", 0.6), ("gamma", 0.5))
    for name, amount in steps:
        plan = then(plan, name, amount)
    tables, levels = compile_tables(plan, images), torch.arange(256.0)
    torch.testing.assert_close(tables.before[0, 1], 255 * (levels / 255) ** 2)
    torch.testing.assert_close(tables.between[0, 1], 255 - levels)
    torch.testing.assert_close(tables.after[0, 1], 255 * (levels / 255) ** 0.5)


@pytest.mark.parametrize("before", [[], [("saturation", 0.3)], [("sharpness", 1.9)]])
@pytest.mark.parametrize("name", ["contrast", "autocontrast", "equalize"])
def test_statistics_see_only_the_window(apply, before, name):
    """Pixels outside of the crop do not count, whatever comes first."""
    images = (noise(1, 32) // 3 + 60).contiguous()
    beside = images.clone()
    beside[:, :, 18:] = 255  # a pixel's distance: a stencil looks at neighbours
    plan = with_matrix(crop(0.0, 0.0, 0.5, 1.0))
    plan.window.copy_(torch.tensor([[0.0, 0.0, 0.5, 1.0]]))
    for step, amount in (*before, (name, 1.6)):
        plan = then(plan, step, amount)
    alone = apply(images, plan, 32)
    assert torch.equal(apply(beside, plan, 32)[..., :28], alone[..., :28])
    plan.window.copy_(torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert not torch.equal(apply(beside, plan, 32)[..., :28], alone[..., :28])


def test_counts_equal_numpy_style_histogram():
    images = noise(3, 16)
    window = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 1.0], [-0.3, 0.0, 0.5, 1.2]])
    counts = count_levels(images, window)
    assert counts.shape == (3, 3, 256)
    parts = [images[0], images[1, 8:, 4:12], images[2, :, :8]]
    for count, part in zip(counts, parts, strict=True):
        for channel in range(3):
            expected = torch.bincount(part[..., channel].flatten(), minlength=256)
            assert torch.equal(count[channel], expected.float())


def test_an_empty_window_changes_nothing(apply):
    images = noise(1, 16)
    for name in ("contrast", "autocontrast", "equalize"):
        plan = then(Plan.identity(1), name, 1.0)
        plan.window.copy_(torch.tensor([[0.5, 0.5, 0.5, 0.5]]))
        views = apply(images, plan, 16) * 255
        assert (views - images.permute(0, 3, 1, 2)).abs().max() < 1e-3


def test_large_batches_are_the_same_in_parts(monkeypatch):
    images, aspect = noise(6, 24), torch.linspace(0.5, 2, 6)
    plan = Strong().plan(aspect, torch.Generator().manual_seed(0))
    whole = apply_with(images, plan, 16, backend="reference")
    monkeypatch.setattr(reference, "_CHUNK", 2 * images[0].numel())
    parts = apply_with(images, plan, 16, backend="reference")
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    for i in range(6):
        one = apply_with(images[i : i + 1], plan[i], 16, backend="reference")
        torch.testing.assert_close(one[0], whole[i])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_other_than_three(channels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 200, (2, 24, 24, channels), dtype=torch.uint8, generator=generator)
    plan = with_matrix(*[warp("rotate", 11.0)] * 2)
    for name, amount in (("contrast", 1.4), ("equalize", 1.0), ("sharpness", 1.5)):
        plan = then(plan, name, amount)
    views = apply_with(images, plan, 20)
    assert views.shape == (2, channels, 20, 20)
    grey = images[..., :1].expand(-1, -1, -1, 3).contiguous()
    if channels == 1:  # as the same picture in three equal channels
        torch.testing.assert_close(apply_with(grey, plan, 20)[:, :1], views, atol=2e-3, rtol=0)
    with pytest.raises(TutelageError, match=f"3 channels, these have {channels}"):
        apply_with(images, then(plan, "saturation", 0.5), 20)


def test_rectangles(apply):
    image = smooth(64)[:, 8:56]  # 48 rows of 64
    matrix = warp("rotate", 90.0, ratio=64 / 48)
    views = apply(image.contiguous(), with_matrix(matrix), (48, 64)) * 255
    turned = image[0].rot90(1, (0, 1)).permute(2, 0, 1)  # 64 rows of 48
    middle = (slice(None), slice(None), slice(9, 55))
    assert (views[0][middle] - turned[:, 8:56].float()[:, :, 1:47]).abs().max() < 2
    assert views.shape == (1, 3, 48, 64)


def test_gradients_reach_the_pixels():
    images = noise(2, 12).double().requires_grad_()
    plan = Plan.identity(2)
    plan.matrix.copy_(
        (warp("rotate", torch.tensor([9.0, -20.0])) @ warp("scale", torch.full((2,), 1.3)))[:, :2]
    )
    plan = then(then(then(plan, "brightness", 0.9), "saturation", 0.6), "sharpness", 0.7)
    views = apply_with(images.float(), plan, 10)
    views.sum().backward()
    assert images.grad is not None
    assert (images.grad[:, 4:8, 4:8].abs() > 1e-4).all()


def test_empty_batch(apply):
    assert apply(noise(0, 16), Plan.identity(0), 8).shape == (0, 3, 8, 8)


def test_inputs_are_not_changed(apply):
    images = noise(2, 16)
    plan = with_matrix(warp("rotate", 9.0), warp("hflip", 1.0))
    before = images.clone(), plan.matrix.clone()
    apply(images, plan, 16)
    assert torch.equal(images, before[0])
    assert torch.equal(plan.matrix, before[1])
