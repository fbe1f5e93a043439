"""The reference: what a plan means, in plain torch, on any device, differentiable in the pixels.

Geometry samples the canvas once. A view without rotation or shear is made by two small matrices of
antialiased weights (``resample``); any other is sampled bilinearly, with several samples a pixel
where it minifies. The canvas ends at the outer edges of its pixels. A sample inside it continues
the border pixels; an output pixel that is partly outside is blended with the plan's fill by the
fraction that is outside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.augment import resample
from tutelage.augment.engine.colors import compile, inside, on_canvas, on_view
from tutelage.augment.plan import Plan

# Canvas values held as float at once: bounds memory, and is faster than one large pass on a CPU.
_CHUNK = 4_000_000
BILINEAR_LIMIT = 1.5  # canvas pixels per output pixel: above this bilinear sampling aliases
MOST_SAMPLES = 8  # along each side of an output pixel
POINT = 1e-12  # the least half side of what an output pixel covers of the canvas
NEARLY = 1e-4  # canvas pixels: a turned canvas's step of 2 may come out as 2.0000002


def render(
    images: Tensor, plan: Plan, size: tuple[int, int], scale: Sequence[float],
    shift: Sequence[float], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Views (B, C, h, w) of canvases (B, H, W, C) uint8 or float of 0..255; see ``apply``."""
    batch, channels = len(images), images.shape[3]
    count = max(1, _CHUNK // max(1, images[0].numel())) if batch else 1
    parts = [
        _render(images[first : first + count], plan[first : first + count], size)
        for first in range(0, batch, count)
    ]
    views = torch.cat(parts) if parts else torch.empty(0, channels, *size, device=images.device)
    if dtype == torch.uint8:
        return views.round().to(torch.uint8)
    factor, term = (views.new_tensor(part)[:, None, None] for part in (scale, shift))
    return torch.addcmul(term, views, factor).to(dtype)


def _render(images: Tensor, plan: Plan, size: tuple[int, int]) -> Tensor:
    """Views (B, C, h, w) float32 of 0..255."""
    tables = compile(plan, images)
    pixels = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    pixels = on_canvas(pixels, plan, tables, levels=images.dtype == torch.uint8)
    views = on_view(warp(pixels, plan.matrix, size), plan, tables)
    fill = plan.fill if views.shape[1] == 3 else plan.fill.mean(dim=1, keepdim=True)
    fill = fill.expand(-1, views.shape[1])[:, :, None, None]
    if len(rows := _rows(reaching_out(plan.matrix))):
        covered = _cover(plan.matrix[rows], size)
        views = views.index_copy(0, rows, torch.lerp(fill[rows], views[rows], covered))
    return torch.where(inside(plan.erase, size)[:, None], fill, views).clamp(0.0, 255.0)


def _rows(mask: Tensor) -> Tensor:
    return mask.nonzero()[:, 0]


def reaching_out(matrix: Tensor) -> Tensor:
    """(B,) bool: the views that reach beyond the canvas."""
    ends = matrix[:, :, 0].abs() + matrix[:, :, 1].abs() + matrix[:, :, 2].abs()
    return (ends[:, 0] > 1 + 1e-5) | (ends[:, 1] > 1 + 1e-5)


def straight(matrix: Tensor) -> Tensor:
    """(B,) bool: the views made by two small matrices of antialiased weights."""
    return (matrix[:, 0, 1] == 0) & (matrix[:, 1, 0] == 0)


def samples(matrix: Tensor, canvas: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(B,) int: samples along each side of an output pixel, 1 unless the view minifies."""
    # Written out: with threads, torch's sums over small tensors take milliseconds.
    steps = [
        ((matrix[:, 0, axis] * canvas[1]) ** 2 + (matrix[:, 1, axis] * canvas[0]) ** 2).sqrt()
        / size[1 - axis]
        for axis in (0, 1)
    ]
    step = torch.maximum(*steps) - NEARLY
    return torch.where(step > BILINEAR_LIMIT, step.ceil().clamp(max=MOST_SAMPLES), 1.0).int()


def warp(pixels: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """Sample pixels (B, C, H, W) through matrices (B, 2, 3) to (B, C, h, w)."""
    views = pixels.new_empty(len(pixels), pixels.shape[1], *size)
    upright = straight(matrix)
    if len(rows := _rows(upright)):
        views = views.index_copy(0, rows, _straight(pixels[rows], matrix[rows], size))
    side = samples(matrix, (pixels.shape[2], pixels.shape[3]), size)
    for count in torch.unique(side[~upright]).tolist():
        rows = _rows(~upright & (side == count))
        some = _slanted(pixels[rows], matrix[rows], size, count)
        views = views.index_copy(0, rows, some)
    return views


def _straight(pixels: Tensor, matrix: Tensor, size: tuple[int, int]) -> Tensor:
    matrix = matrix.double()  # see _slanted
    weights = []
    for axis, line in ((0, pixels.shape[3]), (1, pixels.shape[2])):
        length = matrix[:, axis, axis] * line
        start = (matrix[:, axis, 2] + 1) * (line / 2) - length / 2
        rows = resample.matrix(line, size[1 - axis], start, length)
        # Far outside, no pixel lies under the triangle: the border continues, as in _slanted.
        steps = torch.arange(size[1 - axis], device=matrix.device) + 0.5
        centers = start[:, None] + steps * (length / size[1 - axis])[:, None]
        outside = rows.sum(dim=2) == 0
        rows[:, :, 0] += outside & (centers < 0)
        rows[:, :, -1] += outside & (centers > 0)
        weights.append(rows.float())
    return resample.resize(pixels, rows=weights[1], columns=weights[0])


def _slanted(pixels: Tensor, matrix: Tensor, size: tuple[int, int], count: int) -> Tensor:
    """Bilinear sampling with ``count`` x ``count`` points per output pixel."""
    height, width = pixels.shape[2:]
    # Coordinates in double: a table after a stencil would multiply their error.
    grid = F.affine_grid(
        matrix.double(), [len(matrix), 1, size[0] * count, size[1] * count], align_corners=False
    )
    x, y = ((grid + 1) * grid.new_tensor([width / 2, height / 2]) - 0.5).unbind(dim=3)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.long().clamp(max=max(0, width - 2)), y.long().clamp(max=max(0, height - 2))
    flat = pixels.flatten(2)
    right, below = min(1, width - 1), width * min(1, height - 1)

    def at(offset: int) -> Tensor:
        index = (top * width + left + offset).flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        return flat.gather(2, index).view(*flat.shape[:2], *x.shape[1:])

    across, down = (x - left).float()[:, None], (y - top).float()[:, None]
    upper = torch.lerp(at(0), at(right), across)
    lower = torch.lerp(at(below), at(below + right), across)
    views = torch.lerp(upper, lower, down)
    return views if count == 1 else F.avg_pool2d(views, count)


def _cover(matrix: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, h, w) the fraction of each output pixel that lies on the canvas."""
    centers = F.affine_grid(matrix, [len(matrix), 1, *size], align_corners=False)
    pixel = matrix.new_tensor([size[1], size[0]])
    half = (matrix[:, :, :2].abs() / pixel).sum(dim=2)[:, None, None].clamp(min=POINT)
    overlap = (centers + half).clamp(max=1.0) - (centers - half).clamp(min=-1.0)
    return (overlap / (2 * half)).clamp(0.0, 1.0).prod(dim=3)[:, None]
