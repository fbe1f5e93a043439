"""Carry out a plan: the plain torch reference, on any device.

Geometry samples the canvas once. A matrix without rotation or shear is two small matrices of
antialiased weights (``resample``); any other is bilinear, supersampled where it minifies. The
canvas is a rectangle that ends at its pixels' outer edges: inside, border pixels are continued;
outside, by the fraction of the output pixel that lies outside, it is the plan's fill.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.augment import resample
from tutelage.augment.plan import Plan

Outside = Literal["constant", "reflect"]

# Canvas values held as float at once: bounds memory, and is quicker than one large pass on a CPU.
_CHUNK = 4_000_000
_BILINEAR_LIMIT = 1.5  # canvas pixels an output pixel: above this bilinear sampling aliases
_MOST_SAMPLES = 8  # a side of the supersampled pixel


def apply(images: Tensor, plan: Plan, size: int, *, outside: Outside = "constant") -> Tensor:
    """Make one view of each image.

    Args:
        images: (B, C, C, 3) uint8 canvases.
        plan: what to do to each of them, on the same device.
        size: side of the views in pixels.
        outside: what lies beyond the canvas: the plan's fill, or the mirrored image.

    Returns:
        (B, 3, size, size) float32 in [0, 1].
    """
    count = max(1, _CHUNK // max(1, images[0].numel())) if len(images) else 1
    views = images.new_empty((len(images), 3, size, size), dtype=torch.float32)
    for first in range(0, len(images), count):
        part = slice(first, first + count)
        views[part] = _apply(images[part], plan[part], size, outside)
    return views


def _apply(images: Tensor, plan: Plan, size: int, outside: Outside) -> Tensor:
    views = warp(images, plan.matrix, size, outside)
    views = recolor(views, plan)
    fill = plan.fill[:, :, None, None]
    if outside == "constant" and len(rows := _reaching_out(plan.matrix)):
        cover = _cover(plan.matrix[rows], size)
        views[rows] = fill[rows] + cover * (views[rows] - fill[rows])
    if len(rows := _rows(plan.used("erase"))):
        box = _inside(plan.erase[rows], size)
        views[rows] = torch.where(box[:, None], fill[rows], views[rows])
    return views.clamp_(0.0, 255.0).div_(255.0)


def _rows(mask: Tensor) -> Tensor:
    return mask.nonzero()[:, 0]


def warp(images: Tensor, matrix: Tensor, size: int, outside: Outside = "constant") -> Tensor:
    """Sample canvases (B, C, C, 3) through matrices (B, 2, 3) to (B, 3, size, size), 0..255."""
    straight = (matrix[:, 0, 1] == 0) & (matrix[:, 1, 0] == 0)
    views = torch.empty(len(images), 3, size, size, device=images.device)
    if len(rows := _rows(straight)):
        views[rows] = _straight(images[rows], matrix[rows], size, outside)
    steps = matrix[:, :, :2].square().sum(dim=1).sqrt().amax(dim=1) * (images.shape[1] / size)
    samples = torch.where(steps > _BILINEAR_LIMIT, steps.ceil().clamp(max=_MOST_SAMPLES), 1.0)
    for count in torch.unique(samples[~straight]).int().tolist():
        rows = _rows(~straight & (samples == count))
        views[rows] = _slanted(images[rows], matrix[rows], size, count, outside)
    return views


def _straight(images: Tensor, matrix: Tensor, size: int, outside: Outside) -> Tensor:
    """Two matrices of antialiased weights."""
    canvas = images.shape[1]
    length = matrix.diagonal(dim1=1, dim2=2) * canvas
    start = (matrix[:, :, 2] + 1) * (canvas / 2) - length / 2
    weights = [
        _mirrored(canvas, size, start[:, axis], length[:, axis])
        if outside == "reflect"
        else resample.matrix(canvas, size, start[:, axis], length[:, axis])
        for axis in (0, 1)
    ]
    return resample.resize(_planes(images), rows=weights[1], columns=weights[0])


def _mirrored(canvas: int, size: int, start: Tensor, length: Tensor) -> Tensor:
    """Weights on a canvas that is continued by its mirror image on either side."""
    wide = resample.matrix(3 * canvas, size, start + canvas, length)
    before, inside, after = torch.split(wide, canvas, dim=2)
    return inside + before.flip(2) + after.flip(2)


def _slanted(images: Tensor, matrix: Tensor, size: int, samples: int, outside: Outside) -> Tensor:
    """Bilinear sampling with ``samples`` x ``samples`` points an output pixel."""
    fine = size * samples
    grid = F.affine_grid(matrix, [len(matrix), 3, fine, fine], align_corners=False)
    mode = "reflection" if outside == "reflect" else "border"
    views = F.grid_sample(_planes(images), grid, "bilinear", mode, align_corners=False)
    return views if samples == 1 else F.avg_pool2d(views, samples)


def _planes(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def _reaching_out(matrix: Tensor) -> Tensor:
    """The images whose view reaches beyond the canvas."""
    return _rows((matrix.abs().sum(dim=2) > 1 + 1e-5).any(dim=1))


def _cover(matrix: Tensor, size: int) -> Tensor:
    """(B, 1, size, size) the fraction of each output pixel that lies on the canvas."""
    centers = F.affine_grid(matrix, [len(matrix), 1, size, size], align_corners=False)
    half = (matrix[:, :, :2].abs().sum(dim=2) / size)[:, None, None]
    overlap = (centers + half).clamp(max=1.0) - (centers - half).clamp(min=-1.0)
    return (overlap / (2 * half)).clamp(0.0, 1.0).prod(dim=3)[:, None]


def _inside(box: Tensor, size: int) -> Tensor:
    """(B, size, size) bool: pixels whose centre lies in the box (B, 4) of output fractions."""
    centers = (torch.arange(size, device=box.device) + 0.5) / size
    x0, y0, x1, y1 = box[:, :, None].unbind(dim=1)
    columns = (centers >= x0) & (centers < x1)
    rows = (centers >= y0) & (centers < y1)
    return rows[:, :, None] & columns[:, None, :]


def recolor(pixels: Tensor, plan: Plan) -> Tensor:
    """Pass pixels (B, 3, H, W) of 0..255 through a plan's table, color, stencil and table2."""
    for name, change in (
        ("table", lookup),
        ("color", mix_channels),
        ("stencil", convolve),
        ("table2", lookup),
    ):
        if len(rows := _rows(plan.used(name))):
            pixels[rows] = change(pixels[rows], getattr(plan, name)[rows])
    return pixels


