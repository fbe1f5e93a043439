"""Whether the CUDA kernels can be trusted here: before their first use they are tried on 16 images.

Where they cannot be compiled, or do not do what ``reference`` does, plain torch takes their place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Generator, Tensor

from tutelage.augment.engine import reference
from tutelage.augment.extend import extend
from tutelage.augment.plan import Plan

IMAGES, CANVAS, VIEW = 16, 24, 18
TOLERANCE = 1.0  # grey levels: a sum that is rounded otherwise is no fault
_AMOUNTS = {
    **{"rotate": 30.0, "shear_x": 0.3, "shear_y": -0.2, "translate_x": 0.2, "translate_y": -0.3},
    **{"scale": 0.6, "hflip": 0.0, "vflip": 0.0, "identity": 0.0},
    **{"brightness": 1.4, "gamma": 0.6, "invert": 0.0, "posterize": 3.0, "solarize": 100.0},
    **{"contrast": 1.7, "autocontrast": 0.0, "equalize": 0.0},
    **{"saturation": 1.8, "sharpness": 1.9, "blur": 0.7},
}
"""Every operation, and how strong it is in the trial."""


@cache
def fault(device: torch.device) -> str | None:
    """Why plain torch augments on a GPU, or None: tried once in a process, which warns if so."""
    try:
        from tutelage.augment.engine import cuda

        found = _difference(cuda.render, device)
    except Exception as error:  # a compiler or a driver may raise anything
        reason = " ".join(str(error).split())[:200]
        found = f"those do not run here ({type(error).__name__}: {reason})"
    if found is not None:
        found = f"plain torch augments instead of the Triton kernels, because {found}"
        warnings.warn(found, RuntimeWarning, stacklevel=2)
    return found


def _difference(render: Callable[..., Tensor], device: torch.device) -> str | None:
    """How the kernels' views differ from the reference's, if it is more than by rounding."""
    images, plan = images_and_plan()
    how = ((VIEW, VIEW), (1.0,) * 3, (0.0,) * 3, torch.float32)
    views = render(images.to(device), plan.to(device), *how).cpu()
    worst = float((views - reference.render(images, plan, *how)).abs().max())
    if worst <= TOLERANCE:  # not so if one is NaN
        return None
    return f"views of {IMAGES} images differ by up to {worst:.3g} grey levels"


def images_and_plan() -> tuple[Tensor, Plan]:
    """Images (16, 24, 24, 3) of noise, every other one dull, and three operations for each."""
    shape = (IMAGES, CANVAS, CANVAS, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=Generator().manual_seed(0))
    images[1::2] = images[1::2] // 3 + 60
    names, amounts = tuple(_AMOUNTS), np.array([*_AMOUNTS.values()], np.float32)
    choice = np.add.outer(np.arange(IMAGES), np.array([0, 7, 14])) % len(names)
    return images, extend(Plan.identity(IMAGES), names, choice, amounts[choice])
