"""What IMAGES stand for: files, folders, patterns, manifests, addresses, stdin, images in memory.

Imports no torch.
"""

from __future__ import annotations

import glob
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage._version import __version__
from tutelage.data.catalog import Catalog
from tutelage.data.decode import MAX_BYTES, as_pixels, decode
from tutelage.data.layout import as_text, image_files, is_image
from tutelage.data.open import FILES, read_catalog
from tutelage.data.shards import braces
from tutelage.data.sources import read_file
from tutelage.system.errors import TutelageError, told
from tutelage.system.storage import Place, file_system
from tutelage.system.words import did_you_mean

WAIT_S = 20  # for each answer of a web server
DOWNLOAD_S = 120  # for one image from it
OneImage: TypeAlias = str | os.PathLike[str] | NDArray[Any] | Image.Image
Images: TypeAlias = OneImage | Iterable[OneImage]

EXPECTED = "a path, a PIL image, or an array of uint8 (H, W, 3) or (H, W)"
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class Picture:
    """An image by the name that users know it by.

    ``pixels`` gives uint8 (H, W, 3); it raises UnreadableImage or OSError where there are none.
    """

    name: str
    pixels: Callable[[], NDArray[np.uint8]]


def find_images(images: Images) -> list[Picture]:
    """The images that are meant, in order; what is a file is not yet read.

    A path may name an image file, a folder, which is searched, a table, tar or file of labels that
    ``run`` reads, or an address (http, https, or any that fsspec knows). In a path that is no file,
    ``*``, ``**``, ``?``, ``[...]``, ``{000..099}`` and ``{a,b}`` stand for several. ``-`` is stdin:
    one image, or the names of images, one a line, or with a NUL byte after each, as
    ``find -print0`` writes them.
    """
    given: list[Any]
    if is_one(images):
        given = [images]
    elif isinstance(images, Iterable) and not isinstance(images, bytes):
        given = list(images)
    else:
        raise TutelageError(
            f"the images are {type(images).__name__}; expected {EXPECTED}, or several"
        )
    return [picture for number, one in enumerate(given) for picture in _pictures(one, number)]


def is_one(images: Images) -> bool:
    """Whether this is one image or path, not several."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4 and images.dtype.kind not in "OU"
    return isinstance(images, str | os.PathLike | Image.Image)


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
        return [Picture(url, partial(_decoded, fetch)) for url, fetch in find_remote(text)]
    text = place.name
    path = Path(text)
    if text and path.is_dir():
        files = [_of_file(file) for file in image_files(path)]
        return files or _of_data(path)
    if text and path.exists():
        return _of_data(path) if path.suffix.lower() in FILES else [_of_file(path)]
    if _is_pattern(text):
        return [_of_file(file) for one in braces(text) for file in _matches(one)]
    if not text:
        raise TutelageError("the name of an image is empty; expected a file, a folder or a pattern")
    if re.match(r"[a-z][a-z0-9+.-]+:/[^/]", text):
        raise TutelageError(
            f"no such image or folder: {text}; give an address as a str, not a Path"
        )
    raise TutelageError(f"no such image or folder: {text}{did_you_mean(path)}")


def _decoded(read: Callable[..., bytes], *given: Any) -> NDArray[np.uint8]:
    return decode(read(*given))


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
    return Picture(as_text(str(path)), partial(_decoded, read_file, path))


def _of_data(path: Path) -> list[Picture]:
    """All images of a file or folder that ``run`` reads, whatever their split and label."""
    catalog = read_catalog(path)
    return pictures_of(catalog, range(len(catalog)))


def pictures_of(catalog: Catalog, rows: Iterable[int]) -> list[Picture]:
    """Rows of a catalog as pictures, which are decoded when they are asked for."""
    read = catalog.source.read
    return [Picture(catalog.names[row], partial(_decoded, read, int(row))) for row in rows]


def _of_stdin(content: bytes) -> list[Picture]:
    if _is_image_file(content):
        return [Picture("stdin", partial(decode, content))]
    content = content.removeprefix(b"\xef\xbb\xbf")  # Windows puts it before text
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    names = [os.fsdecode(line) for line in lines if line.strip()]
    if not names:
        raise TutelageError("stdin is empty; expected an image, or names of images, one a line")
    return [picture for name in names for picture in _named(name)]


def _is_image_file(content: bytes) -> bool:
    """Whether this begins like the file of an image and not like the name of one."""
    riff = content.startswith(b"RIFF") and content[8:12] == b"WEBP"
    bitmap = content.startswith(b"BM") and content[6:10] == bytes(4)
    return content.startswith(_STARTS) or riff or bitmap or content[4:8] == b"ftyp"


def find_remote(url: str) -> list[tuple[str, Callable[[], bytes]]]:
    """The addresses of the images that one stands for, and what fetches each; see ``find_images``.

    What fetches raises OSError where an image cannot be had, takes too long, or is too large.
    """
    if url.startswith(("http://", "https://")):
        return [(url, partial(download, url, DOWNLOAD_S))]
    found: list[tuple[str, Callable[[], bytes]]] = []
    for one in braces(url):
        try:
            system, path = file_system(one)
            paths = [path]
            if glob.has_magic(path) or system.isdir(path):
                below = system.glob(path) if glob.has_magic(path) else system.find(path)
                paths = [name for name in sorted(below) if is_image(name)]
        except TutelageError:
            raise
        except Exception as error:  # each store's client raises its own kinds
            raise TutelageError(f"{one} cannot be listed: {told(error)}") from error
        if not paths:
            raise TutelageError(f"no images in {one}")
        found += [(system.unstrip_protocol(path), partial(_read, system, path)) for path in paths]
    return found


def _read(system: Any, path: str) -> bytes:
    try:
        size = system.info(path).get("size")
        if size is None:  # a range only then: S3 has none in an empty object
            content = bytes(system.cat_file(path, start=0, end=MAX_BYTES + 1))
            size = len(content)
        elif size <= MAX_BYTES:
            content = bytes(system.cat_file(path))
    except Exception as error:
        raise OSError(f"cannot be fetched: {told(error)}") from error
    if size > MAX_BYTES:
        raise OSError(_too_large(size))
    return content


def download(url: str, seconds: float) -> bytes:
    """What a web server sends for an address, within some seconds."""
    agent = {"User-Agent": f"tutelage/{__version__}"}
    until = time.monotonic() + seconds
    content = bytearray()
    try:
        request = urllib.request.Request(url, headers=agent)
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
            while piece := answer.read1(1 << 20):
                content += piece
                if len(content) > MAX_BYTES:
                    raise OSError(_too_large(len(content)))
                if time.monotonic() > until:
                    raise OSError(f"cannot be fetched within {seconds:g} s")
    except urllib.error.HTTPError as error:
        raise OSError(f"the server answers {error.code}, {error.reason}") from error
    except urllib.error.URLError as error:
        raise OSError(f"cannot be fetched: {told(error.reason)}") from error
    except (ValueError, http.client.HTTPException) as error:  # no address, as http://[, or answer
        raise OSError(f"cannot be fetched: {told(error)}") from error
    return bytes(content)


def _too_large(size: int) -> str:
    return f"it has {size:,} bytes or more; expected at most {MAX_BYTES:,} of an image"
