"""Policies in the place of torchvision's transforms: the same inputs go in and come out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from tutelage.augment import (
    RandAugment,
    RandomErasing,
    Still,
    Strong,
    Transform,
    TrivialAugment,
    Weak,
    apply,
)
from tutelage.system.errors import TutelageError


def photo(height: int = 30, width: int = 44, seed: int = 0) -> Image.Image:
    rough = np.random.default_rng(seed).integers(30, 220, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def tensor() -> torch.Tensor:
    return torch.from_numpy(np.array(photo())).permute(2, 0, 1)


@pytest.mark.parametrize("policy", [RandAugment(), TrivialAugment(), Strong(), RandomErasing(p=1)])
def test_what_goes_in_comes_out(policy):
    image = tensor()
    results = {}
    for name, given in {
        "pil": photo(),
        "uint8": image,
        "float": image / 255,
        "double": image.double() / 255,
        "tv": tv_tensors.Image(image),
        "batch": image.expand(4, 3, 30, 44),
        "video": image.expand(2, 3, 3, 30, 44),
    }.items():
        torch.manual_seed(5)
        results[name] = policy(given)
        if name == "pil":
            assert results[name].size == (44, 30)
            assert results[name].mode == "RGB"
        else:
            assert type(results[name]) is type(given)
            assert results[name].shape == given.shape
            assert results[name].dtype == given.dtype
    first = np.array(results["pil"])
    for name in ("uint8", "tv"):
        assert np.array_equal(results[name].permute(1, 2, 0).numpy(), first)
    assert (results["float"] * 255 - results["uint8"]).abs().max() <= 1.6  # not in grey levels
    assert not torch.equal(results["batch"][0], results["batch"][1])  # each its own draw
    assert not torch.equal(results["video"][0, 0], results["video"][1, 2])
    assert policy(photo(), 3, "box")[1:] == (3, "box")  # others pass through


def test_it_takes_the_place_of_an_import():
    """A pipeline of torchvision's with tutelage's RandAugment in it."""
    grey = RandAugment(operations=("rotate", "contrast", "equalize", "sharpness"))
    for image, policy in ((photo(), RandAugment()), (photo().convert("L"), grey)):
        parts = [v2.RandomHorizontalFlip(), policy, v2.ToImage(), v2.ToDtype(torch.float32, True)]
        assert v2.Compose(parts)(image).shape == (len(image.getbands()), 30, 44)


def test_the_default_generator_decides_unless_there_is_one():
    image = tensor()
    torch.manual_seed(1)
    once = Strong()(image)
    assert not torch.equal(Strong()(image), once)
    torch.manual_seed(1)
    assert torch.equal(Strong()(image), once)
    state = torch.get_rng_state()
    own = Transform(Strong(), generator=torch.Generator().manual_seed(1))
    own(image)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_transform_is_the_whole_pipeline():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    whole = Transform(RandAugment(view=Weak()), 24, mean, std)
    torch.manual_seed(2)
    view = whole(photo())
    assert view.shape == (3, 24, 24)
    assert view.dtype == torch.float32
    torch.manual_seed(2)
    canvases = tensor().permute(1, 2, 0)[None].contiguous()
    plan = RandAugment(view=Weak()).plan(torch.tensor([44 / 30]))
    expected = apply(canvases, plan, 24, mean=mean, std=std)[0]
    torch.testing.assert_close(view, expected)
    small = Transform(Still(), (12, 20))(photo())
    assert small.size == (20, 12)
    theirs = photo().resize((20, 12), Image.Resampling.BILINEAR)
    assert np.abs(np.array(small, int) - np.array(theirs, int)).max() <= 1


def test_a_rotation_of_a_rectangle_is_one_of_pixels():
    """A round hill in a wide photo stays round."""
    y, x = np.mgrid[:40, :80]
    radius = np.hypot(y - 19.5, x - 39.5)
    hill = (255 - 15 * radius).clip(0, 255).astype(np.uint8)
    turned = RandAugment(1, 30.0, 0.0, operations=("rotate",))
    out = np.array(turned(Image.fromarray(hill)), int)
    inner = np.s_[6:34, 26:54]
    assert np.abs(out - hill)[inner].max() <= 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (photo().convert("RGBA"), "mode RGBA; expected L or RGB"),
        ("a path", "a str is not an image"),
        (torch.zeros(4, 4), r"shape \(4, 4\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "torch.int32"),
        (tv_tensors.Mask(torch.zeros(1, 4, 4)), "a Mask is not an image"),
    ],
)
def test_what_is_no_image_is_refused(given, message):
    with pytest.raises(TutelageError, match=message):
        RandAugment()(given)
    with pytest.raises(TutelageError, match="without an image"):
        RandAugment()()


def test_gradients_flow_through_float_images():
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    torch.manual_seed(0)
    RandAugment(2, operations=("rotate", "brightness", "contrast"))(images).sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.5
