"""Policies: distributions, determinism, aspect, and no setting or operation that does nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tutelage.augment import (
    Plan,
    RandAugment,
    RandomErasing,
    Still,
    Strong,
    TrivialAugment,
    Weak,
    apply,
    extend,
)
from tutelage.augment.plan import COLOR_OPS
from tutelage.augment.policy import draw_crop
from tutelage.system.errors import TutelageError

STILL = Weak(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)


def canvases(batch: int, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    rough = torch.rand(batch, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(rough, size=size, mode="bilinear") * 180 + 30
    return images.to(torch.uint8).permute(0, 2, 3, 1)


def draw(policy, batch: int = 64, seed: int = 0, aspect: float = 1.0) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    return policy.plan(torch.full((batch,), aspect), generator)


def equal(a: Plan, b: Plan) -> bool:
    return all(torch.equal(part, b.tensors()[name]) for name, part in a.tensors().items())


POLICIES = [
    Weak(),
    RandAugment(),
    TrivialAugment(),
    Strong(),
    Strong(augment=TrivialAugment()),
    RandomErasing(),
]


def counts(plan: Plan) -> dict[str, float]:
    """How often each operation is drawn, a colour operation by its code, a warp by its matrix."""
    shares = {name: (plan.ops == i).float().mean().item() for i, name in enumerate(COLOR_OPS)}
    moved = (plan.matrix != torch.eye(2, 3)).flatten(1).any(1)
    return {**shares, "matrix": moved.float().mean().item()}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_equal_seeds_give_equal_plans(policy):
    state = torch.get_rng_state()
    assert equal(draw(policy), draw(policy))
    assert not equal(draw(policy), draw(policy, seed=1))
    assert torch.equal(state, torch.get_rng_state())  # nothing ambient is used
    views = apply(canvases(64), draw(policy), 24)
    assert torch.isfinite(views).all()
    assert views.amin() >= 0
    assert views.amax() <= 1


SETTINGS = [
    (Weak(), {"scale": (0.2, 0.4), "ratio": (0.5, 0.6), "hflip": 0.0, "vflip": 0.5, "pad": 0.2,
              "fill": 9.0}),
    (RandAugment(), {"num_ops": 3, "magnitude": 15.0, "magnitude_std": 0.0,
                     "operations": ("rotate", "gamma"), "view": Weak()}),
    (TrivialAugment(), {"view": Weak()}),
    (RandomErasing(), {"p": 0.9, "scale": (0.4, 0.5), "ratio": (1.0, 1.0),
                       "fill": (1.0, 2.0, 3.0), "view": Weak()}),
    (Still(), {"fill": 9.0}),
    (Strong(), {"augment": TrivialAugment(), "erase": 0.9}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "name", "value"),
    [(policy, name, value) for policy, changes in SETTINGS for name, value in changes.items()],
)
def test_every_setting_is_alive(policy, name, value):
    assert not equal(draw(policy), draw(replace(policy, **{name: value})))


@pytest.mark.parametrize("name", [name for name in extend.NAMES if name != "identity"])
def test_no_operation_is_dead(name):
    images = canvases(16)
    plain = apply(images, draw(STILL, 16), 32)
    policy = RandAugment(1, operations=(name,), view=STILL)
    changes = [
        (apply(images, draw(replace(policy, magnitude=m), 16), 32) - plain).abs().mean((1, 2, 3))
        for m in (10.0, 28.0)
    ]
    assert (changes[1] > 2e-3).all()
    if name.startswith("translate"):
        assert (
            apply(images, draw(replace(policy, magnitude=28.0), 16), 32) == 0.5
        ).float().mean() > 0.3
    elif name not in ("equalize", "autocontrast", "invert", "hflip", "vflip"):
        assert changes[1].mean() > 1.3 * changes[0].mean()  # the magnitude is alive


def test_magnitudes_are_torchvisions():
    fixed = RandAugment(num_ops=1, magnitude_std=0.0, view=STILL)
    matrix = draw(replace(fixed, operations=("translate_x",))).matrix
    assert set(matrix[:, 0, 2].mul(1e4).round().tolist()) == {
        round(sign * 2 * 150 / 331 * 9 / 30 * 1e4) for sign in (-1, 1)
    }
    matrix = draw(replace(fixed, operations=("rotate",))).matrix
    degrees = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
    torch.testing.assert_close(degrees.abs(), torch.full((64,), 9.0))
    amounts = draw(replace(fixed, operations=("brightness",))).amounts
    assert set(amounts.mul(100).round().flatten().tolist()) == {73.0, 127.0}
    amounts = draw(replace(fixed, operations=("solarize",))).amounts
    torch.testing.assert_close(amounts, torch.full((64, 1), 178.5))
    plan = draw(replace(fixed, operations=("posterize",)))
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(64, 1, 1, 3)
    assert (apply(levels, plan, 16)[0, 0, 0, :4] * 255).tolist() == [0, 0, 2, 2]  # 7 bits


def test_each_image_draws_its_own_operations():
    plan = draw(RandAugment(num_ops=1), 4000)
    share = counts(plan)
    for name in ("brightness", "contrast", "saturation", "sharpness", "posterize", "solarize",
                 "autocontrast", "equalize"):  # fmt: skip
        assert share[name] == pytest.approx(1 / 14, abs=0.016), name  # 4 standard errors
    assert share["matrix"] == pytest.approx(5 / 14, abs=0.03)
    signs = plan.matrix[:, 0, 2].sign()
    assert abs((signs > 0).sum() - (signs < 0).sum()) < 130


def test_two_operations_are_drawn_with_replacement_and_in_any_order():
    plan = draw(RandAugment(num_ops=2, operations=("brightness", "solarize")), 2000)
    pairs, number = plan.ops.unique(dim=0, return_counts=True)
    assert len(pairs) == 4
    assert ((number / 2000 - 0.25).abs() < 0.04).all()


def test_magnitudes_spread_around_their_mean():
    plan = draw(RandAugment(1, 9.0, 3.0, operations=("solarize",)), 4000)
    strength = 30 * (1 - plan.amounts[:, 0] / 255)
    assert strength.mean().item() == pytest.approx(9.0, abs=0.2)
    assert strength.std().item() == pytest.approx(3.0, abs=0.2)
    assert strength.min() >= 0


def test_fill_has_one_value_or_one_a_channel():
    assert draw(Weak(fill=(1.0, 2.0, 3.0)), 2).fill.tolist() == [[1, 2, 3]] * 2
    with pytest.raises(TutelageError, match="fill has 2 values"):
        draw(Weak(fill=(1.0, 2.0)), 2)


def test_trivial_augment_draws_all_strengths():
    plan = draw(TrivialAugment(view=STILL), 3000)
    degrees = torch.atan2(plan.matrix[:, 1, 0], plan.matrix[:, 0, 0]).rad2deg().abs()
    assert degrees.amax() == pytest.approx(135, abs=0.01)
    assert ((degrees > 46) & (degrees < 100)).any()


@pytest.mark.parametrize("aspect", [0.3, 0.8, 1.0, 1.6, 5.0])
def test_crop_distribution(aspect):
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, 22, generator=generator).numpy()
    aspects = np.full(4000, aspect, np.float32)
    box = torch.from_numpy(draw_crop(aspects, (0.3, 0.9), (3 / 4, 4 / 3), draws))
    x0, y0, width, height = box.unbind(1)
    assert box.min() >= 0
    assert (x0 + width).max() <= 1 + 1e-6
    assert (y0 + height).max() <= 1 + 1e-6
    for start, length in ((x0, width), (y0, height)):
        room = length < 0.99
        if room.any():  # the place is even over the whole room
            place = (start / (1 - length))[room]
            assert place.mean().item() == pytest.approx(0.5, abs=0.05)
            assert place.max() > 0.95
    shape = aspect * width / height
    assert shape.min() >= 3 / 4 - 1e-3
    assert shape.max() <= 4 / 3 + 1e-3
    area = width * height
    assert area.max() <= 0.9 + 1e-3
    if aspect == 1.0:
        # Even in area, but for the largest boxes, of which fewer shapes fit.
        assert area.quantile(0.25).item() == pytest.approx(0.44, abs=0.03)
        assert shape.log().mean().item() == pytest.approx(0.0, abs=0.02)
    if aspect == 5.0:  # nothing of 30% fits in 4:3: the largest such box is taken
        torch.testing.assert_close(height, torch.ones(4000))
        torch.testing.assert_close(width, torch.full((4000,), 4 / 15))
        assert x0.std() > 0.1


def test_view_undoes_the_squash():
    """A circle in a 2:1 photo is a circle in every square crop."""
    x = (torch.arange(64) + 0.5) / 64
    disk = ((x[None, :] - 0.5) * 2) ** 2 + (x[:, None] - 0.5) ** 2 < 0.2**2
    images = (disk * 255).to(torch.uint8)[None, :, :, None].repeat(1, 1, 1, 3)
    policy = Weak(scale=(0.5, 0.5), ratio=(1.0, 1.0), hflip=0.0)
    plan = policy.plan(torch.tensor([2.0]), torch.Generator().manual_seed(0))
    plan.matrix[:, :, 2] = 0  # its centre
    view = apply(images, plan, 64)[0, 0] > 0.5
    rows, columns = view.any(1).sum().item(), view.any(0).sum().item()
    assert rows == pytest.approx(columns, abs=2)
    assert rows == pytest.approx(0.4 * 64, abs=2)


def test_a_padded_crop_keeps_its_size_and_shows_the_fill():
    plan = draw(Weak((1.0, 1.0), (1.0, 1.0), pad=1 / 8, fill=7.0), 2000)
    assert plan.matrix[:, 0, 0].abs().unique().tolist() == [1.0]
    shift = plan.matrix[:, :, 2] / 2
    assert shift.abs().max().item() == pytest.approx(1 / 8, abs=0.01)
    assert shift.mean().item() == pytest.approx(0.0, abs=0.01)
    assert apply(canvases(2000), plan, 32).mul(255).sub(7).abs().lt(1e-3).any()


def test_flips_have_their_probability():
    plan = draw(Weak(hflip=0.25, vflip=0.75), 2000)
    assert (plan.matrix[:, 0, 0] < 0).float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert (plan.matrix[:, 1, 1] < 0).float().mean().item() == pytest.approx(0.75, abs=0.04)


def test_flipped_view_is_the_mirror_of_its_crop():
    images = canvases(1)
    flipped, plain = draw(Weak(hflip=1.0), 1), draw(Weak(hflip=0.0), 1)
    mirror = apply(images, plain, 20).flip(-1)
    torch.testing.assert_close(apply(images, flipped, 20), mirror, atol=1e-5, rtol=0)


def test_erase_has_its_probability_and_area():
    plan = draw(RandomErasing(p=0.4, scale=(0.1, 0.2)), 2000)
    used = plan.erase[:, 2] > plan.erase[:, 0]
    assert used.float().mean().item() == pytest.approx(0.4, abs=0.04)
    box = plan.erase[used]
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    assert area.min() >= 0.1 - 1e-4
    assert area.max() <= 0.2 + 1e-4
    assert box.min() >= 0
    assert box.max() <= 1 + 1e-6


def test_unknown_operation_is_refused():
    with pytest.raises(TutelageError, match=r"smear.*rotate"):
        draw(RandAugment(operations=("smear",)))
