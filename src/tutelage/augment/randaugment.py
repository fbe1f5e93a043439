"""Policies that draw operations of colour and geometry, and their strengths."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from tutelage.augment import extend
from tutelage.augment.extend import Real, Whole
from tutelage.augment.plan import Plan
from tutelage.augment.policy import Flags, Policy, RandomErasing, Still, Weak, draw
from tutelage.system.errors import TutelageError


class Scale(NamedTuple):
    """The amount of an operation at a magnitude m in [0, 1]: base + slope * m."""

    base: float = 0.0
    slope: float = 1.0
    signed: bool = False  # the slope has a random sign
    exponential: bool = False  # the amount is e to the power of that


Space = dict[str, Scale]


def _space(shear: float, translate: float, degrees: float, blend: float, bits: int) -> Space:
    """The 14 operations of RandAugment, with the largest changes that are given."""
    around_one = Scale(1.0, blend, signed=True)
    return {
        "identity": Scale(),
        "shear_x": Scale(0.0, shear, signed=True),
        "shear_y": Scale(0.0, shear, signed=True),
        "translate_x": Scale(0.0, translate, signed=True),
        "translate_y": Scale(0.0, translate, signed=True),
        "rotate": Scale(0.0, degrees, signed=True),
        "brightness": around_one,
        "saturation": around_one,
        "contrast": around_one,
        "sharpness": around_one,
        "posterize": Scale(8.0, -bits),  # the operation rounds it to whole bits
        "solarize": Scale(255.0, -255.0),
        "autocontrast": Scale(),
        "equalize": Scale(),
    }


# torchvision's spaces. Its TrivialAugment moves by up to 32 pixels at any size; here it is the
# fraction of the view that this is at 224 pixels.
_RANDAUGMENT = _space(shear=0.3, translate=150 / 331, degrees=30, blend=0.9, bits=4)
_TRIVIAL = _space(shear=0.99, translate=32 / 224, degrees=135, blend=0.99, bits=6)
_MORE: Space = {
    "gamma": Scale(0.0, math.log(2), signed=True, exponential=True),
    "invert": Scale(),
    "blur": Scale(0.0, 1.0),
    "scale": Scale(0.0, math.log(1.5), signed=True, exponential=True),
    "hflip": Scale(),
    "vflip": Scale(),
}

RANDAUGMENT = tuple(_RANDAUGMENT)
"""The paper's operations, from which RandAugment draws by default."""
STRENGTHS = 31  # of each operation, counted from 0


@dataclass(frozen=True)
class RandAugment(Policy):
    """RandAugment (Cubuk et al. 2020, arXiv:1909.13719) with torchvision's magnitudes.

    Attributes:
        num_ops: operations per image, drawn with replacement.
        magnitude: strength of every operation, 0 to 30.
        magnitude_std: standard deviation of the strength, as in timm; 0 is the paper's.
        operations: names to draw from: the paper's, gamma, invert, blur, scale, hflip, vflip.
        view: the crop and flip before it.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    operations: tuple[str, ...] = RANDAUGMENT
    view: Policy = field(default_factory=Still)

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``. An unknown name in ``operations`` is refused."""
        space = _space_of(self.operations)
        start = self.view.plan(aspect, generator, ratio)
        draws = draw(generator, len(aspect), self.num_ops, 2)
        noise = torch.randn(len(aspect), self.num_ops, generator=generator).numpy()
        strength = (self.magnitude + self.magnitude_std * noise) / (STRENGTHS - 1)
        choice = _pick(draws[:, :, 0], len(space))
        return _extend(start, space, choice, strength.clip(0, 1), draws[:, :, 1] < 0.5, ratio)


@dataclass(frozen=True)
class TrivialAugment(Policy):
    """TrivialAugment Wide (Müller and Hutter 2021, arXiv:2103.10158): one operation, any strength.

    ``view`` is the crop and flip before it.
    """

    view: Policy = field(default_factory=Still)

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``."""
        start = self.view.plan(aspect, generator, ratio)
        draws = draw(generator, len(aspect), 1, 3)
        strength = (_pick(draws[:, :, 0], STRENGTHS) / (STRENGTHS - 1)).astype(np.float32)
        choice = _pick(draws[:, :, 1], len(_TRIVIAL))
        return _extend(start, _TRIVIAL, choice, strength, draws[:, :, 2] < 0.5, ratio)


@dataclass(frozen=True)
class Strong(Policy):
    """A wide crop, RandAugment and an erased box: the view that a student learns from.

    ``augment`` is crop, flip and operations, ``erase`` the probability of erasing a box.
    """

    augment: Policy = field(default_factory=lambda: RandAugment(view=Weak(scale=(0.35, 1.0))))
    erase: float = 0.25

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``."""
        erasing = RandomErasing(self.erase, scale=(0.02, 0.25), fill=None, view=self.augment)
        return erasing.plan(aspect, generator, ratio)


def _pick(draws: Real, count: int) -> Whole:
    """Whole numbers below ``count``, all equally likely."""
    return (draws * count).astype(np.int64)


def _space_of(names: tuple[str, ...]) -> Space:
    known = _RANDAUGMENT | _MORE
    if unknown := [name for name in names if name not in known]:
        raise TutelageError(f"no operation is named {unknown}; there are: {', '.join(known)}")
    return {name: known[name] for name in names}


def _extend(
    plan: Plan, space: Space, choice: Whole, strength: Real, negative: Flags, ratio: float
) -> Plan:
    """A plan with the chosen operations at its end.

    ``choice`` (B, N) holds positions in the space, ``strength`` (B, N) magnitudes in [0, 1], and
    ``negative`` (B, N) the direction of operations that have two.
    """
    if not space or not choice.shape[1]:
        return plan
    scales = _table(tuple(space.values()))[choice]
    base, slope, signed, exponential = np.moveaxis(scales, 2, 0)
    amounts = base + slope * strength * (1 - 2 * signed * negative)
    if exponential.any():
        np.exp(amounts, out=amounts, where=exponential > 0)
    return extend.extend(plan, tuple(space), choice, amounts, ratio)


@cache
def _table(scales: tuple[Scale, ...]) -> Real:
    return np.array(scales, np.float32)
