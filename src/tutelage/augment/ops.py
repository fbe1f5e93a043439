"""Operations, with torchvision's names and meanings, and how each one enters a plan.

Geometry is a 3x3 matrix from output to input coordinates of the square view (x, y in [-1, 1]).
Pointwise colour is a function of the current table's values (B, 3, 256); an operation on
statistics also takes ``counts`` (B, 3, 256), the number of pixels at each table entry. Amounts are
(B,) tensors, one an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tutelage.augment.apply import recolor
from tutelage.augment.plan import Plan
from tutelage.errors import TutelageError

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as in Pillow and torchvision
_TINY = 1e-3  # a table's value of 63.9999 is the grey level 64


def _affine(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    """(B, 3, 3) matrices from two rows of numbers or (B,) tensors."""
    columns = [
        torch.as_tensor(value, device=like.device).expand_as(like) for row in rows for value in row
    ]
    last = [torch.zeros_like(like), torch.zeros_like(like), torch.ones_like(like)]
    return torch.stack([*columns, *last], dim=1).view(-1, 3, 3)


def rotate(degrees: Tensor) -> Tensor:
    """Turn the view counter-clockwise about its centre."""
    cos, sin = (degrees * (math.pi / 180)).cos(), (degrees * (math.pi / 180)).sin()
    return _affine([[cos, -sin, 0.0], [sin, cos, 0.0]], degrees)


def shear_x(tangent: Tensor) -> Tensor:
    """Shift rows against each other; the top row stays (as in RandAugment)."""
    return _affine([[1.0, tangent, tangent], [0.0, 1.0, 0.0]], tangent)


def shear_y(tangent: Tensor) -> Tensor:
    """Shift columns against each other; the left column stays (as in RandAugment)."""
    return _affine([[1.0, 0.0, 0.0], [tangent, 1.0, tangent]], tangent)


def translate_x(fraction: Tensor) -> Tensor:
    """Move the content right by a fraction of the view's width."""
    return _affine([[1.0, 0.0, -2 * fraction], [0.0, 1.0, 0.0]], fraction)


def translate_y(fraction: Tensor) -> Tensor:
    """Move the content down by a fraction of the view's height."""
    return _affine([[1.0, 0.0, 0.0], [0.0, 1.0, -2 * fraction]], fraction)


def scale(factor: Tensor) -> Tensor:
    """Magnify the content about the centre."""
    return _affine([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]], factor)


def hflip(amount: Tensor) -> Tensor:
    """Mirror left and right; the amount (B,) only says how many images."""
    return _affine([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], amount)


def vflip(amount: Tensor) -> Tensor:
    """Mirror top and bottom; the amount (B,) only says how many images."""
    return _affine([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], amount)


def crop(box: Tensor) -> Tensor:
    """Show the box (B, 4) of x0, y0, width, height in fractions; beyond [0, 1] it pads."""
    x0, y0, width, height = box.unbind(dim=1)
    return _affine(
        [[width, 0.0, 2 * x0 + width - 1], [0.0, height, 2 * y0 + height - 1]],
        x0,
    )


def identity(values: Tensor, amount: Tensor) -> Tensor:
    """Nothing; part of RandAugment's space."""
    return values


def brightness(values: Tensor, factor: Tensor) -> Tensor:
    """Multiply by the factor: 0 is black, 1 the original."""
    return (values * factor[:, None, None]).clamp(0.0, 255.0)


def gamma(values: Tensor, exponent: Tensor) -> Tensor:
    """255 (v / 255)^exponent: below 1 lightens the shadows."""
    return 255.0 * (values / 255.0) ** exponent[:, None, None]


def invert(values: Tensor, amount: Tensor) -> Tensor:
    """The negative."""
    return 255.0 - values


def posterize(values: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest ``bits`` of 8 bits."""
    step = (2.0 ** (8 - bits))[:, None, None]
    kept = ((values + _TINY) / step).floor() * step
    return torch.where(step > 1, kept, values)


def solarize(values: Tensor, threshold: Tensor) -> Tensor:
    """Invert the grey levels at or above the threshold (0..255)."""
    return torch.where((values + _TINY).floor() < threshold[:, None, None], values, 255.0 - values)


def contrast(values: Tensor, factor: Tensor, counts: Tensor) -> Tensor:
    """Away from (factor > 1) or towards the image's mean luma: 0 is flat grey."""
    luma = torch.tensor(_LUMA, device=values.device)
    means = (values * counts).sum(dim=2) / counts.sum(dim=2).clamp(min=1)
    mean = (means * luma).sum(dim=1)[:, None, None]
    return (mean + factor[:, None, None] * (values - mean)).clamp(0.0, 255.0)


def autocontrast(values: Tensor, amount: Tensor, counts: Tensor) -> Tensor:
    """Stretch each channel from its darkest and lightest pixel to 0..255; a flat one is kept."""
    low = values.masked_fill(counts == 0, math.inf).amin(dim=2, keepdim=True)
    high = values.masked_fill(counts == 0, -math.inf).amax(dim=2, keepdim=True)
    stretched = (values - low) * (255.0 / (high - low))
    return torch.where(high > low, stretched, values).clamp(0.0, 255.0)


def equalize(values: Tensor, amount: Tensor, counts: Tensor) -> Tensor:
    """Make each channel's histogram flat, by Pillow's rule (the lightest level is not counted)."""
    levels = (values + _TINY).long()
    histogram = torch.zeros_like(counts).scatter_add(2, levels, counts)
    index = torch.arange(256, device=counts.device)
    lightest = (index * (histogram > 0)).amax(dim=2, keepdim=True)
    others = histogram.sum(dim=2, keepdim=True) - histogram.gather(2, lightest)
    step = (others / 255).floor()
    darker = histogram.cumsum(dim=2) - histogram
    flat = ((darker + (step / 2).floor()) / step.clamp(min=1)).floor().clamp(0, 255)
    return torch.where(step > 0, flat.gather(2, levels), values)


def saturation(factor: Tensor) -> Tensor:
    """(B, 3, 3) channel mixer: 0 is greyscale, 1 the original (``Color`` in RandAugment)."""
    grey = torch.tensor(_LUMA, device=factor.device).expand(3, 3)
    part = factor[:, None, None]
    return part * torch.eye(3, device=factor.device) + (1 - part) * grey


def sharpness(factor: Tensor) -> Tensor:
    """(B, 3, 3) stencil: 0 is smoothed by [1 1 1; 1 5 1; 1 1 1] / 13, 1 the original."""
    blur = torch.ones(3, 3, device=factor.device)
    blur[1, 1] = 5.0
    still = torch.zeros(3, 3, device=factor.device)
    still[1, 1] = 1.0
    part = factor[:, None, None]
    return part * still + (1 - part) * blur / 13.0


GEOMETRY: dict[str, Callable[[Tensor], Tensor]] = {
    "rotate": rotate,
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "scale": scale,
    "hflip": hflip,
    "vflip": vflip,
}
POINTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": identity,
    "brightness": brightness,
    "gamma": gamma,
    "invert": invert,
    "posterize": posterize,
    "solarize": solarize,
}
STATISTIC: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "contrast": contrast,
    "autocontrast": autocontrast,
    "equalize": equalize,
}
NAMES = (*GEOMETRY, *POINTWISE, *STATISTIC, "saturation", "sharpness")


