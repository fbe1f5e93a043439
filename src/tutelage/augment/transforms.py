"""Policies as transforms: they take and return what torchvision's v2 transforms do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from tutelage.augment.apply import apply
from tutelage.augment.plan import Plan
from tutelage.system.errors import TutelageError


class Sampler(Protocol):
    """A policy, as far as a transform needs it; ``policy`` imports this module."""

    def plan(self, aspect: Tensor, generator: Generator | None, ratio: float) -> Plan:
        """Sample a plan; see ``policy.Policy.plan``."""


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

    policy: Sampler
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
