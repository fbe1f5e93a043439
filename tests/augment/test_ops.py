"""Every operation means what torchvision's means, alone and compiled one after another."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from tutelage.augment import Plan, apply, ops
from tutelage.errors import TutelageError

torch.set_num_threads(1)
SIZE = 48
WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])


def textured(
    batch: int = 2, size: int = SIZE, seed: int = 0, low: int = 20, high: int = 230
) -> Tensor:
    """Smooth colour waves with fine noise, (B, C, C, 3), each channel with its own range."""
    generator = torch.Generator().manual_seed(seed)
    waves = torch.randn(batch, 3, 6, 6, generator=generator)
    waves = torch.nn.functional.interpolate(waves, size=size, mode="bicubic")
    waves += 0.1 * torch.randn(waves.shape, generator=generator)
    waves = (waves - waves.amin((2, 3), True)) / (
        waves.amax((2, 3), True) - waves.amin((2, 3), True)
    )
    shift = torch.tensor([0.0, 10.0, -10.0])[:, None, None]
    return (low + (high - low) * waves + shift).round().to(torch.uint8).permute(0, 2, 3, 1)


def one_pass(images: Tensor, *steps: tuple[str, float]) -> Tensor:
    """(B, 3, C, C) float 0..255 after the steps, compiled into one plan."""
    batch = len(images)
    plan = Plan.identity(batch)
    rows = torch.arange(batch)
    for name, amount in steps:
        window = WHOLE.expand(batch, 4)
        ops.append(plan, name, torch.full((batch,), float(amount)), rows, images, window)
    return apply(images, plan, images.shape[1]) * 255


THEIRS = {
    "identity": lambda x, a: x,
    "brightness": tv.adjust_brightness,
    "contrast": tv.adjust_contrast,
    "saturation": tv.adjust_saturation,
    "sharpness": tv.adjust_sharpness,
    "gamma": tv.adjust_gamma,
    "invert": lambda x, a: tv.invert(x),
    "posterize": lambda x, a: tv.posterize(x, int(a)),
    "solarize": tv.solarize,
    "autocontrast": lambda x, a: tv.autocontrast(x),
    "equalize": lambda x, a: tv.equalize(x),
    "rotate": lambda x, a: tv.rotate(x, a, tv.InterpolationMode.BILINEAR),
    "shear_x": lambda x, a: affine(x, shear=[math.degrees(math.atan(a)), 0.0], center=[0, 0]),
    "shear_y": lambda x, a: affine(x, shear=[0.0, math.degrees(math.atan(a))], center=[0, 0]),
    "translate_x": lambda x, a: affine(x, translate=[a * SIZE, 0]),
    "translate_y": lambda x, a: affine(x, translate=[0, a * SIZE]),
    "scale": lambda x, a: affine(x, scale=a),
    "hflip": lambda x, a: tv.horizontal_flip(x),
    "vflip": lambda x, a: tv.vertical_flip(x),
}


def affine(images: Tensor, **changes: object) -> Tensor:
    settings = {"translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **changes}
    return tv.affine(images, angle=0.0, interpolation=tv.InterpolationMode.BILINEAR, **settings)


COLOR = {
    "brightness": (0.0, 2.0),
    "contrast": (0.0, 2.0),
    "saturation": (0.0, 2.0),
    "sharpness": (0.0, 2.0),
    "gamma": (0.4, 2.5),
    "posterize": (1, 8),
    "solarize": (0.0, 255.0),
    "invert": (0, 0),
    "autocontrast": (0, 0),
    "equalize": (0, 0),
    "identity": (0, 0),
}
GEOMETRY = {
    "rotate": (-180.0, 180.0),
    "shear_x": (-0.99, 0.99),
    "shear_y": (-0.99, 0.99),
    "translate_x": (-0.5, 0.5),
    "translate_y": (-0.5, 0.5),
    "scale": (1.0, 2.0),
    "hflip": (0, 0),
    "vflip": (0, 0),
}


def test_every_operation_is_compared():
    assert set(COLOR) | set(GEOMETRY) == set(ops.NAMES) == set(THEIRS)


@pytest.mark.parametrize("name", COLOR)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 10))
def test_color_equals_torchvision(name, data, seed):
    low, high = COLOR[name]
    kind = st.integers if name == "posterize" else st.floats
    amount = data.draw(kind(low, high))
    images = textured(seed=seed)
    pixels = images.permute(0, 3, 1, 2)
    ours = one_pass(images, (name, amount))
    if name in ("posterize", "solarize", "equalize"):  # defined on grey levels
        assert (ours - THEIRS[name](pixels, amount)).abs().max() <= 1e-3
        return
    # Ours does not round, so it equals torchvision on float images; on uint8 torchvision cuts the
    # fraction off, and for some operations that of a value in between as well.
    theirs = THEIRS[name](pixels / 255, amount) * 255
    assert (ours - theirs).abs().max() <= 0.05
    assert (ours.floor() - THEIRS[name](pixels, amount)).abs().max() <= 1


@pytest.mark.parametrize("name", GEOMETRY)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_geometry_equals_torchvision(name, data):
    amount = data.draw(st.floats(*GEOMETRY[name]))
    if name.startswith("translate"):
        amount = round(amount * SIZE) / SIZE  # torchvision moves tensors by whole pixels
    images = textured()
    pixels = images.permute(0, 3, 1, 2).float()
    theirs = THEIRS[name](pixels, amount)
    inside = THEIRS[name](torch.ones_like(pixels), amount)
    # Off the border: where no pixel near by reads beyond the canvas.
    inside = -torch.nn.functional.max_pool2d(-inside, 5, 1, 2) > 0.99999
    error = (one_pass(images, (name, amount)) - theirs)[inside]
    assert inside.any()
    assert error.abs().max() <= 0.05


@pytest.mark.parametrize(
    "steps",
    [
        [("solarize", 100), ("equalize", 0)],
        [("equalize", 0), ("posterize", 3)],
        [("brightness", 1.9), ("contrast", 0.3)],
        [("contrast", 0.4), ("autocontrast", 0)],
        [("equalize", 0), ("contrast", 0.4)],
        [("invert", 0), ("gamma", 1.7)],
        [("posterize", 4), ("saturation", 0.2)],
        [("saturation", 1.7), ("solarize", 120)],
        [("saturation", 0.3), ("autocontrast", 0)],
        [("saturation", 0.4), ("equalize", 0)],
        [("sharpness", 0.0), ("solarize", 128)],
        [("sharpness", 1.8), ("autocontrast", 0)],
        [("saturation", 0.4), ("sharpness", 1.6)],
        [("sharpness", 0.4), ("saturation", 0.6)],
        [("saturation", 0.6), ("saturation", 0.5)],
    ],
)
def test_two_operations_compile_in_their_order(steps):
    images = textured(seed=3)
    theirs = images.permute(0, 3, 1, 2)
    for name, amount in steps:
        theirs = THEIRS[name](theirs, amount)
    error = (one_pass(images, *steps) - theirs).abs()
    # Each uint8 step of the chain rounds, and the second amplifies or thresholds what the first
    # rounded: a few pixels at a step of the table may fall on its other side.
    assert error.mean() <= 1.5
    assert (error <= 4).float().mean() >= 0.98
    if {name for name, _ in steps} != {"saturation"}:
        swapped = one_pass(images, *steps[::-1])
        if {"sharpness", "saturation"} != {name for name, _ in steps}:
            assert (swapped - theirs).abs().mean() > 2 * error.mean()


def test_two_warps_compose_in_their_order():
    images = textured(size=SIZE)
    steps = [("rotate", 25.0), ("translate_x", 10 / SIZE)]
    pixels = images.permute(0, 3, 1, 2).float()
    theirs = THEIRS["translate_x"](THEIRS["rotate"](pixels, 25.0), 10 / SIZE)
    ours = one_pass(images, *steps)
    middle = (slice(None), slice(None), slice(14, 34), slice(20, 34))
    assert (ours - theirs)[middle].abs().max() <= 0.05
    assert (one_pass(images, *steps[::-1]) - theirs)[middle].abs().mean() > 2


def test_sharpness_twice_multiplies_strengths():
    plan = Plan.identity(1)
    for amount in (0.5, 0.4):
        ops.append(plan, "sharpness", torch.tensor([amount]), torch.tensor([0]), *blank())
    torch.testing.assert_close(plan.stencil, ops.sharpness(torch.tensor([0.2])))


def blank() -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 8, 8, 3, dtype=torch.uint8), WHOLE[None]


def test_statistics_see_only_the_window():
    images = textured(1, size=32, low=90, high=160)
    images[:, :, 16:] = 255
    window = torch.tensor([[0.0, 0.0, 0.5, 1.0]])
    plan = Plan.identity(1)
    ops.append(plan, "autocontrast", torch.ones(1), torch.tensor([0]), images, window)
    theirs = tv.autocontrast(images[:, :, :16].permute(0, 3, 1, 2)).float()
    ours = apply(images, plan, 32)[..., :16] * 255
    assert (ours - theirs).abs().max() <= 1.01


def test_counts_equal_numpy_style_histogram():
    images = textured(3, size=16)
    window = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 1.0], [-0.3, 0.0, 0.5, 1.2]])
    counts = ops.count_levels(images, window)
    assert counts.shape == (3, 3, 256)
    parts = [images[0], images[1, 8:, 4:12], images[2, :, :8]]
    for count, part in zip(counts, parts, strict=True):
        for channel in range(3):
            expected = torch.bincount(part[..., channel].flatten(), minlength=256)
            assert torch.equal(count[channel], expected.float())


def test_flat_images_and_empty_windows_survive_statistics():
    for images in (torch.full((1, 8, 8, 3), 77, dtype=torch.uint8), blank()[0]):
        for name in ("contrast", "autocontrast", "equalize"):
            assert one_pass(images, (name, 1.0)).sub(images[0, 0, 0, 0]).abs().max() < 1e-2
    nothing = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    for name in ("contrast", "autocontrast", "equalize"):
        plan = Plan.identity(1)
        ops.append(plan, name, torch.ones(1), torch.tensor([0]), textured(1), nothing)
        assert torch.isfinite(plan.table).all()
        assert (plan.table - torch.arange(256.0)).abs().max() < 1e-3


def test_append_changes_only_its_rows():
    images = textured(3)
    for name in ops.NAMES:
        plan = Plan.identity(3)
        window = WHOLE.expand(3, 4)
        ops.append(plan, name, torch.tensor([3.0]), torch.tensor([1]), images, window)
        still = Plan.identity(2).tensors()
        for part, value in plan.tensors().items():
            assert torch.equal(value[[0, 2]], still[part]), (name, part)


def test_third_operation_merges_before_the_second_table():
    steps = [("saturation", 0.5), ("brightness", 0.5), ("saturation", 0.0)]
    ours = one_pass(textured(1), *steps)
    assert (ours.amax(1) - ours.amin(1)).max() < 0.1  # grey, as asked


def test_unknown_operation_lists_the_known():
    with pytest.raises(TutelageError, match=r"'rotat'.*rotate"):
        ops.append(Plan.identity(1), "rotat", torch.ones(1), torch.tensor([0]), *blank())
