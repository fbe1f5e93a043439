"""Carry out a plan in one pass over the pixels, with the fastest backend that can."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from tutelage.augment.plan import Plan
from tutelage.system.errors import TutelageError

Backend = Literal["auto", "reference", "cpu", "cuda"]

# The package that each kernel is compiled by, and the types that it writes.
_KERNELS = {
    "cpu": ("numba", (torch.float32, torch.uint8)),
    "cuda": ("triton", (torch.bfloat16, torch.float16, torch.float32, torch.uint8)),
}


def apply(
    images: Tensor,
    plan: Plan,
    size: int | tuple[int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    backend: Backend = "auto",
) -> Tensor:
    """Make one view of each image.

    Args:
        images: (B, H, W, C) canvases, uint8; or float of 0..255, which only the reference takes.
        plan: what to do to each image; it is moved to their device.
        size: height and width of the views in pixels; one number for a square.
        mean: subtracted from each channel's values in [0, 1]; None subtracts nothing.
        std: divides each channel after that; None leaves it as it is.
        dtype: the views' type; uint8 takes no mean and std.
        backend: "auto" takes the kernel of the images' device if it can do the work, else the
            plain torch reference, with which all kernels agree. On a GPU it warns if it has to.

    Returns:
        (B, C, h, w) views: float in [0, 1] before ``mean`` and ``std``, or uint8.

    Raises:
        TutelageError: an argument is refused, or the backend that was asked for cannot do it.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if len(plan) != len(images):
        raise TutelageError(f"the plan is for {len(plan)} images, there are {len(images)}")
    if dtype == torch.uint8 and (mean is not None or std is not None):
        raise TutelageError(
            "uint8 views cannot be normalised; leave mean and std out, or ask for a float dtype"
        )
    unit, channels = 1.0 if dtype == torch.uint8 else 255.0, images.shape[3]
    means, stds = _each("mean", mean, 0.0, channels), _each("std", std, 1.0, channels)
    scale = [1 / (unit * s) for s in stds]
    shift = [-m / s for m, s in zip(means, stds, strict=True)]
    chosen = _pick_backend(backend, images, dtype)
    if chosen == "cpu":
        from tutelage.augment.engine.cpu import render
    elif chosen == "cuda":
        from tutelage.augment.engine.cuda import render
    else:
        from tutelage.augment.engine.reference import render
    return render(images, plan.to(images.device), (height, width), scale, shift, dtype)


def _each(
    name: str, values: Sequence[float] | None, default: float, channels: int
) -> Sequence[float]:
    if values is None:
        return [default] * channels
    if len(values) != channels:
        raise TutelageError(f"{name} has {len(values)} values, the images {channels} channels")
    return values


def _pick_backend(backend: Backend, images: Tensor, dtype: torch.dtype) -> str:
    if backend == "reference":
        return backend
    kernel = images.device.type if backend == "auto" else backend
    problem = _obstacle(kernel, images, dtype)
    if problem is None and kernel == "cuda" and backend == "auto":
        from tutelage.augment.engine import trial

        problem = trial.fault(images.device)
    elif problem is None and not find_spec(package := _KERNELS[kernel][0]):
        problem = f"{package} is not installed"
    if problem and backend != "auto":
        raise TutelageError(f"backend '{backend}': {problem}; use 'auto' or 'reference'")
    return "reference" if problem else kernel


def _obstacle(kernel: str, images: Tensor, dtype: torch.dtype) -> str | None:
    """Why there is no kernel for the work, or None."""
    if images.dtype != torch.uint8:
        return f"the images are {images.dtype}, not uint8"
    if images.shape[3] != 3:
        return f"the images have {images.shape[3]} channels, not 3"
    if min(images.shape[1:3]) < 2:
        return "the canvas is a single row or column"
    if kernel not in _KERNELS:
        return f"there is no kernel for the device '{kernel}'"
    _, types = _KERNELS[kernel]
    if dtype not in types:
        return f"it writes {', '.join(str(t).removeprefix('torch.') for t in types)}, not {dtype}"
    return None
