"""Images behind addresses: from web servers, and from what fsspec knows (``s3://...``)."""

from __future__ import annotations

import glob
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

from tutelage._version import __version__
from tutelage.data.decode import MAX_BYTES
from tutelage.data.layout import is_image
from tutelage.data.shards import braces
from tutelage.system.errors import TutelageError
from tutelage.system.storage import file_system

WAIT_S = 20  # for each answer of a web server
DOWNLOAD_S = 120  # for one image from it


def find_remote(url: str) -> list[tuple[str, Callable[[], bytes]]]:
    """The addresses of the images that one stands for, and what fetches each; see ``find_images``.

    What fetches raises OSError where an image cannot be had, takes too long, or is too large.

    Raises:
        TutelageError: no image there, no access, or a kind of address that needs another package.
    """
    if url.startswith(("http://", "https://")):
        return [(url, partial(download, url, DOWNLOAD_S))]
    found: list[tuple[str, Callable[[], bytes]]] = []
    for one in braces(url):
        try:
            system, paths = _in_store(one)
        except TutelageError:
            raise
        except Exception as error:  # each store's client raises its own kinds
            raise TutelageError(f"{one} cannot be listed: {_said(error)}") from error
        if not paths:
            raise TutelageError(f"no images in {one}")
        found += [(system.unstrip_protocol(path), partial(_read, system, path)) for path in paths]
    return found


def _in_store(url: str) -> tuple[Any, list[str]]:
    """The fsspec file system, and the images in it that an address stands for."""
    system, path = file_system(url)
    if glob.has_magic(path):
        return system, [name for name in sorted(system.glob(path)) if is_image(name)]
    if system.isdir(path):
        return system, [name for name in sorted(system.find(path)) if is_image(name)]
    return system, [path]


def _read(system: Any, path: str) -> bytes:
    try:
        size = system.info(path).get("size")
        if size is None:  # a range only then: S3 has none in an empty object
            content = bytes(system.cat_file(path, start=0, end=MAX_BYTES + 1))
            size = len(content)
        elif size <= MAX_BYTES:
            content = bytes(system.cat_file(path))
    except Exception as error:
        raise OSError(f"cannot be fetched: {_said(error)}") from error
    if size > MAX_BYTES:
        raise OSError(_too_large(size))
    return content


def download(url: str, seconds: float) -> bytes:
    """What a web server sends for an address, within some seconds.

    Raises:
        OSError: it cannot be had, takes too long, or is larger than an image may be.
    """
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
        raise OSError(f"cannot be fetched: {_said(error.reason)}") from error
    except (ValueError, http.client.HTTPException) as error:  # no address, as http://[, or answer
        raise OSError(f"cannot be fetched: {_said(error)}") from error
    return bytes(content)


def _said(error: object) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _too_large(size: int) -> str:
    return f"it has {size:,} bytes or more; expected at most {MAX_BYTES:,} of an image"
