"""Files and folders here, and in what fsspec knows: object stores, and servers of files.

A file that is written to a place appears there whole or not at all. Who sees to that differs:

- Here, ``tutelage.system.files``: a temporary file beside it is synced and renamed.
- In S3, Google's and Azure's stores, the store: an object is there when all of its bytes are, and
  an upload that breaks off leaves what was there before. So a file is put under its own name at
  once. A temporary key would gain nothing, since such a store renames by copying and deleting.
- Elsewhere (SFTP, SMB, HDFS) a file grows while it is written. So it is written under a hidden
  name beside its own, and renamed.

What is uploaded is always a finished file from here: one that fsspec opens for writing is published
when it is closed, also by an error on the way, and its transactions are shared by all threads.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from tutelage.system import files
from tutelage.system.errors import TutelageError, need, told

_PIECE = 1 << 24  # bytes of a remote file in one request
_STATES = ("ETag", "etag", "md5Hash", "md5", "mtime", "LastModified", "last_modified", "created")
_PASSWORD = re.compile(r"^(\w+://[^/@:]*):[^/@]*@")
_WHOLE = {"s3", "gs", "abfs"}  # of these file systems an object appears only when it is complete


@dataclass(frozen=True)
class Place:
    """A path or a URL."""

    name: str
    remote: bool

    @classmethod
    def at(cls, name: str | os.PathLike[str]) -> Place:
        """The place that a person names; ``file://`` is a path.

        A URL that holds a password is refused, because files would repeat it.
        """
        text = os.fspath(name)
        remote = "://" in text and not text.startswith("file://")
        if remote and (hidden := _PASSWORD.sub(r"\1:***@", text)) != text:
            raise TutelageError(
                f"{hidden} holds a password, which would be written into every file of labels; "
                "leave it out, and give it to fsspec (filesystem-spec.readthedocs.io, "
                "'Configuration'), or use a key"
            )
        return cls(text if remote else text.removeprefix("file://"), remote)

    def absolute(self) -> Place:
        """The same place, named alike from any working directory."""
        return self if self.remote else Place(os.path.abspath(self.name), remote=False)

    def __str__(self) -> str:
        """Its name."""
        return self.name

    def __truediv__(self, part: str) -> Place:
        """What is in the folder under this name."""
        if self.remote:
            return Place(f"{self.name.rstrip('/')}/{part}", remote=True)
        return Place(os.path.join(self.name, part), remote=False)

    @cached_property
    def system(self) -> tuple[Any, str]:
        """The fsspec file system and the path in it."""
        if self.remote:
            return file_system(self.name)
        return need("fsspec", "train").filesystem("file"), os.path.abspath(self.name)

    def holds(self, other: Place) -> bool:
        """Whether the other place is this one, or below it."""
        if self.remote != other.remote:
            return False
        if not self.remote:
            return Path(other.name).resolve().is_relative_to(Path(self.name).resolve())
        (ours, folder), (theirs, path) = self.system, other.system
        return bool(ours == theirs) and f"{path}/".startswith(f"{folder.rstrip('/')}/")

    def fingerprint(self) -> str:
        """Size and time here; size and the store's own checksum or time elsewhere.

        The time of a local file is that of its content, so that another name of its folder, new
        permissions or another mount change nothing.
        """
        if not self.remote:
            stat = os.stat(self.name)
            return f"{stat.st_size} {stat.st_mtime_ns}"
        with as_oserror(self.name):
            system, path = self.system
            return state_of(system.info(path))

    @contextmanager
    def opened(self, stop: threading.Event) -> Iterator[BinaryIO]:
        """A seekable binary file; a remote one is copied here."""
        if not self.remote:
            with open(self.name, "rb") as file:
                yield file
            return
        with tempfile.TemporaryFile() as here:
            with as_oserror(self.name):
                system, path = self.system
                with system.open(path, "rb", block_size=_PIECE) as there:
                    while piece := there.read(_PIECE):
                        if stop.is_set():
                            raise OSError("the copying was stopped")
                        with files.about(Path(tempfile.gettempdir())):
                            here.write(piece)
            here.seek(0)
            yield here

    def exists(self) -> bool:
        """Whether there is such a file; raises OSError where a store does not say."""
        with as_oserror(self.name):
            system, path = self._now
            try:  # fsspec's own ``exists`` is also False when the store does not answer
                system.info(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def names(self) -> list[str]:
        """The names in the folder, sorted; none if there is no such folder."""
        with as_oserror(self.name):
            system, path = self._now
            try:
                found = [name.rstrip("/") for name in system.ls(path, detail=False)]
            except FileNotFoundError:
                return []
            folder = path.rstrip("/")  # some stores list it among what it holds
            return sorted(name.rpartition("/")[2] for name in found if name != folder)

    def read_bytes(self, last: int | None = None) -> bytes:
        """The content of the file, or its ``last`` bytes, fewer if it has fewer."""
        with as_oserror(self.name):
            system, path = self._now
            start = 0 if last is None else max(0, system.info(path)["size"] - last)
            content: bytes = system.cat_file(path, start=start or None)
            return content

    @contextmanager
    def replacing(self) -> Iterator[Path]:
        """A temporary file here to write to, which becomes this file in one step in the end.

        After a failure the old file, or none, is there, and an OSError names it, or the temporary
        one. A process that is killed may leave a file in the temporary folder, and beside this one
        a hidden name that ends in ``.partial``; nothing reads either.
        """
        if not self.remote:
            with files.replacing(Path(self.name)) as partial:
                yield partial
            return
        with tempfile.TemporaryDirectory(prefix="tutelage-") as folder:
            here = Path(folder, "whole")
            with files.about(here):
                yield here
            with as_oserror(self.name):
                self._publish(str(here))

    def write(self, content: bytes | str) -> None:
        """Replace the file, as ``replacing`` does; text is written as UTF-8."""
        with self.replacing() as here:
            here.write_bytes(content.encode() if isinstance(content, str) else content)

    def remove(self) -> None:
        """Delete the file, if there is one."""
        with suppress(FileNotFoundError), as_oserror(self.name):
            system, path = self._now
            system.rm_file(path)

    def make_folder(self) -> None:
        """Make the folder, if there is none; object stores have none."""
        with as_oserror(self.name):
            system, path = self._now
            if not _puts_whole(system):  # S3 would make the bucket, too
                try:
                    system.makedirs(path, exist_ok=True)
                except Exception:
                    if not system.isdir(path):  # another process has not just made it
                        raise

    @property
    def _now(self) -> tuple[Any, str]:
        """``system`` as it is now: it remembers listings, but other processes write there, too."""
        system, path = self.system
        system.invalidate_cache()
        return system, path

    def _publish(self, here: str) -> None:
        """Put a local file in this place."""
        system, path = self._now
        if _puts_whole(system):
            system.put_file(here, path)
            return
        folder, _, name = path.rpartition("/")
        beside = f"{folder}/.{name}.{secrets.token_hex(4)}.partial"
        try:
            system.put_file(here, beside)
            try:
                system.mv(beside, path)
            except Exception:
                if not system.exists(path):
                    raise
                _replace(system, beside, path)
        except BaseException:
            with suppress(Exception):
                system.rm_file(beside)
            raise


def _replace(system: Any, new: str, path: str) -> None:
    """Rename onto a file on a server that does not do so at once; a failure leaves the old one."""
    old = f"{new}.old"
    system.mv(path, old)
    try:
        system.mv(new, path)
    except BaseException:
        system.mv(old, path)
        raise
    system.rm_file(old)


def _puts_whole(system: Any) -> bool:
    known = system.protocol
    return not _WHOLE.isdisjoint([known] if isinstance(known, str) else known)


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    core = need("fsspec.core", "train")
    try:
        system, path = core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # it says which package to install
        raise TutelageError(f"{url}: {error}") from error
    return system, str(path)


def state_of(info: dict[str, Any]) -> str:
    """What a store's listing says about the content of a file: its size, and checksum or time."""
    known = next((str(info[key]) for key in _STATES if info.get(key)), "")
    return f"{info.get('size')} {known}"


def size_in(state: str) -> int:
    """The size that ``state_of`` said, in bytes; 0 where the listing had none."""
    size = state.partition(" ")[0]
    return int(size) if size.isdigit() else 0


@contextmanager
def as_oserror(where: str) -> Iterator[None]:
    """Raise OSError, as a disk does, in place of what the clients of object stores raise."""
    try:
        yield
    except TutelageError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # of a file here
            raise
        said = " ".join(told(error).split()).rstrip(".")
        if isinstance(error, FileNotFoundError):  # many name the path alone
            raise FileNotFoundError(f"{where}: {'not found' if said in where else said}") from error
        raise OSError(f"{where}: {said}") from error
