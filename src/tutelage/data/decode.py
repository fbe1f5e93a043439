"""Image bytes to upright 8-bit RGB pixels, whatever the file's mode, depth or orientation."""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tutelage.system.errors import TutelageError, told

DECODER_VERSION = 1  # part of every cache key: raise it when the same bytes give other pixels
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF")  # a JPEG may hold an MPO inside
# The last row cannot be decoded, but is listed so that the images are reported, not overlooked.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng"),
    *(".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"),
    *(".heic", ".heif", ".avif", ".jp2", ".jxl"),
)
# Photos of 108-megapixel phones pass. At 10 to 25 bytes a pixel while it is decoded, the largest
# image needs up to 3 GB, which a file of a few hundred kilobytes can ask for.
MAX_PIXELS = 128_000_000
MAX_BYTES = 4 * MAX_PIXELS  # of a file: the largest image with alpha, uncompressed
LARGE_PIXELS = 32_000_000  # larger ones are decoded one at a time, however many threads there are
_one_at_a_time = threading.Lock()
# Encoders write about ten. Every scan is a pass over all pixels for a few bytes ("Two Issues with
# the JPEG Standard", libjpeg-turbo.org): 2,000 in 160 kB took a minute.
MAX_SCANS = 100
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # none is in entropy-coded data: T.81, B.1.1.5
# Pillow walks a JPEG's header in Python and keeps each segment: a million empty ones in 4 MB took
# three seconds. Photos have dozens; profiles and previews are split over a few hundred at most.
MAX_SEGMENTS = 1000
MAX_STRAY_BYTES = 100_000  # between them; Pillow passes over these one by one
_SEGMENT = re.compile(rb"\xff[^\x00\xff]")
_WITHOUT_LENGTH = frozenset(
    bytes((0xFF, code)) for code in (0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE))
)  # as Pillow reads them
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
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


# Of damaged metadata, mostly; ``warnings.catch_warnings`` is not for several threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class UnreadableImage(TutelageError):
    """The bytes are not an image that can be shown; the message is the reason."""


def why_skipped(error: UnreadableImage | OSError) -> str:
    """The reason that is listed for an image without pixels."""
    if isinstance(error, UnreadableImage):
        return str(error)
    return f"the file cannot be read: {error.strerror or error}"


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file the way a viewer would show it on a white page.

    The first frame or page of JPEG, PNG, WebP, BMP, TIFF or GIF, turned by its EXIF orientation.
    CMYK (Adobe's inverted kind too) and palettes become RGB, grey becomes three equal channels,
    and transparency is composited on white. 16-bit values keep their high byte; 32-bit integers
    and floats have no agreed range, so their minimum maps to 0 and their maximum to 255. The result
    is uint8 (H, W, 3), or the error UnreadableImage.
    """
    with _explained(data), _open(data) as image:
        large = image.width * image.height > LARGE_PIXELS
        with _one_at_a_time if large else contextlib.nullcontext():
            return _upright(image)


def as_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a Pillow image, as ``decode`` gives those of a file; UnreadableImage if not."""
    with _explained(b"Pillow has read it"):
        return _upright(image)


def _upright(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    turn = _TURNS.get(_orientation(image))  # after load: Pillow may have turned it already
    rgb = _rgb(image)
    pixels: NDArray[np.uint8] = np.array(rgb if turn is None else rgb.transpose(turn))
    return pixels


def read_size(data: bytes) -> tuple[int, int]:
    """Read (width, height) from the header, before any orientation; UnreadableImage if damaged."""
    with _explained(data), _open(data) as image:
        return image.size


def _open(data: bytes) -> Image.Image:
    if data.startswith(b"\xff\xd8\xff") and _has_endless_header(data):
        raise UnreadableImage(
            f"the file is a JPEG whose header has more than {MAX_SEGMENTS:,} segments or "
            f"{MAX_STRAY_BYTES:,} stray bytes (a decompression bomb?); save it again"
        )
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if min(width, height) < 1:
        raise UnreadableImage(f"the file has no pixels: {width} x {height}")
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"the file is implausibly large: {width} x {height} pixels, more than {MAX_PIXELS:,} "
            "(a decompression bomb?); scale it down"
        )
    if image.format in ("JPEG", "MPO") and _has_many_scans(data):
        raise UnreadableImage(
            f"the file is a JPEG of more than {MAX_SCANS} scans (a decompression bomb?); save it "
            "again"
        )
    return image


def _has_endless_header(jpeg: bytes) -> bool:
    at, segments, stray = 2, 0, 0
    while segments <= MAX_SEGMENTS:
        found = _SEGMENT.search(jpeg, at)
        stray += (found.start() if found else len(jpeg)) - at
        if stray > MAX_STRAY_BYTES:
            return True
        if found is None or found[0] == _START_OF_SCAN:
            return False
        segments += 1
        at = found.end()
        if found[0] not in _WITHOUT_LENGTH:
            at += max(2, int.from_bytes(jpeg[at : at + 2], "big"))
    return True


def _has_many_scans(jpeg: bytes) -> bool:
    if jpeg.count(_START_OF_SCAN) <= MAX_SCANS:  # a video behind the photo has some by chance
        return False
    scans, at = 0, 2
    while scans <= MAX_SCANS and (found := _MARKER.search(jpeg, at)):
        if found[0] == _END_OF_IMAGE:
            return False
        scans += found[0] == _START_OF_SCAN
        at = found.end() + max(2, int.from_bytes(jpeg[found.end() : found.end() + 2], "big"))
    return scans > MAX_SCANS


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
    return image if image.mode == "RGB" else image.convert("RGB")


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
        scaled = np.where(finite, values, low).astype(np.float64)
        scaled -= float(low)  # in place: a large image's copies are what its memory goes to
        scaled /= span
        scaled *= 255
        grey = np.rint(scaled, out=scaled).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # WhiteIsZero, which Pillow undoes for 8 bits only
        grey = ~grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey


@contextlib.contextmanager
def _explained(data: bytes) -> Iterator[None]:
    try:
        yield
    except UnreadableImage:
        raise
    except Exception as error:  # on damaged bytes decoders raise nearly every builtin exception
        raise UnreadableImage(_reason(data, error)) from error


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "the file is empty"
    if data[4:8] == b"ftyp":
        return "the file is HEIC, AVIF or a video; convert it to JPEG or PNG"
    if isinstance(error, UnidentifiedImageError):
        return "the file is not a JPEG, PNG, WebP, BMP, TIFF or GIF image, or its header is damaged"
    if isinstance(error, Image.DecompressionBombError):
        return "the file is implausibly large (a decompression bomb?); scale it down"
    if isinstance(error, MemoryError):
        return "the file needs more memory than there is; scale it down"
    return f"the file is damaged: {told(error)}"
