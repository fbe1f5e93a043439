"""Images that an export is checked on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.data.decode import UnreadableImage, decode

PARITY_IMAGES = 64


def readable_images(catalog: Catalog, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The images in rows (n,) of a catalog, as files hold them; unreadable ones are passed over."""
    for row in rows:
        with contextlib.suppress(UnreadableImage, OSError):
            yield decode(catalog.source.read(int(row)))


def noise_images(canvas: int, count: int = 128) -> list[np.ndarray]:
    """Smooth random pictures of many shapes: a model folder carries no images to check with."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        height, width = rng.integers(canvas // 2, 2 * canvas, size=2)
        coarse = rng.integers(0, 256, size=(4, 4, 3))
        rows = np.linspace(0, 3, height).round().astype(int)
        columns = np.linspace(0, 3, width).round().astype(int)
        images.append(coarse[rows][:, columns].astype(np.uint8))
    return images
