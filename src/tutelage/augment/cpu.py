"""The CPU backend: hands a batch to the compiled kernel, spread over threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.augment import kernel, reference
from tutelage.augment.colors import check_channels
from tutelage.augment.plan import Plan

_SHARE = 4  # images a thread takes at a time, at least: handing over costs about 30 microseconds
_OUTSIDE = {"constant": kernel.CONSTANT, "edge": kernel.EDGE, "reflect": kernel.REFLECT}


def render(
    images: Tensor,
    plan: Plan,
    size: tuple[int, int],
    scale: Sequence[float],
    shift: Sequence[float],
    dtype: torch.dtype,
    outside: str,
    interpolation: str,
) -> Tensor:
    """Views (B, C, h, w) of canvases (B, H, W, C) uint8 as float32 or uint8; see ``apply``.

    It works on as many threads as torch does (``torch.set_num_threads``).
    """
    channels = images.shape[3]
    check_channels(plan, channels)
    nearest = interpolation == "nearest"
    matrix = plan.matrix.to(torch.float32)
    fill = plan.fill if channels == 3 else plan.fill.mean(dim=1, keepdim=True)
    views = torch.empty(len(images), channels, *size, dtype=dtype)
    each = [
        _array(images),
        _array(matrix.double()),
        _array(reference.straight(matrix, outside, nearest=nearest)),
        _array(reference.samples(matrix, (images.shape[1], images.shape[2]), size).long())
        if not nearest
        else np.ones(len(images), np.int64),
        _array(plan.ops),
        *(_array(part.to(torch.float32)) for part in
          (plan.amounts, plan.color, plan.hue, plan.stencil, plan.window, plan.erase,
           fill.expand(-1, channels))),
    ]  # fmt: skip
    common = [np.array(scale, np.float32), np.array(shift, np.float32), _OUTSIDE[outside], nearest]
    out = views.numpy()
    threads = torch.get_num_threads()
    share = max(_SHARE, -(-len(images) // (4 * threads)))
    if threads == 1 or len(images) <= share:
        kernel.render(*each, *common, out)
        return views

    def work(first: int) -> None:
        part = slice(first, first + share)
        kernel.render(*(array[part] for array in each), *common, out[part])

    # list() waits, and raises what a thread raised.
    list(_pool(threads, os.getpid()).map(work, range(0, len(images), share)))
    return views


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.contiguous().numpy()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="augment")
