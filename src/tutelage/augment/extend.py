"""Adding operations to a plan: all geometry becomes one matrix, all colour a short list.

A warp is an affine map from output to input coordinates of the view (x, y in [-1, 1]); ``ratio`` is
the view's width / height in pixels. Colour operations that are a matrix of channels or a 3x3
stencil do not depend on the pixels and are computed here; the others are in ``ops``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.augment.ops import LUMA
from tutelage.augment.plan import COLOR_OPS, Plan
from tutelage.system.errors import TutelageError

Real = NDArray[np.float32]
Whole = NDArray[np.int64]

GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y", "scale", "hflip", "vflip")
NAMES = (*GEOMETRY, *COLOR_OPS)


def then(plan: Plan, name: str, amount: Tensor | float, ratio: float = 1.0) -> Plan:
    """A plan with one more operation at its end, for all of its images.

    Args:
        plan: the plan so far.
        name: one of ``NAMES``.
        amount: (B,) or one number, the strength; what it means depends on the operation.
        ratio: width / height of the view in pixels.

    Raises:
        TutelageError: no operation has that name.
    """
    amounts = torch.as_tensor(amount, dtype=torch.float32).expand(len(plan))[:, None].numpy()
    return extend(plan, (name,), np.zeros(amounts.shape, np.int64), amounts, ratio)


def extend(
    plan: Plan, names: tuple[str, ...], choice: Whole, amounts: Real, ratio: float = 1.0
) -> Plan:
    """A plan with more operations at its end, different ones for each image.

    Image i gets the N operations ``names[choice[i]]`` with the strengths ``amounts[i]``; ``choice``
    and ``amounts`` are (B, N), and the plan is on the CPU.

    Two operations are carried out in their order, except that saturations come before sharpness and
    blur (with which they commute except for clamping). Of three or more, such a change of channels
    or pixels also comes before a pointwise operation that it follows, if that one follows another
    such change.
    """
    # In numpy: a batch's plan takes two hundred small steps, and torch starts each more slowly.
    codes, amounts = _codes(names)[choice], amounts.astype(np.float32, copy=False)
    parts = plan.tensors()
    if any(name in GEOMETRY for name in names):
        warps = _warps(names, choice, amounts, ratio)
        matrix = parts["matrix"].numpy().reshape(-1, 6).T
        for number in range(choice.shape[1]):
            matrix = _after(matrix, warps[:, :, number])
        parts["matrix"] = torch.from_numpy(np.ascontiguousarray(matrix.T).reshape(-1, 2, 3))
    for name, (part, merge) in _MERGED.items():
        if name not in names:
            continue
        for code, amount in zip(codes.T, amounts.T, strict=True):
            rows = np.flatnonzero(code == COLOR_OPS.index(name))
            if len(rows):
                merged = parts[part].numpy().copy()
                merged[rows] = merge(merged[rows], amount[rows])
                parts[part] = torch.from_numpy(merged)
    amounts = np.where(codes > 0, amounts, np.float32(0.0))
    parts["ops"] = torch.from_numpy(np.concatenate([parts["ops"].numpy(), codes], axis=1))
    parts["amounts"] = torch.from_numpy(np.concatenate([parts["amounts"].numpy(), amounts], axis=1))
    return Plan(**parts)


@cache
def _codes(names: tuple[str, ...]) -> Whole:
    """The names' positions in ``COLOR_OPS``; 0 for a warp."""
    if unknown := [name for name in names if name not in NAMES]:
        raise TutelageError(f"no operation is named {unknown}; there are: {', '.join(NAMES)}")
    return np.array([COLOR_OPS.index(n) if n in COLOR_OPS else 0 for n in names], np.int64)


@cache
def _uses(names: tuple[str, ...]) -> Real:
    """(names, 8) one-hot: which operation of ``GEOMETRY`` each name is."""
    return np.array([[float(name == own) for own in GEOMETRY] for name in names], np.float32)


