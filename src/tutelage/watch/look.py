"""What a model says of images, and what they look like: a few numbers for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage.deploy.answers import each_image
from tutelage.deploy.images import Picture
from tutelage.deploy.runtime import OnnxModel
from tutelage.stats.metrics import Floats, Ints
from tutelage.system.errors import TutelageError, told

COMPONENTS = 64  # of the projected features
MEASURES = ("sharpness", "brightness", "contrast", "warmth", "tint", "saturation")
"""What ``measure`` gives, in this order."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_LEAST = 1e-3  # grey levels squared: a picture of one colour has no variance
ROW = np.dtype(
    [
        ("predicted", "<i4"),  # the likeliest class, whatever the decision threshold
        ("confidence", "<f4"),  # probability of the likeliest class
        ("energy", "<f4"),
        ("features", "<f2", (COMPONENTS,)),  # projected
        ("pixels", "<f4", (len(MEASURES),)),
    ]
)
"""What is kept of an image, 164 bytes: it cannot be made visible from them."""
Seen = NDArray[Any]  # (N,) of ROW


def check_features(model: OnnxModel) -> None:
    """Refuse a model whose file gives no features."""
    if not model.has_features:
        raise TutelageError(
            f"{model.path} gives no features, as a form for other runtimes; write the usual file "
            "with tutelage export, and watch with that"
        )


def look(model: OnnxModel, pictures: Sequence[Picture]) -> tuple[Seen, Ints, list[tuple[str, str]]]:
    """What is seen of the readable pictures, which these are, and (name, reason) of the others."""

    def one(picture: Picture) -> Seen:
        pixels = [picture.pixels()]
        return seen_of(model, pixels, *model.look(pixels))

    readable, rows, skipped = [], [], []
    for number, found in enumerate(each_image(one, pictures)):
        if isinstance(found, np.ndarray):
            readable.append(number)
            rows.append(found)
        else:
            skipped.append((pictures[number].name, told(found)))
    if not rows:
        raise TutelageError(f"none of the {len(pictures)} images can be read: {skipped[0][1]}")
    return np.concatenate(rows), np.array(readable), skipped


def seen_of(
    model: OnnxModel,
    images: Sequence[NDArray[np.uint8]],
    probabilities: Floats,
    energy: Floats,
    features: Floats,
) -> Seen:
    """What is kept of images (H, W, 3) and of what ``OnnxModel.look`` says of them."""
    canvas = int(model.metadata["tutelage.canvas"])
    seen = np.zeros(len(images), ROW)
    seen["predicted"] = probabilities.argmax(axis=1)
    seen["confidence"] = probabilities.max(axis=1)
    seen["energy"] = energy
    seen["features"] = _projected(features)
    seen["pixels"] = [measure(image, canvas) for image in images]
    return seen


def is_sound(seen: Seen, classes: int) -> bool:
    """Whether what was read from a file can have been seen by a model of so many classes."""
    known = (seen["predicted"] >= 0) & (seen["predicted"] < classes)
    figures = ("confidence", "energy", "features", "pixels")
    return bool(known.all()) and all(np.isfinite(seen[name]).all() for name in figures)


def probe(model: OnnxModel) -> tuple[Floats, Floats]:
    """A model's probabilities (K,) and features (D,) of a picture that never changes."""
    rows, columns = np.mgrid[:64, :64] * 4
    picture = np.stack([rows, columns, rows ^ columns], axis=2).astype(np.uint8)
    probabilities, _, features = model.look([picture])
    return probabilities[0], features[0]


def _projected(features: Floats) -> Floats:
    """Features (N, D) as (N, COMPONENTS) float16, about as far from each other as before.

    By random signs (Achlioptas 2003, "Database-friendly random projections", theorem 1.1). They
    depend on no image, so reference and batch are treated alike; principal directions of the
    reference would fit it better than any batch.
    """
    # A word for each feature, bit by bit.
    bits = np.asarray(np.random.PCG64(0).random_raw(features.shape[1]), dtype=np.uint64)
    signs = 1 - 2 * ((bits[:, None] >> np.arange(COMPONENTS, dtype=np.uint64)) & 1).astype(int)
    return np.asarray(features @ signs / np.sqrt(COMPONENTS), dtype=np.float16)


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
