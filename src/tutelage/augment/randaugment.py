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
from tutelage.augment.policy import Flags, Policy, RandomErasing, Range, Still, Weak, draw
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
    "hue": Scale(0.0, 0.5, signed=True),
    "gamma": Scale(0.0, math.log(2), signed=True, exponential=True),
    "invert": Scale(),
    "blur": Scale(0.0, 1.0),
    "scale": Scale(0.0, math.log(1.5), signed=True, exponential=True),
    "hflip": Scale(),
    "vflip": Scale(),
}

RANDAUGMENT = tuple(_RANDAUGMENT)
"""The paper's operations, from which RandAugment draws by default."""


@dataclass(frozen=True)
class RandAugment(Policy):
    """RandAugment (Cubuk et al. 2020, arXiv:1909.13719) with torchvision's magnitudes.

    Attributes:
        num_ops: operations per image, drawn with replacement.
        magnitude: strength of every operation, 0 to ``num_magnitude_bins`` - 1.
        magnitude_std: standard deviation of the strength, as in timm; 0 is the paper's.
        num_magnitude_bins: number of strengths, counted from 0.
        operations: names to draw from: the paper's, hue, gamma, invert, blur, scale, hflip, vflip.
        view: the crop and flip before it.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    num_magnitude_bins: int = 31
    operations: tuple[str, ...] = RANDAUGMENT
    view: Policy = field(default_factory=Still)

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``. An unknown name in ``operations`` is refused."""
        space = _space_of(self.operations)
        start = self.view.plan(aspect, generator, ratio)
        draws = draw(generator, len(aspect), self.num_ops, 2)
        noise = torch.randn(len(aspect), self.num_ops, generator=generator).numpy()
        strength = (self.magnitude + self.magnitude_std * noise) / (self.num_magnitude_bins - 1)
        choice = _pick(draws[:, :, 0], len(space))
        return _extend(start, space, choice, strength.clip(0, 1), draws[:, :, 1] < 0.5, ratio)


@dataclass(frozen=True)
class TrivialAugment(Policy):
    """TrivialAugment Wide (Müller and Hutter 2021, arXiv:2103.10158): one operation, any strength.

    There are ``num_magnitude_bins`` strengths; ``view`` is the crop and flip before it.
    """

    num_magnitude_bins: int = 31
    view: Policy = field(default_factory=Still)

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``."""
        start = self.view.plan(aspect, generator, ratio)
        draws = draw(generator, len(aspect), 1, 3)
        bins = self.num_magnitude_bins
        strength = (_pick(draws[:, :, 0], bins) / (bins - 1)).astype(np.float32)
        choice = _pick(draws[:, :, 1], len(_TRIVIAL))
        return _extend(start, _TRIVIAL, choice, strength, draws[:, :, 2] < 0.5, ratio)


# Names, probabilities and magnitudes (0 to 9) of the policies found for ImageNet and CIFAR-10
# (the paper's tables 9 and 7). The magnitude of an operation that has none is 0.
_FOUND: dict[str, str] = {
    "imagenet": """
        posterize .4 8 rotate .6 9, solarize .6 5 autocontrast .6 0, equalize .8 0 equalize .6 0,
        posterize .6 7 posterize .6 6, equalize .4 0 solarize .2 4, equalize .4 0 rotate .8 8,
        solarize .6 3 equalize .6 0, posterize .8 5 equalize 1 0, rotate .2 3 solarize .6 8,
        equalize .6 0 posterize .4 6, rotate .8 8 saturation .4 0, rotate .4 9 equalize .6 0,
        equalize 0 0 equalize .8 0, invert .6 0 equalize 1 0, saturation .6 4 contrast 1 8,
        rotate .8 8 saturation 1 2, saturation .8 8 solarize .8 7, sharpness .4 7 invert .6 0,
        shear_x .6 5 equalize 1 0, saturation .4 0 equalize .6 0, equalize .4 0 solarize .2 4,
        solarize .6 5 autocontrast .6 0, invert .6 0 equalize 1 0, saturation .6 4 contrast 1 8,
        equalize .8 0 equalize .6 0
    """,
    "cifar10": """
        invert .1 0 contrast .2 6, rotate .7 2 translate_x .3 9, sharpness .8 1 sharpness .9 3,
        shear_y .5 8 translate_y .7 9, autocontrast .5 0 equalize .9 0, shear_y .2 7 posterize .3 7,
        saturation .4 3 brightness .6 7, sharpness .3 9 brightness .7 9,
        equalize .6 0 equalize .5 0, contrast .6 7 sharpness .6 5, saturation .7 7 translate_x .5 8,
        equalize .3 0 autocontrast .4 0, translate_y .4 3 sharpness .2 6,
        brightness .9 6 saturation .2 8, solarize .5 2 invert 0 0, equalize .2 0 autocontrast .6 0,
        equalize .2 0 equalize .6 0, saturation .9 9 equalize .6 0, autocontrast .8 0 solarize .2 8,
        brightness .1 3 saturation .7 0, solarize .4 5 autocontrast .9 0,
        translate_y .9 9 translate_y .7 9, autocontrast .9 0 solarize .8 3,
        equalize .8 0 invert .1 0, translate_y .7 9 autocontrast .9 0
    """,
}
_AUTO: Space = {**_RANDAUGMENT, "invert": Scale()}


@cache
def _found(name: str) -> tuple[Whole, Real]:
    """Positions in ``_AUTO`` (P, 2), and probability and strength in [0, 1] (P, 2, 2)."""
    words = [line.split() for line in _FOUND[name].split(",")]
    names = list(_AUTO)
    choice = [[names.index(line[0]), names.index(line[3])] for line in words]
    numbers = [[[float(line[i]), float(line[i + 1]) / 9] for i in (1, 4)] for line in words]
    return np.array(choice), np.array(numbers, np.float32)


@dataclass(frozen=True)
class AutoAugment(Policy):
    """AutoAugment (Cubuk et al. 2019, arXiv:1805.09501): one of 25 fixed pairs of operations.

    ``policy`` is "imagenet" or "cifar10", the data set that the pairs were found for; ``view`` is
    the crop and flip before them.
    """

    policy: str = "imagenet"
    view: Policy = field(default_factory=Still)

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``. A policy that there is not is refused."""
        if self.policy not in _FOUND:
            raise TutelageError(
                f"no AutoAugment policy is named '{self.policy}'; there are: {', '.join(_FOUND)}"
            )
        start = self.view.plan(aspect, generator, ratio)
        draws = draw(generator, len(aspect), 5)
        choices, numbers = _found(self.policy)
        pair = _pick(draws[:, 0], len(choices))
        chance, strength = np.moveaxis(numbers[pair], 2, 0)
        choice = np.where(draws[:, 1:3] < chance, choices[pair], 0)  # 0 is the identity
        return _extend(start, _AUTO, choice, strength, draws[:, 3:5] < 0.5, ratio)


