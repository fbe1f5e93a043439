"""Plans can be indexed, moved and read."""

from __future__ import annotations

import pytest
import torch

from tutelage.augment import Plan, Strong, apply, then
from tutelage.augment import plan as plans


def sample(batch: int = 5) -> tuple[torch.Tensor, Plan]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return images, Strong(erase=1.0).plan(torch.ones(batch), generator)


def test_codes_are_positions_in_the_names():
    for position, name in enumerate(plans.COLOR_OPS[1:], start=1):
        assert getattr(plans, name.upper()) == position


def test_indexing_gives_the_plan_of_some_images():
    images, plan = sample()
    assert len(plan) == 5
    assert len(plan[-1]) == 1
    assert torch.equal(plan[-1].matrix, plan.matrix[4:])
    whole = apply(images, plan, 12)
    for some in (slice(2), torch.tensor([4, 2])):
        assert torch.equal(apply(images[some], plan[some], 12), whole[some])
    with pytest.raises(IndexError):
        plan[5]


def test_text():
    plan = Plan.identity(3)
    assert str(plan).splitlines() == [f"image {i}: identity" for i in range(3)]
    plan = then(then(plan, "solarize", torch.tensor([0.0, 178.5, 3.0])), "equalize", 1.0)
    plan.matrix[1, 0, 0] = -1
    plan.erase[2] = torch.tensor([0.0, 0.0, 0.5, 0.5])
    lines = str(plan).splitlines()
    assert lines[1] == "image 1: matrix -1 0 0 0 1 0; solarize 178; equalize 1"
    assert lines[2] == "image 2: solarize 3; equalize 1; erase 0 0 0.5 0.5"


def test_to_keeps_all_parts():
    _, plan = sample()
    moved = plan.to("meta")
    assert all(part.device.type == "meta" for part in moved.tensors().values())
