"""The reference: geometry against Pillow and the truth, fill, erase, and order of the parts."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tutelage.augment import Center, Plan, Strong, apply, center_view, ops
from tutelage.augment.apply import convolve, lookup, mix_channels, warp

torch.set_num_threads(1)


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


def test_identity_is_exact():
    images = noise(3, 32)
    views = apply(images, Plan.identity(3), 32)
    assert views.shape == (3, 3, 32, 32)
    assert views.dtype == torch.float32
    assert torch.equal((views * 255).round().to(torch.uint8), images.permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", [20, 64, 90])
def test_crop_equals_pillow(size):
    image = noise(1, 64)
    box = (5.5, 10.25, 45.0, 61.0)
    left, top, right, bottom = (value / 64 for value in box)
    plan = with_matrix(ops.crop(torch.tensor([[left, top, right - left, bottom - top]])))
    theirs = Image.fromarray(image[0].numpy()).resize(
        (size, size), Image.Resampling.BILINEAR, box=box
    )
    ours = apply(image, plan, size)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - np.asarray(theirs, dtype=np.float32)).max() <= 1.02


@pytest.mark.parametrize("aspect", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("size", [24, 100])
def test_center_plan_is_the_evaluation_view(aspect, size):
    images, aspects = noise(2, 48), torch.tensor([aspect, 1.3])
    ours = apply(images, Center(0.8).plan(images, aspects), size)
    torch.testing.assert_close(ours, center_view(images, aspects, size, 0.8), atol=1e-5, rtol=0)


def test_affine_and_straight_paths_agree():
    image = smooth(64)
    crop = ops.crop(torch.tensor([[0.2, 0.1, 0.5, 0.6]]))
    nearly = crop @ ops.rotate(torch.tensor([1e-4]))
    straight, slanted = apply(image.repeat(2, 1, 1, 1), with_matrix(crop, nearly), 48)
    assert (straight - slanted).abs().max() * 255 < 0.2


def test_one_warp_is_closer_to_the_truth_than_a_chain():
    image, size = smooth(64), 64
    first, second = ops.rotate(torch.tensor([17.0])), ops.scale(torch.tensor([1.6]))
    third = ops.rotate(torch.tensor([-29.0]))
    matrix = first @ second @ third
    steps = (torch.arange(size) + 0.5) / size * 2 - 1
    grid = torch.stack([*torch.meshgrid(steps, steps, indexing="xy"), torch.ones(size, size)], -1)
    x, y = (((grid @ matrix[0, :2].T) + 1) / 2).unbind(-1)
    truth = wave(x, y).permute(2, 0, 1)
    one = apply(image, with_matrix(matrix), size)[0] * 255
    chain = image
    for step in (first, second, third):
        view = apply(chain, with_matrix(step), size) * 255
        chain = view.round().to(torch.uint8).permute(0, 2, 3, 1)
    middle = (slice(None), slice(8, -8), slice(8, -8))
    ours = (one - truth)[middle].abs().mean()
    theirs = (chain[0].permute(2, 0, 1) - truth)[middle].abs().mean()
    assert ours < 0.75 * theirs
    assert ours < 0.6


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_minification_does_not_alias(degrees):
    board = (torch.arange(96)[:, None] + torch.arange(96)[None, :]) % 2 * 255
    images = board.to(torch.uint8)[None, :, :, None].repeat(1, 1, 1, 3)
    plan = with_matrix(ops.rotate(torch.tensor([degrees])))
    views = apply(images, plan, 24)[:, :, 8:16, 8:16] * 255
    assert (views - 127.5).abs().max() < 12  # a checkerboard seen from afar is grey


def test_fill_is_constant_and_colours_do_not_change_it():
    images = torch.full((1, 32, 32, 3), 200, dtype=torch.uint8)
    plan = with_matrix(ops.translate_x(torch.tensor([0.5])))
    plan.table.copy_(255 - plan.table)
    plan.fill.copy_(torch.tensor([[10.0, 20.0, 30.0]]))
    views = apply(images, plan, 32)[0] * 255
    expected = torch.tensor([10.0, 20.0, 30.0])[:, None, None].expand(3, 32, 16)
    torch.testing.assert_close(views[:, :, :16], expected)
    torch.testing.assert_close(views[:, :, 16:], torch.full((3, 32, 16), 55.0))


def test_fill_covers_the_fraction_outside():
    images = torch.full((2, 32, 32, 3), 255, dtype=torch.uint8)
    plan = with_matrix(
        ops.crop(torch.tensor([[-0.5, -0.5, 2.0, 2.0]])), ops.rotate(torch.tensor([45.0]))
    )
    plan.fill.zero_()
    views = apply(images, plan, 31)  # the canvas ends inside pixels
    assert views[0].mean().item() == pytest.approx(0.25, abs=1e-4)
    # An octagon remains of a square turned by 45 degrees: 2 sqrt(2) - 2 of its area.
    assert views[1].mean().item() == pytest.approx(2 * 2**0.5 - 2, abs=2e-3)


def test_a_view_inside_the_canvas_has_no_rim():
    images = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    for crop in ([0.0, 0.0, 1.0, 1.0], [0.0, 0.3, 0.4, 0.7]):
        for size in (16, 32, 50):
            assert apply(images, with_matrix(ops.crop(torch.tensor([crop]))), size).min() > 1 - 1e-6


def test_reflect_mirrors_on_both_paths():
    images = noise(1, 32)
    pixels = images.permute(0, 3, 1, 2).float()
    shifted = F.pad(pixels, (8, 0, 0, 0), mode="replicate").clone()
    shifted[..., :8] = pixels[..., :8].flip(-1)
    translate = ops.translate_x(torch.tensor([0.25]))
    views = apply(images, with_matrix(translate), 32, outside="reflect") * 255
    torch.testing.assert_close(views, shifted[..., :32], atol=1e-2, rtol=0)
    nearly = translate @ ops.rotate(torch.tensor([1e-5]))
    slanted = apply(images, with_matrix(nearly), 32, outside="reflect") * 255
    assert (slanted - views).abs().max() < 0.1


def test_erase_box_and_fill():
    images = noise(2, 40)
    plan = Plan.identity(2)
    plan.erase[1] = torch.tensor([0.25, 0.5, 0.75, 1.0])
    views = apply(images, plan, 40) * 255
    plain = apply(images, Plan.identity(2), 40) * 255
    assert torch.equal(views[0], plain[0])
    assert (views[1, :, 20:, 10:30] - 127.5).abs().max() < 1e-3
    views[1, :, 20:, 10:30] = plain[1, :, 20:, 10:30]
    assert torch.equal(views[1], plain[1])


def test_parts_come_in_the_documented_order():
    images = noise(1, 16)
    plan = Plan.identity(1)
    generator = torch.Generator().manual_seed(1)
    plan.table.copy_(torch.rand(1, 3, 256, generator=generator) * 255)
    plan.table2.copy_(torch.rand(1, 3, 256, generator=generator) * 255)
    plan.color.copy_(ops.saturation(torch.tensor([1.7])))
    plan.stencil.copy_(ops.sharpness(torch.tensor([1.5])))
    pixels = images.permute(0, 3, 1, 2).float()
    expected = lookup(pixels, plan.table)
    expected = (plan.color @ expected.flatten(2)).clamp(0, 255).view_as(expected)
    expected = lookup(convolve(expected, plan.stencil), plan.table2)
    # Random tables are steep: float noise before the second table counts.
    torch.testing.assert_close(apply(images, plan, 16) * 255, expected, atol=0.05, rtol=0)


def test_lookup_is_linear_between_levels():
    table = torch.zeros(1, 3, 256)
    table[..., 10:] = 100.0
    pixels = torch.tensor([9.0, 9.25, 10.0, 255.0]).view(1, 1, 2, 2).repeat(1, 3, 1, 1)
    expected = torch.tensor([0.0, 25.0, 100.0, 100.0])
    assert torch.equal(lookup(pixels, table)[0, 0].flatten(), expected)


def test_mix_channels_and_convolve_by_hand():
    pixels = torch.arange(27.0).view(1, 3, 3, 3)
    swap = torch.tensor([[[0.0, 1, 0], [1, 0, 0], [0, 0, 100]]])
    mixed = mix_channels(pixels, swap)
    assert torch.equal(mixed[0, :2], pixels[0, [1, 0]])
    assert mixed[0, 2].min() == 255
    stencil = torch.tensor([[[0.0, 0, 0], [0, 0, 2], [0, 0, 0]]])
    moved = convolve(pixels, stencil)
    assert moved[0, 0, 1, 1] == 2 * pixels[0, 0, 1, 2]
    assert torch.equal(moved[0, :, 0], pixels[0, :, 0])
    tiny = pixels[:, :, :2]
    assert torch.equal(convolve(tiny, stencil), tiny)


def test_large_batches_are_the_same_in_parts(monkeypatch):
    images, aspect = noise(6, 24), torch.linspace(0.5, 2, 6)
    plan = Strong().plan(images, aspect, torch.Generator().manual_seed(0))
    whole = apply(images, plan, 16)
    module = importlib.import_module("tutelage.augment.apply")
    monkeypatch.setattr(module, "_CHUNK", 2 * images[0].numel())
    torch.testing.assert_close(apply(images, plan, 16), whole, atol=1e-5, rtol=0)
    for i in range(6):
        torch.testing.assert_close(apply(images[i : i + 1], plan[i], 16)[0], whole[i])


def test_empty_batch():
    assert apply(noise(0, 16), Plan.identity(0), 8).shape == (0, 3, 8, 8)


def test_inputs_are_not_changed():
    images = noise(2, 16)
    plan = with_matrix(ops.rotate(torch.tensor([9.0])), ops.hflip(torch.ones(1)))
    before = images.clone(), plan.matrix.clone()
    apply(images, plan, 16)
    warp(images, plan.matrix, 8)
    assert torch.equal(images, before[0])
    assert torch.equal(plan.matrix, before[1])
