"""Resampling equals Pillow's, keeps aspect, and traces to ONNX with dynamic sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tutelage.augment import resample


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("shape", "out", "box"),
    [
        ((40, 53), (17, 29), (0.0, 0.0, 53.0, 40.0)),
        ((40, 53), (61, 90), (3.25, 1.5, 47.75, 33.0)),
        ((64, 64), (64, 64), (0.0, 0.0, 64.0, 64.0)),
        ((64, 64), (24, 9), (10.0, 5.5, 30.25, 60.0)),
    ],
)
def test_equals_pillow(shape, out, box):
    image = noise(1, *shape, 3)
    height, width = out
    theirs = Image.fromarray(image[0].numpy()).resize(
        (width, height), Image.Resampling.BILINEAR, box=box
    )
    x0, y0, x1, y1 = (torch.tensor([v]) for v in box)
    rows = resample.matrix(shape[0], height, y0, y1 - y0)
    columns = resample.matrix(shape[1], width, x0, x1 - x0)
    ours = resample.resize(image.permute(0, 3, 1, 2).float(), rows, columns)[0].permute(1, 2, 0)
    # Pillow rounds to 8 bits after each of the two passes.
    assert np.abs(ours.numpy() - np.asarray(theirs, dtype=np.float32)).max() <= 1.02


def test_rows_sum_to_one_and_flip_reverses():
    start, length = torch.tensor([0.0, -2.0, 5.0]), torch.tensor([32.0, 20.0, 3.0])
    weights = resample.matrix(32, 11, start, length)
    assert weights.shape == (3, 11, 32)
    torch.testing.assert_close(weights[::2].sum(-1), torch.ones(2, 11))
    flipped = resample.matrix(32, 11, start + length, -length)
    torch.testing.assert_close(flipped, weights.flip(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(120, 60), (60, 120), (80, 80)])
def test_center_box_is_a_true_centre_square(width, height):
    x0, y0, w, h = resample.center_box(torch.tensor([width / height]), 64, 0.8)
    side = 0.8 * min(width, height)
    torch.testing.assert_close(w * width / 64, torch.tensor([side]))
    torch.testing.assert_close(h * height / 64, torch.tensor([side]))
    torch.testing.assert_close(x0 * 2 + w, torch.tensor([64.0]))
    torch.testing.assert_close(y0 * 2 + h, torch.tensor([64.0]))


def test_center_view_equals_pillow_per_image():
    images, aspect = noise(3, 64, 64, 3), torch.tensor([2.0, 0.5, 1.0])
    ours = resample.center_view(images, aspect, 40, 0.875)
    boxes = torch.stack(resample.center_box(aspect, 64, 0.875), 1)
    for image, (x0, y0, w, h), view in zip(images, boxes.tolist(), ours, strict=True):
        theirs = Image.fromarray(image.numpy()).resize(
            (40, 40), Image.Resampling.BILINEAR, box=(x0, y0, x0 + w, y0 + h)
        )
        error = view.permute(1, 2, 0).numpy() * 255 - np.asarray(theirs, dtype=np.float32)
        assert np.abs(error).max() <= 1.02