def _warps(names: tuple[str, ...], choice: Whole, amounts: Real, ratio: float) -> Real:
    """(6, B, N) matrices of the chosen operations, row by row; the identity for colour."""
    uses = np.moveaxis(_uses(names)[choice], 2, 0)
    turn, across, down, right, below = uses[:5] * amounts
    magnified = 1 + uses[5] * (amounts - 1)
    radians = turn * np.float32(math.pi / 180)
    cos, sin = np.cos(radians), np.sin(radians)
    return np.stack(
        [
            cos / (magnified * (1 - 2 * uses[6])),
            (across - sin) / ratio,
            across / ratio - 2 * right,  # a shear leaves the top row where it is
            (down + sin) * ratio,
            cos / (magnified * (1 - 2 * uses[7])),
            down * ratio - 2 * below,
        ],
        dtype=np.float32,
    )


def _after(matrix: Real, warp: Real) -> Real:
    """Matrices (6, B) that do ``matrix`` first and ``warp`` after it."""
    a, b, c, d, e, f = matrix
    p, q, r, s, t, u = warp
    rows = (a * p + b * s, a * q + b * t, a * r + b * u + c,
            d * p + e * s, d * q + e * t, d * r + e * u + f)  # fmt: skip
    return np.stack(rows)


def saturation(factor: Real) -> Real:
    """(B, 3, 3) channel mixer: 0 is greyscale, 1 the original (RandAugment's ``Color``)."""
    part = factor[:, None, None]
    return part * np.eye(3, dtype=np.float32) + (1 - part) * np.array(LUMA, np.float32)


def sharpness(factor: Real) -> Real:
    """(B, 3, 3) stencil: 0 is smoothed by [1 1 1; 1 5 1; 1 1 1] / 13, 1 the original."""
    smooth = np.full((3, 3), 1 / 13, np.float32)
    smooth[1, 1] = 5 / 13
    part = factor[:, None, None]
    return part * _STILL + (1 - part) * smooth


def blur(sigma: Real) -> Real:
    """(B, 3, 3) Gaussian stencil with a standard deviation in pixels (kernel_size=3).

    Three taps have a standard deviation of at most 0.8, whatever ``sigma`` is.
    """
    side = np.exp(-0.5 / np.square(np.maximum(sigma, 1e-3)))
    line = np.stack([side, np.ones_like(side), side], axis=1) / (1 + 2 * side)[:, None]
    return np.asarray(line[:, :, None] * line[:, None, :], np.float32)


def merge_stencils(first: Real, second: Real) -> Real:
    """One 3x3 stencil for two (B, 3, 3): their 5x5 product, its outer ring moved inward."""
    folded = second
    if (first[:, 1, 1] != 1).any():
        product = np.zeros((len(first), 5, 5), np.float32)
        for dy in range(3):
            for dx in range(3):
                product[:, dy : dy + 3, dx : dx + 3] += second[:, dy, dx, None, None] * first
        product[:, (1, 3)] += product[:, (0, 4)]
        product[:, :, (1, 3)] += product[:, :, (0, 4)]
        folded = product[:, 1:4, 1:4]
    # Multiples of 1 / 4096 that add up to 1: every backend sums them without rounding errors.
    folded = _in_steps(folded)
    folded[:, 1, 1] += 1 - folded.sum(axis=(1, 2))
    return folded


def _in_steps(part: Real) -> Real:
    return np.asarray(np.round(part * 4096) / 4096, np.float32)


def _mix_after(color: Real, factor: Real) -> Real:
    return _in_steps(saturation(factor) @ color)


_STILL = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)
_MERGED: dict[str, tuple[str, Callable[[Real, Real], Real]]] = {
    "saturation": ("color", _mix_after),
    "sharpness": ("stencil", lambda stencil, factor: merge_stencils(stencil, sharpness(factor))),
    "blur": ("stencil", lambda stencil, sigma: merge_stencils(stencil, blur(sigma))),
}
"""The part of a plan that holds an operation across channels or pixels, and how one joins it."""
