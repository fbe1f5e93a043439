"""Policies: frozen settings that sample a plan for a batch, each image its own.

All draws come from an explicit CPU generator, so equal seeds give equal plans on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from tutelage.augment import ops, resample
from tutelage.augment.plan import Plan
from tutelage.errors import TutelageError

Range = tuple[float, float]
Space = dict[str, Callable[[Tensor, Tensor], Tensor]]

_TRIES = 10  # torchvision's RandomResizedCrop
_BINS = 31  # torchvision's num_magnitude_bins


def _space(shear: float, translate: float, degrees: float, blend: float, bits: int) -> Space:
    """Amounts of each operation from a magnitude in [0, 1] and a sign."""
    return {
        "identity": lambda m, sign: m,
        "shear_x": lambda m, sign: shear * m * sign,
        "shear_y": lambda m, sign: shear * m * sign,
        "translate_x": lambda m, sign: translate * m * sign,
        "translate_y": lambda m, sign: translate * m * sign,
        "rotate": lambda m, sign: degrees * m * sign,
        "brightness": lambda m, sign: 1 + blend * m * sign,
        "saturation": lambda m, sign: 1 + blend * m * sign,
        "contrast": lambda m, sign: 1 + blend * m * sign,
        "sharpness": lambda m, sign: 1 + blend * m * sign,
        "posterize": lambda m, sign: 8 - (bits * m).round(),
        "solarize": lambda m, sign: 255 * (1 - m),
        "autocontrast": lambda m, sign: m,
        "equalize": lambda m, sign: m,
    }


# torchvision's spaces. TrivialAugment moves by 32 pixels whatever the size; here it is the same
# fraction of the view that this is at 224 pixels.
_RANDAUGMENT = _space(shear=0.3, translate=150 / 331, degrees=30, blend=0.9, bits=4)
_TRIVIAL = _space(shear=0.99, translate=32 / 224, degrees=135, blend=0.99, bits=6)
_MORE: Space = {
    "gamma": lambda m, sign: 2 ** (m * sign),
    "invert": lambda m, sign: m,
    "scale": lambda m, sign: 1.5 ** (m * sign),
    "hflip": lambda m, sign: m,
    "vflip": lambda m, sign: m,
}

RANDAUGMENT = tuple(_RANDAUGMENT)


@dataclass(frozen=True)
class Weak:
    """Random resized crop and flips; every other policy starts from it.

    Attributes:
        scale: range of the crop's area, a fraction of the original's.
        ratio: range of the crop's true width / height, before it is made square.
        hflip: probability of mirroring left and right.
        vflip: probability of mirroring top and bottom.
        pad: the crop is moved by up to this fraction of its side, also beyond the image.
    """

    scale: Range = (0.6, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    pad: float = 0.0

    def plan(self, images: Tensor, aspect: Tensor, generator: Generator) -> Plan:
        """Sample a plan for canvases (B, C, C, 3) whose originals have ``aspect`` (B,)."""
        plan, _ = self.start(images, aspect, generator)
        return plan

    def start(self, images: Tensor, aspect: Tensor, generator: Generator) -> tuple[Plan, Tensor]:
        """The plan, and the crop's (B, 4) window x0, y0, x1, y1 in canvas fractions."""
        batch, device = len(images), images.device
        box = draw_crop(aspect.cpu().float(), self.scale, self.ratio, generator)
        shift = _uniform((batch, 2), (-self.pad, self.pad), generator)
        box[:, :2] += shift * box[:, 2:]
        flips = torch.rand(batch, 2, generator=generator) < torch.tensor([self.hflip, self.vflip])
        plan = Plan.identity(batch)
        plan.matrix.copy_(ops.crop(box)[:, :2])
        plan.matrix[:, :, :2] *= torch.where(flips, -1.0, 1.0)[:, None, :]
        window = torch.cat([box[:, :2], box[:, :2] + box[:, 2:]], dim=1)
        return plan.to(device), window.to(device)


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al. 2020, arXiv:1909.13719) with torchvision's 31-bin magnitudes.

    Attributes:
        num_ops: operations an image, drawn with replacement.
        magnitude: strength from 0 to 30 of every operation.
        magnitude_std: standard deviation of the strength, as in timm; 0 is the paper's.
        operations: names to draw from; besides the paper's also gamma, invert, scale and flips.
        view: the crop and flip before it.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    operations: tuple[str, ...] = RANDAUGMENT
    view: Weak = field(default_factory=Weak)

    def plan(self, images: Tensor, aspect: Tensor, generator: Generator) -> Plan:
        """Sample a plan for canvases (B, C, C, 3) whose originals have ``aspect`` (B,).

        Raises:
            TutelageError: ``operations`` holds an unknown name.
        """
        plan, window = self.view.start(images, aspect, generator)
        space = _choose(self.operations)
        for _ in range(self.num_ops):
            noise = torch.randn(len(images), generator=generator)
            strength = (self.magnitude + self.magnitude_std * noise) / (_BINS - 1)
            _append_random(plan, space, strength.clamp(0.0, 1.0), images, window, generator)
        return plan


