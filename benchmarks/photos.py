"""The photos that a benchmark works on: the user's, or generated ones that resemble photos."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage.data.open import read_catalog
from tutelage.data.store import open_store

JPEG_QUALITY = 90

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Photos:
    """Decoded photos of one size.

    Attributes:
        pixels: (N, S, S, 3) RGB.
        origin: what they are, in words.
    """

    pixels: Pixels
    origin: str


def choose_photos(data: Path | str | None, count: int, side: int) -> Photos:
    """``count`` photos of ``side`` x ``side`` pixels.

    Args:
        data: a folder or manifest. Evenly spaced images are taken and squashed to the square, and
            repeated if there are fewer than ``count``. None generates photos.
        count: N.
        side: S.

    Raises:
        TutelageError: the data cannot be read.
    """
    if data is None:
        return Photos(generate(count, side), f"{count} generated images (no --images were given)")
    catalog = read_catalog(data)
    some = spread(len(catalog), count)
    store = open_store(catalog.select(some), canvas=side)
    found = np.flatnonzero(store.readable)
    return Photos(store.images[np.resize(found, count)], f"{len(found)} images of {data}")


def spread(n: int, most: int) -> NDArray[np.intp]:
    """At most ``most`` positions, evenly spaced from the first of ``n`` to the last."""
    return np.unique(np.linspace(0, n - 1, most).round().astype(int))


def generate(count: int, side: int) -> Pixels:
    """Images (count, side, side, 3) that cost what photos cost.

    As in photos, amplitude falls with frequency, light and dark go together in the channels, and
    an edge runs through each: grey levels fill the tables and histograms, and a JPEG of 256 x 256
    pixels takes 23 kB (20 kB for photos of ants and bees).
    """
    random = np.random.default_rng(0)
    wave = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    wave[0, 0] = 1.0
    # Of the edge, the light, and the tints of three channels.
    steepness = np.array([3.0, 1.4, 2.0, 2.0, 2.0])[:, None, None]
    images = np.empty((count, side, side, 3), np.uint8)
    for image in images:
        spectrum = np.fft.rfft2(random.standard_normal((5, side, side))) / wave**steepness
        edge, light, *tints = np.fft.irfft2(spectrum, s=(side, side), norm="forward")
        parts = [part / part.std() for part in (light, *tints)]
        color = random.normal(0.0, 30.0, 3)[:, None, None]
        pixels = 120 + 45 * parts[0] + 20 * np.stack(parts[1:]) + (edge > 0) * color
        image[...] = pixels.clip(0, 255).transpose(1, 2, 0)
    return images


def shrink(pixels: Pixels, side: int) -> Pixels:
    """Images (N, S, S, 3) averaged down to (N, side, side, 3); S is a multiple of ``side``."""
    count, whole = pixels.shape[:2]
    blocks = pixels.reshape(count, side, whole // side, side, whole // side, 3)
    averages: Pixels = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
    return averages


def to_jpeg(pixels: Pixels) -> list[bytes]:
    """Each of the images (N, S, S, 3) as a JPEG file's bytes."""
    files = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
        files.append(file.getvalue())
    return files