@dataclass(frozen=True)
class ColorJitter(Policy):
    """Brightness, contrast, saturation and hue in a random order, each by a uniform draw.

    The first three are factors at most so far from 1, and hue at most so many turns of the colour
    circle. Saturation and hue need 3 channels. ``view`` is the crop and flip before them.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    view: Policy = field(default_factory=Still)

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``."""
        start = self.view.plan(aspect, generator, ratio)
        return self.jitter(start, generator, ratio)

    def jitter(self, start: Plan, generator: Generator | None, ratio: float) -> Plan:
        """The plan ``start`` with the jitter after it."""
        space = {
            "brightness": Scale(1.0, self.brightness),
            "contrast": Scale(1.0, self.contrast),
            "saturation": Scale(1.0, self.saturation),
            "hue": Scale(0.0, self.hue),
        }
        space = {name: scale for name, scale in space.items() if scale.slope}
        draws = draw(generator, len(start), len(space), 2)
        order = draws[:, :, 0].argsort(axis=1)
        positive = np.zeros(order.shape, np.bool_)
        return _extend(start, space, order, 2 * draws[:, :, 1] - 1, positive, ratio)


@dataclass(frozen=True)
class ThreeAugment(Policy):
    """3-Augment (Touvron et al. 2022, DeiT III, arXiv:2204.07118).

    One of greyscale, solarize and blur, each as likely, then colour jitter. The blur is a 3x3
    stencil and so weaker than the paper's, whose standard deviation goes up to 2 pixels. The
    ``jitter`` is of brightness, contrast and saturation; ``view`` is the crop and flip before it.
    """

    jitter: float = 0.3
    view: Policy = field(default_factory=lambda: Weak(scale=(0.08, 1.0)))

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``."""
        start = self.view.plan(aspect, generator, ratio)
        draws = draw(generator, len(aspect), 1, 2)
        space = {
            "saturation": Scale(0.0, 0.0),
            "solarize": Scale(128.0, 0.0),
            "blur": Scale(0.1, 1.9),
        }
        choice, positive = _pick(draws[:, :, 0], 3), np.zeros((len(aspect), 1), np.bool_)
        plan = _extend(start, space, choice, draws[:, :, 1], positive, ratio)
        jitter = ColorJitter(self.jitter, self.jitter, self.jitter)
        return jitter.jitter(plan, generator, ratio)


@dataclass(frozen=True)
class Strong(Policy):
    """A wide crop, RandAugment and an erased box: the view that a student learns from.

    Attributes:
        augment: crop, flip and operations.
        erase: probability of erasing a box.
        erase_scale: range of the box's area, a fraction of the view's.
        erase_ratio: range of the box's width / height.
    """

    augment: Policy = field(default_factory=lambda: RandAugment(view=Weak(scale=(0.35, 1.0))))
    erase: float = 0.25
    erase_scale: Range = (0.02, 0.25)
    erase_ratio: Range = (0.3, 3.3)

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``."""
        erasing = RandomErasing(self.erase, self.erase_scale, self.erase_ratio, None, self.augment)
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
