"""The same augmentation by other libraries, each written as fast as its public calls allow.

All of them: random resized crop (8 to 100% of the area, ratio 3/4 to 4/3), horizontal flip of half
the images, two operations of RandAugment's 14 at magnitude 9 of 30 with draws of each image's own,
bilinear interpolation, black outside, and a batch in one contiguous tensor. Each function names
what its library cannot do. Each peer is there as its documentation shows it, and in a faster form:
libraries that take one image at a time then share ``_collate`` for the last two steps, normalising
and batching.

AlbumentationsX is under the AGPL, so it belongs into an environment of its own, beside this one's
packages: no part of this repository depends on it. Its telemetry is switched off.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, metadata
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tutelage.augment import RandAugment, Weak, apply

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP, SHAPE = (0.08, 1.0), (3 / 4, 4 / 3)

# RandAugment's amounts at magnitude 9 of 30, in torchvision's space.
_STRENGTH = 9 / 30
_BLEND = 0.9 * _STRENGTH  # brightness, contrast, saturation and sharpness are 1 plus or minus this
_DEGREES = 30 * _STRENGTH
_SHEAR = math.degrees(math.atan(0.3 * _STRENGTH))
_TRANSLATE = 150 / 331 * _STRENGTH  # of the side
_BITS, _SOLARIZE = 7, 1 - _STRENGTH

POLICY = RandAugment(
    num_ops=2, magnitude=9, magnitude_std=0.0, view=Weak(scale=CROP, ratio=SHAPE, fill=0.0)
)

Pipeline = Callable[[slice], Tensor]


@dataclass(frozen=True, eq=False)
class Job:
    """The work that all contenders do.

    Attributes:
        pixels: uint8 (N, S, S, 3) decoded images.
        size: side of the views.
        normalise: the views are float32 less the mean, by the deviation; else they are uint8.
    """

    pixels: NDArray[np.uint8]
    size: int
    normalise: bool

    @cached_property
    def pillow(self) -> list[Image.Image]:
        """The same images as Pillow's, as its decoder would return them."""
        return [Image.fromarray(image) for image in self.pixels]


def tutelage(job: Job) -> Pipeline:
    """This library: a plan for the batch, carried out in one pass."""
    canvases = torch.from_numpy(job.pixels)
    generator = torch.Generator().manual_seed(0)

    def batch(rows: slice) -> Tensor:
        images = canvases[rows]
        return render(images, POLICY.plan(torch.ones(len(images)), generator), job)

    return batch


def render(images: Tensor, plan: Any, job: Job) -> Tensor:
    """The views (B, 3, h, w) of canvases (B, S, S, 3) under a plan."""
    if job.normalise:
        return apply(images, plan, job.size, mean=MEAN, std=STD)
    return apply(images, plan, job.size, dtype=torch.uint8)


def torchvision_published(job: Job) -> Pipeline:
    """torchvision.transforms.v2 on Pillow images, to the end."""
    v2 = import_module("torchvision.transforms.v2")
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    transform = v2.Compose([_torchvision(job), v2.PILToTensor(), *(last if job.normalise else [])])
    return lambda rows: torch.stack([transform(image) for image in job.pillow[rows]])


def torchvision_pil(job: Job) -> Pipeline:
    """The same with the shared last steps."""
    transform = _torchvision(job)

    def batch(rows: slice) -> Tensor:
        return _collate((_from_pillow(transform(image)) for image in job.pillow[rows]), rows, job)

    return batch


def torchvision_tensor(job: Job) -> Pipeline:
    """On uint8 tensors, one at a time: a batch would share its draws."""
    transform = _torchvision(job)
    images = torch.from_numpy(job.pixels).permute(0, 3, 1, 2).contiguous()

    def batch(rows: slice) -> Tensor:
        return _collate((transform(image) for image in images[rows]), rows, job)

    return batch


