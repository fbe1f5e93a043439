"""Policies: frozen settings that sample a plan for a batch, with a separate draw for each image.

All draws come from an explicit CPU generator, so equal seeds give equal plans on every device.
A policy is also a transform: called with images, it samples a plan and applies it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from tutelage.augment import resample
from tutelage.augment.extend import Real
from tutelage.augment.plan import GREY, Plan
from tutelage.augment.transforms import Transform
from tutelage.system.errors import TutelageError

Range = tuple[float, float]
Fill = float | Sequence[float]
Flags = NDArray[np.bool_]

_TRIES = 10  # as in torchvision's RandomResizedCrop


class Policy(ABC):
    """Samples plans; every policy is one."""

    @abstractmethod
    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan.

        Args:
            aspect: (B,) width / height of the originals, which the canvases may hold squashed.
            generator: a CPU generator, the source of all draws; None is torch's own.
            ratio: width / height of the views in pixels, so that a rotation keeps angles.

        Raises:
            TutelageError: a setting of the policy is refused.
        """

    def __call__(self, *inputs: Any) -> Any:
        """Augment what torchvision's transforms take, at its own size; see ``Transform``."""
        return Transform(self)(*inputs)


@dataclass(frozen=True)
class Weak(Policy):
    """Random resized crop and flips.

    Attributes:
        scale: range of the crop's area, a fraction of the original's.
        ratio: range of the crop's true width / height, before it is resized to the view.
        hflip: probability of mirroring left and right.
        vflip: probability of mirroring top and bottom.
        pad: the crop is moved by up to this fraction of its side, even beyond the image. With a
            ``scale`` of (1, 1) this is the padded crop of CIFAR's recipes.
        fill: 0..255 of what lies outside the image, one value or one per channel.
    """

    scale: Range = (0.6, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    pad: float = 0.0
    fill: Fill = GREY

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``."""
        draws = draw(generator, len(aspect), 2 * _TRIES + 6)
        true = aspect.cpu().numpy().astype(np.float32)
        box = draw_crop(true, self.scale, self.ratio, draws[:, 4:])
        if self.pad:
            box[:, :2] += (2 * draws[:, :2] - 1) * self.pad * box[:, 2:]
        plan = Plan.identity(len(box))
        flips = draws[:, 2:4] < (self.hflip, self.vflip)
        _aim(plan, box, 1 - 2 * flips.astype(np.float32))
        window = plan.window.numpy()
        window[:, :2], window[:, 2:] = box[:, :2], box[:, :2] + box[:, 2:]
        plan.fill.copy_(_fill(self.fill))
        return plan


@dataclass(frozen=True)
class Still(Policy):
    """The whole image, nothing random: the default start of policies that do not crop.

    ``fill`` is 0..255 of what operations bring into view from outside the image.
    """

    fill: Fill = GREY

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """The plan; see ``Policy.plan``."""
        plan = Plan.identity(len(aspect))
        plan.fill.copy_(_fill(self.fill))
        return plan


@dataclass(frozen=True)
class Center(Policy):
    """The evaluation view: the centre square, ``crop_pct`` of the short side; nothing random."""

    crop_pct: float = 0.875

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """The plan; see ``Policy.plan``."""
        box = torch.stack(resample.center_box(aspect.cpu().float(), 1, self.crop_pct), dim=1)
        plan = Plan.identity(len(aspect))
        _aim(plan, box.numpy())
        return plan


@dataclass(frozen=True)
class RandomErasing(Policy):
    """Erase a box (Zhong et al. 2017, arXiv:1708.04896); with a fixed ``scale`` it is cutout.

    Attributes:
        p: probability of erasing.
        scale: range of the box's area, a fraction of the view's.
        ratio: range of the box's width / height.
        fill: 0..255 of the box and of what lies outside the image; None keeps the fill of ``view``.
        view: the policy before it.
    """

    p: float = 0.5
    scale: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    fill: Fill | None = 0.0
    view: Policy = field(default_factory=Still)

    def plan(self, aspect: Tensor, generator: Generator | None = None, ratio: float = 1.0) -> Plan:
        """Sample a plan; see ``Policy.plan``."""
        plan = self.view.plan(aspect, generator, ratio)
        draws = draw(generator, len(aspect), 2 * _TRIES + 3)
        view = np.full(len(aspect), ratio, np.float32)
        box = draw_crop(view, self.scale, self.ratio, draws[:, 1:])
        box[:, 2:] += box[:, :2]
        plan.erase.copy_(torch.from_numpy(box * (draws[:, :1] < self.p)))
        if self.fill is not None:
            plan.fill.copy_(_fill(self.fill))
        return plan


def _fill(fill: Fill) -> Tensor:
    values = torch.as_tensor(fill, dtype=torch.float32).flatten()
    if len(values) not in (1, 3):
        raise TutelageError(f"fill has {len(values)} values; expected one, or one per channel (3)")
    return values.expand(3)


def draw(generator: Generator | None, *shape: int) -> Real:
    """Uniform draws in [0, 1)."""
    drawn: Real = torch.rand(shape, generator=generator).numpy()
    return drawn


def _aim(plan: Plan, box: Real, mirror: Real | float = 1.0) -> None:
    """Let a fresh plan show boxes (B, 4) of x0, y0, width, height.

    ``mirror`` (B, 2) is -1 for an axis that is flipped.
    """
    matrix = plan.matrix.numpy()
    matrix[:, 0, 0], matrix[:, 1, 1] = (box[:, 2:] * mirror).T
    matrix[:, :, 2] = 2 * box[:, :2] + box[:, 2:] - 1


def draw_crop(aspect: Real, scale: Range, ratio: Range, draws: Real) -> Real:
    """Random resized crop: (B, 4) boxes x0, y0, width, height in fractions of the image.

    The first of ten tries that fits, as in torchvision; if none does, the largest box of the
    nearest allowed ratio (at a random place, where torchvision takes the centre). ``aspect`` (B,)
    is width / height. The logarithm of the box's true ``ratio`` is drawn uniformly. The ``draws``
    (B, 22) in [0, 1) are ten areas, ten shapes, and the place x, y.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = scale[0] + (scale[1] - scale[0]) * draws[:, :_TRIES]
    shape = np.exp(low + (high - low) * draws[:, _TRIES : 2 * _TRIES]) / aspect[:, None]
    widths, heights = np.sqrt(area * shape), np.sqrt(area / shape)
    fits = (widths <= 1) & (heights <= 1)
    each, first = np.arange(len(fits)), fits.argmax(axis=1)
    size = np.stack([widths[each, first], heights[each, first]], axis=1)
    if not (found := fits[each, first]).all():
        nearest = aspect.clip(*ratio) / aspect
        largest = np.minimum(np.stack([nearest, 1 / nearest], axis=1), 1)
        size = np.where(found[:, None], size, largest)
    return np.concatenate([draws[:, 2 * _TRIES : 2 * _TRIES + 2] * (1 - size), size], axis=1)