def append(
    plan: Plan, name: str, amount: Tensor, rows: Tensor, images: Tensor, window: Tensor
) -> None:
    """Add one operation after those a plan has, for some of its images; changes the plan.

    Two operations always compile in their order, up to clamping between a saturation and a
    sharpness, which otherwise commute. Of three or more, a saturation or sharpness that follows
    a colour operation that itself follows one is carried out before it; two sharpness
    multiply their strengths.

    Args:
        plan: the plan so far.
        name: one of ``NAMES``.
        amount: (n,) the strength for each of the rows; its meaning is the operation's.
        rows: (n,) which images.
        images: (B, C, C, 3) uint8 canvases; only operations on statistics look at them.
        window: (B, 4) box x0, y0, x1, y1 in canvas fractions whose pixels count as the image.

    Raises:
        TutelageError: no operation has that name.
    """
    if name in GEOMETRY:
        plan.matrix[rows] = compose(plan.matrix[rows], GEOMETRY[name](amount))
    elif name == "saturation":
        plan.color[rows] = saturation(amount) @ plan.color[rows]
    elif name == "sharpness":
        before = 1 - 13 * plan.stencil[rows, 0, 0]
        plan.stencil[rows] = sharpness(amount * before)
    elif name in POINTWISE or name in STATISTIC:
        _append_pointwise(plan, name, amount, rows, images, window)
    else:
        raise TutelageError(f"no operation is named '{name}'; there are: {', '.join(NAMES)}")


def compose(matrix: Tensor, further: Tensor) -> Tensor:
    """The matrix (B, 2, 3) of a view made by ``matrix``, then warped by ``further`` (B, 3, 3)."""
    result = matrix[:, :, :2] @ further[:, :2]
    result[:, :, 2] += matrix[:, :, 2]
    return result


def _append_pointwise(
    plan: Plan, name: str, amount: Tensor, rows: Tensor, images: Tensor, window: Tensor
) -> None:
    part = plan[rows]
    late = part.used("color") | part.used("stencil")
    values = torch.where(late[:, None, None], part.table2, part.table)
    if name in POINTWISE:
        changed = POINTWISE[name](values, amount)
    else:
        counts = count_levels(images[rows], window[rows])
        if late.any():
            seen = _second_look(images[rows[late]], part[late])
            counts[late] = count_levels(seen, window[rows[late]])
        changed = STATISTIC[name](values, amount, counts)
    plan.table[rows] = torch.where(late[:, None, None], part.table, changed)
    plan.table2[rows] = torch.where(late[:, None, None], changed, part.table2)


def count_levels(images: Tensor, window: Tensor) -> Tensor:
    """(B, 3, 256) float: pixels at each grey level inside the window of canvases (B, C, C, 3)."""
    batch, canvas = images.shape[:2]
    centers = (torch.arange(canvas, device=images.device) + 0.5) / canvas
    x0, y0, x1, y1 = window[:, :, None].unbind(dim=1)
    columns = (centers >= x0) & (centers < x1)
    rows = (centers >= y0) & (centers < y1)
    inside = rows[:, :, None] & columns[:, None, :]
    bins = torch.arange(3 * batch, device=images.device, dtype=torch.int32).view(batch, 1, 1, 3)
    found = (images + bins * 256)[inside].flatten()
    return torch.bincount(found, minlength=768 * batch).view(batch, 3, 256).to(torch.float32)


def _second_look(images: Tensor, plan: Plan) -> Tensor:
    """The canvases as they are before ``table2``, rounded to grey levels."""
    pixels = recolor(images.permute(0, 3, 1, 2).to(torch.float32), _without_table2(plan))
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1)


def _without_table2(plan: Plan) -> Plan:
    return Plan(**{**plan.tensors(), "table2": Plan.identity(len(plan), plan.table.device).table2})