def _torchvision(job: Job) -> Any:
    v2 = import_module("torchvision.transforms.v2")
    bilinear = v2.InterpolationMode.BILINEAR
    return v2.Compose([
        v2.RandomResizedCrop(job.size, CROP, SHAPE, interpolation=bilinear, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandAugment(2, 9, num_magnitude_bins=31, interpolation=bilinear),
    ])  # fmt: skip


def timm_published(job: Job) -> Pipeline:
    """The transforms of timm, which are Pillow's, to the end."""
    vision = import_module("torchvision.transforms")
    last = [vision.ToTensor(), vision.Normalize(MEAN, STD)] if job.normalise else []
    transform = vision.Compose([_timm(job), *(last or [vision.PILToTensor()])])
    return lambda rows: torch.stack([transform(image) for image in job.pillow[rows]])


def timm_pil(job: Job) -> Pipeline:
    """The same with the shared last steps."""
    chain = _timm(job)

    def batch(rows: slice) -> Tensor:
        return _collate((_from_pillow(chain(image)) for image in job.pillow[rows]), rows, job)

    return batch


def _timm(job: Job) -> Any:
    """Crop, flip and RandAugment as timm has them.

    Its magnitudes go to 10, so 9 of 30 is m3. Its operation "identity" is a chance of 13 in 14 for
    each of the others. Posterize keeps 3 bits where torchvision's keeps 7, by the same work.
    """
    transforms = import_module("timm.data.transforms")
    settings = {
        "translate_pct": 150 / 331,
        "img_mean": (0, 0, 0),
        "interpolation": Image.Resampling.BILINEAR,
    }
    names = (
        "AutoContrast Equalize Rotate PosterizeIncreasing SolarizeIncreasing ColorIncreasing "
        "ContrastIncreasing BrightnessIncreasing SharpnessIncreasing ShearX ShearY TranslateXRel "
        "TranslateYRel"
    )
    return import_module("torchvision.transforms").Compose([
        transforms.RandomResizedCropAndInterpolation(
            job.size, scale=CROP, ratio=SHAPE, interpolation="bilinear"
        ),
        import_module("torchvision.transforms").RandomHorizontalFlip(),
        import_module("timm.data.auto_augment").rand_augment_transform(
            f"rand-m3-n2-mstd0-p{13 / 14:.6f}-inc1", settings, names.split()
        ),
    ])  # fmt: skip


def albumentations_published(job: Job) -> Pipeline:
    """Numpy images through AlbumentationsX, which is OpenCV's work, to the end."""
    A = _albumentations()
    normalise = [A.Normalize(MEAN, STD)] if job.normalise else []
    to_tensor = import_module("albumentations.pytorch").ToTensorV2()
    chain = A.Compose([*albumentations_chain(job), *normalise, to_tensor], strict=True)
    return lambda rows: torch.stack([chain(image=image)["image"] for image in job.pixels[rows]])


def albumentations_numpy(job: Job) -> Pipeline:
    """The same with the shared last steps."""
    A = _albumentations()
    chain = A.Compose(albumentations_chain(job), strict=True, is_check_shapes=False)

    def batch(rows: slice) -> Tensor:
        views = (chain(image=image)["image"] for image in job.pixels[rows])
        # A flipped view has negative strides, which torch does not take.
        whole = (torch.from_numpy(np.ascontiguousarray(view)) for view in views)
        return _collate((view.permute(2, 0, 1) for view in whole), rows, job)

    return batch


def _albumentations() -> Any:
    os.environ["ALBUMENTATIONS_NO_TELEMETRY"] = "1"  # it is read at the import
    return import_module("albumentations")


def albumentations_chain(job: Job) -> list[Any]:
    """Crop, flip, and two of 28 operations: each of the 14 in both directions.

    There is no RandAugment in AlbumentationsX. It carries the two out in the order of the list
    instead of the order drawn, and shrinks without antialiasing. Its sharpness goes only up; down
    would be the same filter.
    """
    A = _albumentations()

    def jitter(**factor: float) -> Any:
        still = dict.fromkeys(("brightness", "contrast", "saturation"), 1.0) | {"hue": 0.0}
        ranges = {f"{name}_range": (v, v) for name, v in (still | factor).items()}
        return A.ColorJitter(p=1.0, **ranges)

    def both(sign: int) -> list[Any]:
        shear, translate, angle = (sign * v for v in (_SHEAR, _TRANSLATE, _DEGREES))
        factor, sharpen = 1 + sign * _BLEND, _BLEND / 13
        return [
            A.NoOp(p=1.0),
            A.Affine(shear={"x": (shear, shear), "y": (0.0, 0.0)}, p=1.0),
            A.Affine(shear={"x": (0.0, 0.0), "y": (shear, shear)}, p=1.0),
            A.Affine(translate_percent={"x": (translate, translate)}, p=1.0),
            A.Affine(translate_percent={"y": (translate, translate)}, p=1.0),
            A.Affine(rotate=(angle, angle), p=1.0),
            jitter(brightness=factor),
            jitter(saturation=factor),
            jitter(contrast=factor),
            A.Sharpen(alpha_range=(sharpen, sharpen), lightness_range=(1.0, 1.0), p=1.0),
            A.Posterize(num_bits=(_BITS, _BITS), p=1.0),
            A.Solarize(threshold_range=(_SOLARIZE, _SOLARIZE), p=1.0),
            A.AutoContrast(method="pil", p=1.0),
            A.Equalize(mode="cv", p=1.0),
        ]

    return [
        A.RandomResizedCrop((job.size, job.size), scale=CROP, ratio=SHAPE, p=1.0),
        A.HorizontalFlip(p=0.5),
        A.SomeOf([*both(-1), *both(1)], n=2, replace=True, p=1.0),
    ]


def kornia_published(job: Job) -> Pipeline:
    """Float batches through kornia's container."""
    container = import_module("kornia.augmentation").AugmentationSequential
    return _on_floats(job, [container(*_kornia(job))])


def kornia(job: Job) -> Pipeline:
    """The same without the container."""
    return _on_floats(job, _kornia(job))


def _on_floats(job: Job, parts: list[Any]) -> Pipeline:
    canvases = torch.from_numpy(job.pixels)

    def batch(rows: slice) -> Tensor:
        views = canvases[rows].permute(0, 3, 1, 2).to(torch.float32).div_(255.0).contiguous()
        for part in parts:
            views = part(views)
        if not job.normalise:
            views = views.mul(255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)
        return views.contiguous()

    return batch


def _kornia(job: Job) -> list[Any]:
    """Crop, flip, RandAugment and, if asked for, Normalize as kornia has them.

    It draws the two operations once a batch, not an image, without replacement, from 13: it has no
    identity. Strengths that go both ways elsewhere are 0.64 for brightness, contrast, saturation
    and sharpness, and 0.3 for solarize; the work is the same.
    """
    K = import_module("kornia.augmentation")
    auto = import_module("kornia.augmentation.auto")
    shift = 150 / 331
    # Names and ranges; magnitude 9 of 30 is 0.3 of the way.
    space = [
        *[("auto_contrast", 0, 1), ("equalize", 0, 1), ("rotate", -30.0, 30.0)],
        *[("posterize", 4.0, 8.0), ("solarize", 0.0, 1.0), ("color", 0.1, 1.9)],
        *[("contrast", 0.1, 1.9), ("brightness", 0.1, 1.9), ("sharpness", 0.1, 1.9)],
        *[("shear_x", -0.3, 0.3), ("shear_y", -0.3, 0.3)],
        *[("translate_x", -shift, shift), ("translate_y", -shift, shift)],
    ]
    normalise = [K.Normalize(torch.tensor(MEAN), torch.tensor(STD))] if job.normalise else []
    return [
        K.RandomResizedCrop((job.size, job.size), scale=CROP, ratio=SHAPE, resample="bilinear"),
        K.RandomHorizontalFlip(p=0.5),
        auto.RandAugment(n=2, m=9, policy=[[part] for part in space]),
        *normalise,
    ]


PUBLISHED = "as published"
PEERS: dict[str, dict[str, Callable[[Job], Pipeline]]] = {
    "torchvision": {
        PUBLISHED: torchvision_published,
        "Pillow images": torchvision_pil,
        "uint8 tensors": torchvision_tensor,
    },
    "timm": {PUBLISHED: timm_published, "Pillow images": timm_pil},
    "albumentationsx": {PUBLISHED: albumentations_published, "numpy images": albumentations_numpy},
    "kornia": {PUBLISHED: kornia_published, "float batches, operations drawn once a batch": kornia},
}
"""The forms of each peer by the name of its distribution: as published, and faster ones."""


def installed(peer: str) -> bool:
    """Whether the distribution of that name is there."""
    try:
        return bool(metadata.version(peer))
    except metadata.PackageNotFoundError:
        return False


def set_threads(count: int) -> None:
    """Let torch and, where a peer has imported it, OpenCV use ``count`` threads."""
    torch.set_num_threads(count)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(count)


def _from_pillow(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _collate(views: Iterable[Tensor], rows: slice, job: Job) -> Tensor:
    """One tensor (B, 3, h, w) of views (3, h, w) uint8, normalised while they are in the cache."""
    dtype = torch.float32 if job.normalise else torch.uint8
    out = torch.empty(rows.stop - rows.start, 3, job.size, job.size, dtype=dtype)
    for place, view in zip(out, views, strict=True):
        place.copy_(view)
        if job.normalise:
            place.sub_(_SHIFT).mul_(_SCALE)
    return out


_SHIFT = 255 * torch.tensor(MEAN)[:, None, None]
_SCALE = 1 / (255 * torch.tensor(STD)[:, None, None])
