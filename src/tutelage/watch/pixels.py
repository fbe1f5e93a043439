"""How sharp, bright and colourful an image is, by a few numbers of its canvas."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEASURES = ("sharpness", "brightness", "contrast", "warmth", "tint", "saturation")
"""What ``measure`` gives, in this order."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_LEAST = 1e-3  # grey levels squared: a picture of one colour has no variance


def measure(pixels: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    """The ``MEASURES`` (6,) of an image (H, W, 3), of the canvas of ``side`` that the model sees.

    Sharpness is the logarithm of the variance of the Laplacian (Pech-Pacheco et al. 2000) over that
    of the grey levels, so that it does not change with brightness or contrast. Brightness and
    contrast are mean and standard deviation of the grey levels, 0 to 255. Warmth is red minus blue,
    tint is green minus the mean of red and blue, and saturation is the largest minus the smallest
    channel, each on average over the pixels.
    """
    picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
    canvas = np.asarray(picture, dtype=np.float32)
    red, green, blue = canvas.mean(axis=(0, 1))
    grey = canvas @ LUMA
    inner = grey[1:-1, 1:-1]
    laplacian = grey[2:, 1:-1] + grey[:-2, 1:-1] + grey[1:-1, 2:] + grey[1:-1, :-2] - 4 * inner
    measures = [
        np.log((laplacian.var() + _LEAST) / (grey.var() + _LEAST)),
        grey.mean(),
        grey.std(),
        red - blue,
        green - (red + blue) / 2,
        (canvas.max(axis=2) - canvas.min(axis=2)).mean(),
    ]
    return np.array(measures, dtype=np.float32)
