"""Where the bytes of images come from: files, and rows of Parquet and Arrow files."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tutelage.data.columns import open_arrow, open_parquet, sound
from tutelage.data.decode import MAX_BYTES
from tutelage.system.errors import told
from tutelage.system.files import digest


class Source(Protocol):
    """Reads the images of a catalog."""

    def read(self, index: int) -> bytes:
        """Return the image file's bytes; raises OSError when they cannot be had."""

    def signature(self, index: int) -> str:
        """Return a cheap text that changes when the bytes may have changed; never raises."""


@dataclass(frozen=True)
class FileSource:
    """One file for each image."""

    paths: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.paths[index])

    def signature(self, index: int) -> str:
        """Return path, size and times: ctime betrays a replaced file that kept its mtime."""
        return stat_text(self.paths[index])


class ParquetSource:
    """Image bytes in a Parquet column, streamed in small batches: quick when read in order.

    Two batches are kept, so threads that read nearly in order share them. Memory does not grow
    with the file, even when it is one single row group.
    """

    _BATCH = 128

    def __init__(self, path: Path, column: str = "image") -> None:
        self.path = path
        self.column = column
        self._lock = threading.Lock()
        self._batches: Iterator[Any] = iter(())
        self._held: list[tuple[int, Any]] = []  # (first row, column), oldest first
        self._groups: NDArray[np.intp] | None = None  # first row of each row group
        self._file: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process by the file's name, which that opens anew."""
        return ParquetSource, (self.path, self.column)

    def read(self, index: int) -> bytes:
        """Return the bytes of one row; a path in its place is not followed."""
        with self._lock:
            try:
                value = self._value(int(index))
            except Exception as error:  # on damaged pages pyarrow raises nearly every kind
                self._held = []  # the stream is broken: the next read seeks anew
                raise OSError(f"row {index} of {self.path} is damaged: {error}") from error
        content = bytes_in(value)
        if content is None:
            raise OSError(f"row {index} has no image bytes")
        return content

    def signature(self, index: int) -> str:
        """Return the file's state and the row."""
        return f"{stat_text(self.path)}#{index}"

    def _value(self, row: int) -> Any:
        for first, column in self._held:
            if first <= row < first + len(column):
                return column[row - first].as_py()
        self._seek(row)
        while True:
            first = self._held[-1][0] + len(self._held[-1][1])
            self._held = [*self._held[-1:], (first, next(self._batches).column(0))]
            if row < first + len(self._held[-1][1]):
                return self._held[-1][1][row - first].as_py()

    def _seek(self, row: int) -> None:
        """Start streaming at the row's group, unless reading on from here gets there sooner."""
        if self._groups is None:
            self._file = open_parquet(self.path)
            meta = self._file.metadata
            sizes = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
            self._groups = np.cumsum([0, *sizes[:-1]])
        group = int(np.searchsorted(self._groups, row, side="right")) - 1
        first = int(self._groups[group])
        here = self._held[-1][0] if self._held else -1
        if not first <= here <= row:
            groups = list(range(group, len(self._groups)))
            self._batches = self._file.iter_batches(self._BATCH, groups, [self.column])
            self._held = [(first, ())]


class ArrowSource:
    """Image bytes in a memory-mapped Arrow stream file: quick in any order."""

    def __init__(self, path: Path, column: str) -> None:
        self.path = path
        self._name = column
        self._column = sound(open_arrow(path).column(column), path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process by the file's name, which that opens anew."""
        return ArrowSource, (self.path, self._name)

    def read(self, index: int) -> bytes:
        """Return the bytes of one row, or of the file that it names."""
        return content_of(self._column[int(index)].as_py(), f"row {index} of {self.path}")

    def signature(self, index: int) -> str:
        """Return the file's state and the row."""
        return f"{stat_text(self.path)}#{index}"


@dataclass(frozen=True, eq=False)
class Parts:
    """Images of several sources: image i is number ``rows[i]`` of source ``which[i]``."""

    sources: tuple[Source, ...]
    which: NDArray[np.intp]
    rows: NDArray[np.intp]

    def read(self, index: int) -> bytes:
        """Return the bytes of one image."""
        return self.sources[int(self.which[index])].read(int(self.rows[index]))

    def signature(self, index: int) -> str:
        """Return what its source says of it."""
        return self.sources[int(self.which[index])].signature(int(self.rows[index]))


def selected(source: Source, indices: NDArray[np.intp]) -> Source:
    """The images ``indices`` of a source, in this order."""
    if isinstance(source, FileSource):
        return FileSource(tuple(source.paths[i] for i in indices))
    if isinstance(source, Parts):
        return Parts(source.sources, source.which[indices], source.rows[indices])
    return Parts((source,), np.zeros(len(indices), dtype=np.intp), indices)


def content_digest(source: Source, index: int) -> str:
    """A checksum of an image's bytes, or why they cannot be had, after an exclamation mark."""
    try:
        return digest(source.read(index))
    except OSError as error:
        return f"!{told(error)}"


def read_file(path: Path | str) -> bytes:
    """Read an image file; links are followed, and what might never end or answer is refused."""
    name = os.fspath(path)
    try:
        found = os.stat(name)
    except ValueError as error:  # a NUL byte, say
        raise OSError(f"no file can be called {name!r}") from error
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError("it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise OSError("it is a pipe, a device or a socket, not a file")
    if found.st_size > MAX_BYTES:
        raise OSError(f"it has {found.st_size:,} bytes; expected at most {MAX_BYTES:,} of an image")
    with open(name, "rb", opener=_without_waiting) as file:
        return file.read(found.st_size)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file that may have become a pipe since it was looked at."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def stat_text(path: Path | str) -> str:
    """Path, size and times of a file, or why it has none; never raises OSError."""
    try:
        found = os.stat(path)
    except OSError as error:
        return f"{path}|{error.errno}"
    except ValueError:  # no file can be called so
        return f"{path}|"
    return f"{os.path.abspath(path)}|{found.st_size}|{found.st_mtime_ns}|{found.st_ctime_ns}"


def bytes_in(value: Any) -> bytes | None:
    """The bytes in an undecoded image (bytes, or Hugging Face's pair of bytes and path), if any."""
    content = value.get("bytes") if isinstance(value, Mapping) else value
    # ``bytes`` of a number would be that many zeros.
    return bytes(content) if isinstance(content, bytes | bytearray | memoryview) else None


def path_in(value: Any) -> str | None:
    """The path in an undecoded image that holds no bytes (a text, or Hugging Face's pair)."""
    if isinstance(value, Mapping):
        value = value.get("path") if value.get("bytes") is None else None
    return value if isinstance(value, str) else None


def content_of(value: Any, where: str) -> bytes:
    """The bytes of an undecoded image, or of the file it names; OSError where neither is there."""
    path = path_in(value)
    content = bytes_in(value) if path is None else read_file(path)
    if content is None:
        raise OSError(f"{where} has neither image bytes nor a path")
    return content
