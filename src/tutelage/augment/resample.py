"""Separable antialiased resampling as two matrices, and the evaluation view built on it.

Training, evaluation and the exported graph share these few tensor operations, so that their views
cannot drift apart. ``matrix`` is Pillow's ``resize(BILINEAR, box=...)`` written as weights: a
triangle that widens with the scale when it minifies. All of this traces to ONNX with dynamic sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def matrix(in_size: int, out_size: int, start: Tensor, length: Tensor) -> Tensor:
    """Weights (B, out_size, in_size) that resample the window [start, start + length] of a line.

    ``start`` and ``length`` (B,) are in input pixels; pixel i covers [i, i + 1]. Every row sums to
    one: samples beyond the line's ends are left out, as in Pillow. A negative length reads the
    window backwards (a flip). A row whose window lies far outside is zero.
    """
    scale = (length / out_size)[:, None, None]
    steps = torch.arange(out_size, dtype=torch.float32, device=start.device) + 0.5
    pixels = torch.arange(in_size, dtype=torch.float32, device=start.device) + 0.5
    centers = start[:, None, None] + steps[:, None] * scale
    width = scale.abs().clamp(min=1.0)
    weights = (1.0 - (pixels - centers).abs() / width).clamp(min=0.0)
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)


def resize(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Apply a row matrix (B, h, H) and a column matrix (B, w, W) to images (B, 3, H, W)."""
    return torch.matmul(torch.matmul(rows[:, None], images), columns[:, None].transpose(-1, -2))


def center_box(
    aspect: Tensor, canvas: int, crop_pct: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The evaluation window: the centre square of ``crop_pct`` times the original's short side.

    Args:
        aspect: (B,) width / height of the originals, which the canvases hold squashed to squares.
        canvas: side of the square canvas in pixels.
        crop_pct: fraction of the short side that is kept.

    Returns:
        (x0, y0, width, height), each (B,), in canvas pixels.
    """
    width = canvas * crop_pct * (1.0 / aspect).clamp(max=1.0)
    height = canvas * crop_pct * aspect.clamp(max=1.0)
    return (canvas - width) / 2, (canvas - height) / 2, width, height


def center_view(images: Tensor, aspect: Tensor, size: int, crop_pct: float) -> Tensor:
    """The view on which a model is evaluated: undistorted, centred, antialiased.

    It is (B, 3, size, size) float32 in [0, 1], from canvases (B, C, C, 3) uint8 or float of 0..255;
    ``aspect`` and ``crop_pct`` are as in ``center_box``.
    """
    pixels = images.permute(0, 3, 1, 2).to(torch.float32)
    return resize(pixels, *center_matrices(aspect, images.shape[1], size, crop_pct)) / 255.0


def center_matrices(
    aspect: Tensor, canvas: int, size: int, crop_pct: float
) -> tuple[Tensor, Tensor]:
    """Row and column matrices (B, size, canvas) that read the evaluation view from a canvas."""
    x0, y0, width, height = center_box(aspect, canvas, crop_pct)
    return matrix(canvas, size, y0, height), matrix(canvas, size, x0, width)
