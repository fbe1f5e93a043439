"""Plans can be indexed, joined, saved, loaded and read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tutelage.augment import Plan, Strong, apply, then
from tutelage.system.errors import TutelageError

torch.set_num_threads(1)


def sample(batch: int = 5) -> tuple[torch.Tensor, Plan]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 16, 16, 3), dtype=torch.uint8, generator=generator)
    return images, Strong(erase=1.0).plan(torch.ones(batch), generator)


def test_shapes():
    shapes = {name: tuple(part.shape) for name, part in Plan.identity(4).tensors().items()}
    assert shapes == {
        "matrix": (4, 2, 3),
        "ops": (4, 0),
        "amounts": (4, 0),
        "color": (4, 3, 3),
        "hue": (4,),
        "stencil": (4, 3, 3),
        "window": (4, 4),
        "erase": (4, 4),
        "fill": (4, 3),
    }


def test_index_and_cat_round_trip():
    images, plan = sample()
    assert len(plan) == 5
    assert len(plan[-1]) == 1
    assert torch.equal(plan[-1].matrix, plan.matrix[4:])
    joined = Plan.cat([plan[:2], plan[torch.tensor([2, 3])], plan[4]])
    assert torch.equal(apply(images, joined, 12), apply(images, plan, 12))
    with pytest.raises(IndexError):
        plan[5]


def test_save_and_load(tmp_path: Path):
    images, plan = sample()
    plan.save(tmp_path / "plan.safetensors")
    again = Plan.load(tmp_path / "plan.safetensors")
    assert torch.equal(apply(images, again, 16), apply(images, plan, 16))


def test_load_refuses_other_files(tmp_path: Path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(TutelageError, match="weight"):
        Plan.load(tmp_path / "other.safetensors")


def test_cat_pads_the_shorter_list_of_operations():
    images, plan = sample()
    joined = Plan.cat([plan, Plan.identity(5)])
    assert joined.ops.shape == (10, plan.ops.shape[1])
    twice = torch.cat([images, images])
    views = apply(twice, joined, 16)
    assert torch.equal(views[:5], apply(images, plan, 16))
    assert torch.equal(views[5:], apply(images, Plan.identity(5), 16))


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
