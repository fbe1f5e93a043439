"""The colour half of the reference: a plan's operations as tables, and pixels sent through them.

An image passes through ``before -> color -> between`` on the canvas, is warped, and then passes
through ``stencil -> after`` on the view; a part that is not used is the identity. The mixer
``color`` and the stencil come with the plan. The three tables are compiled here, because operations
on statistics have to look at the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.augment import ops
from tutelage.augment.plan import BLUR, COLOR_OPS, SATURATION, SHARPNESS, Plan
from tutelage.system.errors import TutelageError


@dataclass(frozen=True, eq=False)
class Tables:
    """New values (B, C, 256) of the grey levels of B images of C channels.

    ``before`` applies before the canvas's channels are mixed, ``between`` applies between that and
    the warp, and ``after`` applies after the view's stencil.
    """

    before: Tensor
    between: Tensor
    after: Tensor


def compile(plan: Plan, images: Tensor) -> Tables:
    """Compose the operations that are tables, image by image and in their order.

    The statistics are those of the canvases (B, H, W, C), uint8 or float of 0..255.
    """
    channels = images.shape[3]
    if channels != 3 and (plan.ops == SATURATION).any():
        raise TutelageError(
            f"saturation needs images of 3 channels, these have {channels}; leave it out of the "
            "policy's operations"
        )
    levels = torch.arange(256.0, device=images.device).expand(len(plan), channels, 256)
    tables = Tables(levels.clone(), levels.clone(), levels.clone())
    stage = torch.zeros(len(plan), dtype=torch.int64, device=images.device)
    for codes, amounts in zip(plan.ops.T, plan.amounts.T, strict=True):
        for number in torch.unique(codes).tolist():
            rows = (codes == number).nonzero()[:, 0]
            if number == SATURATION:
                stage[rows] = stage[rows].clamp(min=1)
            elif number in (SHARPNESS, BLUR):
                stage[rows] = 2
            elif number:
                _append(tables, stage, COLOR_OPS[number], amounts[rows], rows, plan, images)
    return tables


def _append(
    tables: Tables, stage: Tensor, name: str, amount: Tensor, rows: Tensor,
    plan: Plan, images: Tensor,
) -> None:  # fmt: skip
    """Add one operation to the table of each image's stage; changes the tables."""
    for number, table in enumerate((tables.before, tables.between, tables.after)):
        at = stage[rows] == number
        some = rows[at]
        if len(some) and name in ops.POINTWISE:
            table[some] = ops.POINTWISE[name](table[some], amount[at])
        elif len(some):
            part = Tables(tables.before[some], tables.between[some], tables.after[some])
            seen = _so_far(images[some], plan[some], part, number)
            counts = count_levels(seen, plan.window[some])
            table[some] = ops.STATISTIC[name](table[some], amount[at], counts)


def count_levels(images: Tensor, window: Tensor) -> Tensor:
    """(B, C, 256) float numbers of pixels at each grey level, inside the windows of canvases."""
    batch, height, width, channels = images.shape
    bins = torch.arange(batch * channels, device=images.device).view(batch, 1, 1, channels)
    levels = images.detach().round().long()
    found = (levels + bins * 256)[inside(window, (height, width))].flatten()
    counts = torch.bincount(found, minlength=256 * batch * channels)
    return counts.view(batch, channels, 256).to(torch.float32)


def inside(box: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h, w) bool: pixels whose centre lies in the box (B, 4) of fractions."""
    down = (torch.arange(size[0], device=box.device) + 0.5) / size[0]
    across = (torch.arange(size[1], device=box.device) + 0.5) / size[1]
    x0, y0, x1, y1 = box[:, :, None].unbind(dim=1)
    columns, rows = (across >= x0) & (across < x1), (down >= y0) & (down < y1)
    return rows[:, :, None] & columns[:, None, :]


def _so_far(images: Tensor, plan: Plan, tables: Tables, stage: int) -> Tensor:
    """The canvases (B, H, W, C) as they arrive at the stage's table, in grey levels."""
    if stage == 0:
        return images
    pixels = images.permute(0, 3, 1, 2).to(torch.float32)
    if stage == 1:
        levels = torch.arange(256.0, device=images.device).expand_as(tables.between)
        return on_canvas(pixels, plan, replace(tables, between=levels)).permute(0, 2, 3, 1)
    pixels = convolve(on_canvas(pixels, plan, tables), plan.stencil)
    return pixels.round().permute(0, 2, 3, 1)


def on_canvas(pixels: Tensor, plan: Plan, tables: Tables, *, levels: bool = True) -> Tensor:
    """Pixels (B, C, H, W) of 0..255 as the warp sees them; ``levels`` rounds to grey levels.

    An 8-bit pipeline rounds as well, and rounding lets the backends agree: otherwise a value next
    to a step of a later table could fall on either side of it.
    """
    exact = torch.round if levels else torch.clone
    pixels = exact(lookup(pixels, tables.before))
    if pixels.shape[1] == 3:
        pixels = exact(mix(pixels, plan.color))
    return exact(lookup(pixels, tables.between))


def on_view(pixels: Tensor, plan: Plan, tables: Tables) -> Tensor:
    """Views (B, C, H, W) of 0..255 after the warp."""
    return lookup(convolve(pixels, plan.stencil), tables.after)


def lookup(pixels: Tensor, table: Tensor) -> Tensor:
    """Values of tables (B, C, 256) at pixels (B, C, H, W), linear between the grey levels."""
    values = pixels.flatten(2)
    below = values.detach().long().clamp_(0, 255)
    low = table.gather(2, below)
    step = F.pad(table.diff(dim=2), (0, 1)).gather(2, below)
    return torch.addcmul(low, step, values - below).view_as(pixels)


def mix(pixels: Tensor, color: Tensor) -> Tensor:
    """Channels of pixels (B, 3, H, W) mixed by matrices (B, 3, 3), clamped to 0..255."""
    # Written out, because a GPU may compute a matrix product with ten bits (TF32).
    parts = [pixels[:, None, c] * color[:, :, c, None, None] for c in range(3)]
    return (parts[0] + parts[1] + parts[2]).clamp(0.0, 255.0)


def convolve(pixels: Tensor, stencil: Tensor) -> Tensor:
    """Channels of pixels (B, C, H, W) correlated with stencils (B, 3, 3), clamped to 0..255.

    The outermost pixels are kept, as in Pillow and torchvision.
    """
    batch, channels, height, width = pixels.shape
    used = stencil[:, 1, 1] != 1
    if height < 3 or width < 3 or not used.any():
        return pixels
    kernels = stencil.repeat_interleave(channels, dim=0)[:, None]
    flat = F.conv2d(pixels.reshape(1, -1, height, width), kernels, groups=len(kernels))
    inner = flat.view(batch, channels, height - 2, width - 2).clamp(0.0, 255.0)
    border = torch.ones(height, width, dtype=torch.bool, device=pixels.device)
    border[1:-1, 1:-1] = False
    keep = border | ~used[:, None, None, None]
    return torch.where(keep, pixels, F.pad(inner, (1, 1, 1, 1)))
