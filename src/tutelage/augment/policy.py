"""Policies: frozen settings that sample a plan for a batch, with a separate draw for each image.

All draws come from an explicit CPU generator, so equal seeds give equal plans on every device.
A policy is also a transform: called with images, it samples a plan and applies it, and takes and
returns what torchvision's v2 transforms do.
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
from PIL import Image
from torch import Generator, Tensor

from tutelage.augment import resample
from tutelage.augment.apply import apply
from tutelage.augment.extend import Real
from tutelage.augment.plan import GREY, Plan
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
class Transform:
    """A policy, a size and a normalisation: everything between a decoded image and a model.

    An image may be a PIL image, a tensor (C, H, W), a batch (..., C, H, W), or a
    ``torchvision.tv_tensors.Image``; tensors are uint8, or floating in [0, 1]. Each image of a
    batch gets its own draw. Floating images go through plain torch and stay differentiable.

    Attributes:
        policy: samples what is done.
        size: height and width of the result in pixels; None keeps the image's.
        mean: subtracted from each channel's values in [0, 1].
        std: divides each channel after that. With mean or std, the result is float32.
        generator: source of the draws; None is torch's own, which a DataLoader seeds per worker.
    """

    policy: Policy
    size: int | tuple[int, int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    generator: Generator | None = None

    def __call__(self, *inputs: Any) -> Any:
        """Augment the first input; labels and anything else that follows are returned unchanged.

        Raises:
            TutelageError: the first input is not an image.
        """
        if not inputs:
            raise TutelageError("a transform was called without an image")
        image, *others = inputs
        result = self._one(image)
        return (result, *others) if others else result

    def _one(self, image: Any) -> Any:
        pixels = _canvases(image)
        height, width = pixels.shape[1:3]
        size = (height, width) if self.size is None else self.size
        rows, columns = (size, size) if isinstance(size, int) else size
        aspect = torch.full((len(pixels),), width / height)
        plan = self.policy.plan(aspect, self.generator, columns / rows)
        normalised = self.mean is not None or self.std is not None
        whole = pixels.dtype == torch.uint8 and not normalised
        views = apply(
            pixels,
            plan,
            (rows, columns),
            mean=self.mean,
            std=self.std,
            dtype=torch.uint8 if whole else torch.float32,
        )
        return _like(image, views, normalised=normalised)


def _canvases(image: Any) -> Tensor:
    """(B, H, W, C) pixels, uint8 or float of 0..255."""
    if isinstance(image, Image.Image):
        if image.mode not in ("L", "RGB"):
            raise TutelageError(
                f"a PIL image of mode {image.mode}; expected L or RGB: use image.convert('RGB')"
            )
        pixels = torch.from_numpy(np.array(image))
        return pixels.view(1, image.height, image.width, len(image.getbands()))
    if not isinstance(image, Tensor) or type(image).__name__ in ("BoundingBoxes", "Mask"):
        raise TutelageError(
            f"a {type(image).__name__} is not an image; expected a PIL image, a tensor (C, H, W), "
            "or a batch (..., C, H, W)"
        )
    if image.ndim < 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
        raise TutelageError(
            f"a tensor of shape {tuple(image.shape)} and type {image.dtype}; expected "
            "(..., C, H, W) of uint8, or floating in [0, 1]"
        )
    pixels = image.as_subclass(Tensor).reshape(-1, *image.shape[-3:]).permute(0, 2, 3, 1)
    return pixels.contiguous() if image.dtype == torch.uint8 else pixels * 255.0


def _like(image: Any, views: Tensor, *, normalised: bool) -> Any:
    """Views (B, C, h, w) as the type and shape of the image that they were made from."""
    if isinstance(image, Image.Image):
        if normalised:
            return views[0]
        pixels = views[0].permute(1, 2, 0).numpy()
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    views = views.reshape(*image.shape[:-3], *views.shape[1:])
    views = views.to(image.dtype) if image.is_floating_point() else views
    if type(image) is Tensor:
        return views
    from torchvision import tv_tensors

    return tv_tensors.wrap(views, like=image)


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