@dataclass(frozen=True)
class TrivialAugment:
    """TrivialAugment Wide (Müller and Hutter 2021, arXiv:2103.10158): one operation, any strength.

    Attributes:
        view: the crop and flip before it.
    """

    view: Weak = field(default_factory=Weak)

    def plan(self, images: Tensor, aspect: Tensor, generator: Generator) -> Plan:
        """Sample a plan for canvases (B, C, C, 3) whose originals have ``aspect`` (B,)."""
        plan, window = self.view.start(images, aspect, generator)
        strength = torch.randint(_BINS, (len(images),), generator=generator) / (_BINS - 1)
        _append_random(plan, _TRIVIAL, strength, images, window, generator)
        return plan


@dataclass(frozen=True)
class Strong:
    """A wide crop, RandAugment, and a box that is erased (Zhong et al. 2017, arXiv:1708.04896).

    Attributes:
        augment: crop, flip and operations.
        erase: probability of erasing a box.
        erase_scale: range of the box's area, a fraction of the view's.
        erase_ratio: range of the box's width / height.
    """

    augment: RandAugment | TrivialAugment = field(
        default_factory=lambda: RandAugment(view=Weak(scale=(0.35, 1.0)))
    )
    erase: float = 0.25
    erase_scale: Range = (0.02, 0.25)
    erase_ratio: Range = (0.3, 3.3)

    def plan(self, images: Tensor, aspect: Tensor, generator: Generator) -> Plan:
        """Sample a plan for canvases (B, C, C, 3) whose originals have ``aspect`` (B,)."""
        plan = self.augment.plan(images, aspect, generator)
        square = torch.ones(len(images))
        x0, y0, width, height = draw_crop(
            square, self.erase_scale, self.erase_ratio, generator
        ).unbind(dim=1)
        chosen = torch.rand(len(images), generator=generator) < self.erase
        box = torch.stack([x0, y0, x0 + width, y0 + height], dim=1) * chosen[:, None]
        plan.erase.copy_(box)
        return plan


@dataclass(frozen=True)
class Center:
    """The evaluation view: the centre square of ``crop_pct`` times the short side; nothing random.

    Attributes:
        crop_pct: fraction of the original's short side that is kept.
    """

    crop_pct: float = 0.875

    def plan(self, images: Tensor, aspect: Tensor, generator: Generator | None = None) -> Plan:
        """The plan for canvases (B, C, C, 3) whose originals have ``aspect`` (B,)."""
        box = torch.stack(resample.center_box(aspect.float(), 1, self.crop_pct), dim=1)
        plan = Plan.identity(len(images), images.device)
        plan.matrix.copy_(ops.crop(box)[:, :2])
        return plan


Policy = Weak | RandAugment | TrivialAugment | Strong | Center


def _uniform(shape: tuple[int, ...], bounds: Range, generator: Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator)


def draw_crop(aspect: Tensor, scale: Range, ratio: Range, generator: Generator) -> Tensor:
    """Random resized crop: (B, 4) boxes x0, y0, width, height in fractions of the image.

    Of ten tries the first that fits, as in torchvision; if none does, the largest box of the
    nearest allowed ratio (at a random place, where torchvision takes the centre).

    Args:
        aspect: (B,) width / height of the images.
        scale: range of the box's area, a fraction of the image's.
        ratio: range of the box's true width / height, drawn evenly in its logarithm.
        generator: source of the draws.
    """
    batch = len(aspect)
    area = _uniform((batch, _TRIES), scale, generator)
    low, high = torch.tensor(ratio).log().tolist()
    shape = _uniform((batch, _TRIES), (low, high), generator).exp() / aspect[:, None]
    widths, heights = (area * shape).sqrt(), (area / shape).sqrt()
    fits = (widths <= 1) & (heights <= 1)
    first = fits.int().argmax(dim=1, keepdim=True)
    nearest = aspect.clamp(*ratio) / aspect
    found = fits.any(dim=1)
    width = torch.where(found, widths.gather(1, first)[:, 0], nearest.clamp(max=1.0))
    height = torch.where(found, heights.gather(1, first)[:, 0], (1 / nearest).clamp(max=1.0))
    size = torch.stack([width, height], dim=1)
    return torch.cat([torch.rand(batch, 2, generator=generator) * (1 - size), size], dim=1)


def _choose(names: tuple[str, ...]) -> Space:
    known = _RANDAUGMENT | _MORE
    if unknown := [name for name in names if name not in known]:
        raise TutelageError(f"no operation is named {unknown}; there are: {', '.join(known)}")
    return {name: known[name] for name in names}


def _append_random(
    plan: Plan,
    space: Space,
    strength: Tensor,
    images: Tensor,
    window: Tensor,
    generator: Generator,
) -> None:
    """Append to each image one operation of the space at a strength (B,) in [0, 1]."""
    batch = len(strength)
    choice = torch.randint(len(space), (batch,), generator=generator)
    sign = torch.randint(2, (batch,), generator=generator) * 2.0 - 1.0
    for number, (name, amount) in enumerate(space.items()):
        rows = (choice == number).nonzero()[:, 0]
        if len(rows):
            amounts = amount(strength[rows], sign[rows]).to(images.device)
            ops.append(plan, name, amounts, rows.to(images.device), images, window)
