"""Single warps as 3x3 matrices from output to input coordinates, to be multiplied by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage.augment import Plan, then


def warp(name: str, amount: float | Tensor, ratio: float = 1.0) -> Tensor:
    """(B, 3, 3) matrices of one operation in the order of ``then``; one number is one image."""
    amounts = torch.as_tensor(amount, dtype=torch.float32).reshape(-1)
    return square(then(Plan.identity(len(amounts)), name, amounts, ratio).matrix)


def crop(x0: float, y0: float, width: float, height: float) -> Tensor:
    """(1, 3, 3) that shows a box in fractions of the image; beyond [0, 1] it pads."""
    rows = [[width, 0.0, 2 * x0 + width - 1], [0.0, height, 2 * y0 + height - 1]]
    return square(torch.tensor([rows]))


def square(matrix: Tensor) -> Tensor:
    """(B, 3, 3) of the rows (B, 2, 3) that a plan holds."""
    last = matrix.new_tensor([[[0.0, 0.0, 1.0]]])
    return torch.cat([matrix, last.expand(len(matrix), 1, 3)], dim=1)
