"""What IMAGES stand for: files, folders, patterns, manifests, addresses, stdin, images in memory.

Imports no torch.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage.data.catalog import Catalog
from tutelage.data.decode import as_pixels, decode
from tutelage.data.layout import as_text, image_files, is_image
from tutelage.data.open import read_catalog
from tutelage.data.shards import braces
from tutelage.data.sources import read_file
from tutelage.deploy.fetch import find_remote
from tutelage.system.errors import TutelageError
from tutelage.system.nearest import did_you_mean
from tutelage.system.storage import Place

OneImage: TypeAlias = str | os.PathLike[str] | NDArray[Any] | Image.Image
Images: TypeAlias = OneImage | Iterable[OneImage]

MANIFESTS = (".csv", ".parquet")
EXPECTED = "a path, a PIL image, or an array of uint8 (H, W, 3) or (H, W)"
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Picture:
    """An image by its name.

    Attributes:
        name: as users know it.
        pixels: gives uint8 (H, W, 3); raises UnreadableImage or OSError where there are none.
    """

    name: str
    pixels: Callable[[], NDArray[np.uint8]]


def find_images(images: Images) -> list[Picture]:
    """The images that are meant, in order; what is a file is not yet read.

    A path may name an image file, a folder, which is searched, a .csv or .parquet manifest, or an
    address (http, https, or any that fsspec knows). In a path that is no file, ``*``, ``**``,
    ``?``, ``[...]``, ``{000..099}`` and ``{a,b}`` stand for several. ``-`` is stdin: one image, or
    the names of images, one a line, or with a NUL byte after each, as ``find -print0`` writes them.

    Raises:
        TutelageError: no image there, or a value that is none.
    """
    given = [images] if is_one(images) else _listed(images)
    return [picture for number, one in enumerate(given) for picture in _pictures(one, number)]


def is_one(images: Images) -> bool:
    """Whether this is one image or path, not several."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4 and images.dtype.kind not in "OU"
    return isinstance(images, str | os.PathLike | Image.Image)


def stands_for_several(images: Images) -> bool:
    """Whether this is a path that may mean any number: a folder, a manifest, a pattern, stdin."""
    if not isinstance(images, str | os.PathLike):
        return False
    text = os.fsdecode(images).removeprefix("file://")
    if os.path.isfile(text):
        return Path(text).suffix.lower() in MANIFESTS
    if "://" in text:
        web = text.startswith(("http://", "https://"))
        return not web and (_is_pattern(text) or not is_image(text))
    return text == "-" or os.path.isdir(text) or _is_pattern(text)


def _listed(images: Any) -> list[Any]:
    if isinstance(images, bytes) or not isinstance(images, Iterable):
        raise TutelageError(
            f"the images are {type(images).__name__}; expected {EXPECTED}, or several"
        )
    return list(images)


def _pictures(one: Any, number: int) -> list[Picture]:
    name = f"image {number}"
    if isinstance(one, str | os.PathLike):
        return _named(os.fsdecode(one))
    if isinstance(one, Image.Image):
        return [Picture(name, partial(as_pixels, one))]
    if isinstance(one, np.ndarray):
        colour = one.ndim == 3 and one.shape[2] == 3
        if one.dtype == np.uint8 and one.size and (colour or one.ndim == 2):
            return [Picture(name, partial(_in_colour, one))]
        raise TutelageError(f"{name} is {one.dtype} {one.shape}; expected {EXPECTED}")
    raise TutelageError(f"{name} is {type(one).__name__}; expected {EXPECTED}")


def _in_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


def _named(text: str) -> list[Picture]:
    """The images that a path, a pattern, an address or ``-`` stands for."""
    if text == "-":
        return _of_stdin(sys.stdin.buffer.read())
    place = Place.at(text)
    if place.remote:
        return [Picture(url, partial(_fetched, fetch)) for url, fetch in find_remote(text)]
    text = place.name
    path = Path(text)
    if text and path.is_dir():
        if not (files := image_files(path)):
            raise TutelageError(f"no images in {path}")
        return [_of_file(file) for file in files]
    if text and path.exists():
        return _of_manifest(path) if path.suffix.lower() in MANIFESTS else [_of_file(path)]
    if _is_pattern(text):
        return [_of_file(file) for one in braces(text) for file in _matches(one)]
    if not text:
        raise TutelageError("the name of an image is empty; expected a file, a folder or a pattern")
    if re.match(r"[a-z][a-z0-9+.-]+:/[^/]", text):
        raise TutelageError(
            f"no such image or folder: {text}; give an address as a str, not a Path"
        )
    raise TutelageError(f"no such image or folder: {text}{did_you_mean(path)}")


def _fetched(fetch: Callable[[], bytes]) -> NDArray[np.uint8]:
    return decode(fetch())


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) or len(braces(text)) > 1


def _matches(pattern: str) -> list[Path]:
    """The image files that match, and all images in the folders that do, each once."""
    found: dict[Path, None] = {}
    for match in sorted(glob.glob(pattern, recursive=True)):
        files = image_files(Path(match)) if os.path.isdir(match) else [Path(match)]
        found |= dict.fromkeys(file for file in files if is_image(str(file)))
    if not found:
        raise TutelageError(f"no image matches {pattern}")
    return list(found)


def _of_file(path: Path) -> Picture:
    return Picture(as_text(str(path)), lambda: decode(read_file(path)))


def _of_manifest(path: Path) -> list[Picture]:
    """All images of a manifest, whatever their split and label, by their names in it."""
    catalog = read_catalog(path)
    return pictures_of(catalog, range(len(catalog)))


def pictures_of(catalog: Catalog, rows: Iterable[int]) -> list[Picture]:
    """Rows of a catalog as pictures, which are decoded when they are asked for."""
    return [Picture(catalog.names[row], partial(_row, catalog, int(row))) for row in rows]


def _row(catalog: Catalog, row: int) -> NDArray[np.uint8]:
    return decode(catalog.source.read(row))


def _of_stdin(content: bytes) -> list[Picture]:
    if _is_image_file(content):
        return [Picture("stdin", partial(decode, content))]
    content = content.removeprefix(b"\xef\xbb\xbf")  # Windows puts it before text
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if not names:
        raise TutelageError("stdin is empty; expected an image, or names of images, one a line")
    if "-" in names:
        raise TutelageError("stdin names itself (-); a file of that name is called ./-")
    return [picture for name in names for picture in _named(name)]


def _is_image_file(content: bytes) -> bool:
    """Whether this begins like the file of an image and not like the name of one."""
    riff = content.startswith(b"RIFF") and content[8:12] == b"WEBP"
    bitmap = content.startswith(b"BM") and content[6:10] == bytes(4)
    return content.startswith(_STARTS) or riff or bitmap or content[4:8] == b"ftyp"
