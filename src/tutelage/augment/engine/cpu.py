"""The CPU backend: threads that run the compiled kernel on a batch together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.augment.engine import ahead, kernel, reference
from tutelage.augment.plan import Plan
from tutelage.system.errors import TutelageError
from tutelage.system.process import cores


def render(
    images: Tensor, plan: Plan, size: tuple[int, int], scale: Sequence[float],
    shift: Sequence[float], dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Views (B, 3, h, w) of canvases (B, H, W, 3) uint8 as float32 or uint8; see ``apply``.

    It works on as many threads as torch does (``torch.set_num_threads``), and on no more than this
    process has cores.
    """
    matrix = plan.matrix.to(torch.float32)
    # Compiled code checks no index, and an index made from NaN could point anywhere.
    if not (matrix.isfinite().all() and plan.amounts.isfinite().all()):
        raise TutelageError("the plan's matrix or amounts hold numbers that are not finite")
    views = torch.empty(len(images), 3, *size, dtype=dtype)
    parts = (plan.amounts, plan.color, plan.stencil, plan.window, plan.erase, plan.fill)
    side = reference.samples(matrix, (images.shape[1], images.shape[2]), size).long()
    counter = np.zeros(2, np.int64)
    arguments = [
        *(_array(part) for part in
          (images, matrix.double(), reference.straight(matrix), side, plan.ops)),
        *(_array(part.to(torch.float32)) for part in parts),
        np.array(scale, np.float32), np.array(shift, np.float32),
        counter, views.numpy(),
    ]  # fmt: skip
    ahead.wait()
    threads = min(torch.get_num_threads(), cores(), len(images))
    others = [_pool(os.getpid()).submit(kernel.render, *arguments) for _ in range(threads - 1)]
    kernel.render(*arguments)
    if counter[1] < len(images):  # else a thread that a busy machine let begin late has no work
        for other in others:
            other.result()  # waits, and raises what the thread raised
    return views


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.contiguous().numpy()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked process has none of its parent's."""
    return ThreadPoolExecutor(cores(), thread_name_prefix="augment")
