"""Image bytes to upright 8-bit RGB pixels, whatever the file's mode, depth or orientation."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tutelage.errors import TutelageError

DECODER_VERSION = 1  # part of every cache key: raise it when the same bytes give other pixels
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF")  # a JPEG may hold an MPO inside
# The last row cannot be decoded, but is listed so that the images are reported, not overlooked.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng"),
    *(".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    *(".heic", ".heif", ".avif", ".jp2", ".jxl"),
)
_ORIENTATION = 0x0112  # EXIF and TIFF share the tag
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(TutelageError):
    """The bytes are not an image that can be shown; the message is the reason."""


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file the way a viewer would show it on a white page.

    The first frame or page of JPEG, PNG, WebP, BMP, TIFF or GIF, turned by its EXIF orientation.
    CMYK (Adobe's inverted kind too) and palettes become RGB, grey becomes three equal channels,
    and transparency is composited on white. 16-bit values keep their high byte; 32-bit integers
    and floats have no agreed range, so their minimum maps to 0 and their maximum to 255.

    Returns:
        uint8 (H, W, 3).

    Raises:
        UnreadableImage: empty, unknown, damaged, truncated or implausibly large.
    """
    with _explained(data), _open(data) as image:
        image.load()
        turn = _TURNS.get(_orientation(image))  # after load: Pillow may have turned it already
        rgb = _rgb(image)
        pixels: NDArray[np.uint8] = np.array(rgb if turn is None else rgb.transpose(turn))
        return pixels


def read_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) in pixels from the header alone, before any orientation.

    Raises:
        UnreadableImage: the header is not one of a known image.
    """
    with _explained(data), _open(data) as image:
        return image.size


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if min(image.size) < 1:
        raise UnreadableImage(f"has no pixels: {image.width} x {image.height}")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata does not make the pixels worse
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Scale one channel of 16-bit, 32-bit or float values to uint8 (H, W)."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    grey: NDArray[np.uint8]
    if image.mode.startswith("I;16") or image.format == "PNG":
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]  # a 12-bit TIFF also opens as I;16
        grey = (values.astype(np.int64) >> (bits - 8)).clip(0, 255).astype(np.uint8)
    else:
        finite = np.isfinite(values)
        low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0, 0)
        span = max(float(high) - float(low), np.finfo(np.float64).tiny)
        scaled = (np.where(finite, values, low).astype(np.float64) - float(low)) / span
        grey = np.rint(scaled * 255).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # WhiteIsZero, which Pillow undoes for 8 bits only
        grey = ~grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey


@contextlib.contextmanager
def _explained(data: bytes) -> Iterator[None]:
    """Turn whatever Pillow raises into an UnreadableImage with a reason for people."""
    try:
        with _quiet:
            yield
    except UnreadableImage:
        raise
    except Exception as error:  # on damaged bytes decoders raise nearly every builtin exception
        raise UnreadableImage(_reason(data, error)) from error


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if data[4:8] == b"ftyp":
        return "is HEIC, AVIF or a video; convert it to JPEG or PNG"
    if isinstance(error, UnidentifiedImageError):
        return "is not a JPEG, PNG, WebP, BMP, TIFF or GIF image, or its header is damaged"
    if isinstance(error, Image.DecompressionBombError):
        return "is implausibly large (a decompression bomb?); scale it down"
    return f"is damaged: {str(error) or type(error).__name__}"


class _Quiet:
    """Ignore Pillow's warnings while any thread decodes.

    ``warnings.catch_warnings`` swaps global state, so threads that each entered and left it
    could restore one another's filters; here the first one in swaps and the last one out restores.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._catch = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._catch = warnings.catch_warnings()
                self._catch.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._catch.__exit__(None, None, None)


_quiet = _Quiet()