def lookup(pixels: Tensor, table: Tensor) -> Tensor:
    """Values of tables (B, 3, 256) at pixels (B, 3, H, W), linear between the grey levels."""
    values = pixels.flatten(2)
    below = values.long().clamp_(0, 254)
    low = table.gather(2, below)
    step = table.diff(dim=2).gather(2, below)
    return low.addcmul_(step, values - below).view_as(pixels)


def mix_channels(pixels: Tensor, color: Tensor) -> Tensor:
    """Channels of pixels (B, 3, H, W) mixed by matrices (B, 3, 3), clamped to 0..255."""
    return torch.bmm(color, pixels.flatten(2)).clamp_(0.0, 255.0).view_as(pixels)


def convolve(pixels: Tensor, stencil: Tensor) -> Tensor:
    """Channels of pixels (B, 3, H, W) correlated with stencils (B, 3, 3), clamped to 0..255.

    The outermost pixels are kept, as in Pillow and torchvision.
    """
    height, width = pixels.shape[2:]
    if height < 3 or width < 3:
        return pixels
    kernels = stencil.repeat_interleave(3, dim=0)[:, None]
    flat = F.conv2d(pixels.reshape(1, -1, height, width), kernels, groups=len(kernels))
    result = pixels.clone()
    result[:, :, 1:-1, 1:-1] = flat.view(-1, 3, height - 2, width - 2).clamp_(0.0, 255.0)
    return result
