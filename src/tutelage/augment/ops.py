"""Colour operations on grey levels, with torchvision's meanings.

Pointwise operations are functions of a table's values (B, C, 256); those on statistics also take
``counts`` (B, C, 256), the number of pixels at each table entry. Amounts are (B,), one per image.
Operations that are a matrix or a stencil are in ``extend``. How to add one: see the docstring of
``tutelage.augment``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as in Pillow and torchvision
TINY = 1e-3  # a table's value of 63.9999 is the grey level 64


def brightness(values: Tensor, factor: Tensor) -> Tensor:
    """Multiply by the factor: 0 is black, 1 the original."""
    return (values * factor[:, None, None]).clamp(0.0, 255.0)


def gamma(values: Tensor, exponent: Tensor) -> Tensor:
    """255 (v / 255)^exponent: below 1 lightens the shadows."""
    return (255.0 * (values / 255.0) ** exponent[:, None, None]).clamp(0.0, 255.0)


def invert(values: Tensor, amount: Tensor) -> Tensor:
    """The negative; the amount is not used."""
    return 255.0 - values


def posterize(values: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest ``bits`` of 8 bits."""
    step = (2.0 ** (8 - bits.round().clamp(0, 8)))[:, None, None]
    kept = ((values + TINY) / step).floor() * step
    return torch.where(step > 1, kept, values)


def solarize(values: Tensor, threshold: Tensor) -> Tensor:
    """Invert the grey levels at or above the threshold (0..255)."""
    return torch.where((values + TINY).floor() < threshold[:, None, None], values, 255.0 - values)


def contrast(values: Tensor, factor: Tensor, counts: Tensor) -> Tensor:
    """Away from (factor > 1) or towards the image's mean luma: 0 is flat grey.

    For an image of other than 3 channels, it is the mean of all channels.
    """
    # In double: backends add up in different orders, and should round to the same grey levels.
    doubles = values.double()
    means = (doubles * counts).sum(dim=2) / counts.sum(dim=2).clamp(min=1)
    channels = values.shape[1]
    weights = doubles.new_tensor(LUMA if channels == 3 else (1 / channels,) * channels)
    mean = (means * weights).sum(dim=1)[:, None, None]
    stretched = mean + factor[:, None, None] * (doubles - mean)
    return stretched.clamp(0.0, 255.0).to(values.dtype)


def autocontrast(values: Tensor, amount: Tensor, counts: Tensor) -> Tensor:
    """Stretch each channel from its darkest and lightest pixel to 0..255; keep a flat one."""
    low = values.masked_fill(counts == 0, math.inf).amin(dim=2, keepdim=True).double()
    high = values.masked_fill(counts == 0, -math.inf).amax(dim=2, keepdim=True).double()
    # In double, where it does not matter how a backend divides.
    stretched = ((values - low) * (255.0 / (high - low))).clamp(0.0, 255.0).to(values.dtype)
    return torch.where(high > low, stretched, values)


def equalize(values: Tensor, amount: Tensor, counts: Tensor) -> Tensor:
    """Flatten each channel's histogram by Pillow's rule (the lightest level is not counted)."""
    levels = (values + TINY).long()
    histogram = torch.zeros_like(levels).scatter_add(2, levels, counts.long())
    index = torch.arange(256, device=counts.device)
    lightest = (index * (histogram > 0)).amax(dim=2, keepdim=True)
    step = (histogram.sum(dim=2, keepdim=True) - histogram.gather(2, lightest)) // 255
    darker = histogram.cumsum(dim=2) - histogram
    flat = ((darker + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, flat.gather(2, levels).to(values.dtype), values)


POINTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
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
