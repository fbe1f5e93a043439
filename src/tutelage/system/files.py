"""Writing files so that a kill, a full disk or a power cut leaves the old one or the new one.

Locks keep other processes out; the kernel releases them, however a process ends.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from tutelage.system.errors import TutelageError, need

_MENDS = {  # what to do about a storage error, by its numbers
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "free some space there",
    (errno.EACCES, errno.EPERM, errno.EROFS): "get access to it",
    (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENXIO, errno.ENODEV): (
        "the disk, or the connection to it, fails: repair it"
    ),
}

_PARTIAL = ".partial"  # ends the name of a file that is being written


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` to write to, which replaces it in one step in the end.

    Then it is on the disk. After a failure the old file, or none, is there, and nothing else.
    Until then it is locked, for ``sweep``. An OSError names ``path``.
    """
    with about(path), ExitStack() as stack:
        descriptor, name = tempfile.mkstemp(_PARTIAL, f".{path.name}.", path.parent)
        held = stack.enter_context(os.fdopen(descriptor, "wb"))
        locked(held)
        if os.name == "nt":  # which renames no open file, nor deletes it
            held.close()
        temporary = Path(name)
        try:
            yield temporary
            sync(temporary)
            temporary.chmod(0o644)  # mkstemp makes it private
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # a disk that fails may not even delete
                temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file in one step, as ``replacing`` does; text is written as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_parquet(path: Path, columns: dict[str, list[Any]], **types: str) -> None:
    """Write a table of text columns, except those whose Arrow ``types`` are given."""
    arrow, parquet = need("pyarrow", "train"), need("pyarrow.parquet", "train")
    schema = arrow.schema([(name, types.get(name, "string")) for name in columns])
    with replacing(path) as partial:
        parquet.write_table(arrow.table(columns, schema=schema), partial)


def digest(content: bytes) -> str:
    """A checksum of bytes: BLAKE2b, 128 bits, in hex."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def digest_of(texts: Iterable[str]) -> str:
    """A checksum of texts, in their order."""
    hashed = hashlib.blake2b(digest_size=16)
    for text in texts:
        hashed.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return hashed.hexdigest()


def sweep(folder: Path, names: Container[str] | None = None) -> None:
    """Delete what killed processes left half-written below a folder: these names, or everything.

    Files that a living process writes stay, and so do all files where the file system has no locks
    to tell by. No other process may be building a folder there.
    """
    for path in [*folder.rglob(f".*{_PARTIAL}")]:
        if names is not None and path.name[1:].rsplit(".", 2)[0] not in names:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif not _being_written(path):
            with contextlib.suppress(PermissionError):  # Windows deletes no open file
                path.unlink(missing_ok=True)


def _being_written(path: Path) -> bool:
    """Whether a process writes a temporary file of ``replacing``; True if nobody can tell."""
    if os.name == "nt":
        return False
    try:
        with path.open("ab") as file:
            return locked(file) is not True
    except FileNotFoundError:  # it is finished, or swept
        return True


def append(path: Path, content: bytes, row: int = 1) -> None:
    """Add bytes to a file, or nothing: a part of them would spoil what comes after it.

    A file of rows, of ``row`` bytes each, loses the part of one that a kill has left at its end.
    Several processes may add rows to it: each waits while another is in the middle of one. An
    OSError names ``path``.
    """
    with about(path), path.open("ab", buffering=0) as file:
        if row > 1:
            with contextlib.suppress(ModuleNotFoundError, OSError):  # there are no locks
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        end = size - size % row
        if end < size:
            file.truncate(end)
        try:
            while content:  # a disk that is nearly full takes a part
                content = content[file.write(content) :]
        except OSError:
            file.truncate(end)
            raise


def install(building: Path, folder: Path) -> None:
    """Rename a folder that was built under another name, so that it appears whole.

    All of it is on the disk before the rename: a file system may keep a rename through a power cut
    and lose what the files held (Pillai et al. 2014, "All File Systems Are Not Created Equal").
    ``folder`` must not exist, or be empty.
    """
    for parent, _, files in os.walk(building):
        for file in files:
            sync(Path(parent, file))
        sync(Path(parent))
    building.rename(folder)
    sync(folder.parent)


def is_taken(folder: Path) -> bool:
    """Whether something is there that ``new_folder`` would not replace."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` to write into, which becomes it in one step in the end.

    ``folder`` must not exist, or be empty. After a failure it is as it was, with nothing beside it,
    and an OSError names it.
    """
    with about(folder):
        building = Path(tempfile.mkdtemp(_PARTIAL, f".{folder.name}.", folder.parent))
        try:
            yield building
            building.chmod(0o755)  # mkdtemp makes it private
            if folder.exists():
                folder.rmdir()
            install(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk, or raise OSError."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; there is nothing to do about that.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            error.filename = str(path)
            raise
    finally:
        os.close(descriptor)


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Make an OSError name ``path`` if it names no file, as after a write, or a temporary one.

    A temporary file, or a folder that it lies in, is called "." and the name of ``path``.
    """
    try:
        yield
    except OSError as error:
        parts = Path(str(error.filename)).parts
        if error.filename is None or any(part.startswith(f".{path.name}.") for part in parts):
            error.filename = str(path)
        raise


def cache_folder() -> Path:
    """Where stores and measurements of the machine are kept between runs."""
    chosen = os.environ.get("TUTELAGE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "tutelage"


def explain(error: OSError, out: Path | None = None) -> str:
    """What happened to which file, and what to do about it; the command was to write to ``out``."""
    what = os.strerror(error.errno) if error.errno else str(error)
    if error.filename is None:
        return what
    path = Path(os.fsdecode(error.filename)).absolute()
    places = [
        (out, "choose another --out"),
        (cache_folder(), "set TUTELAGE_CACHE to a folder on another disk"),
        (Path(tempfile.gettempdir()), "set TMPDIR to a folder on another disk"),
    ]
    inside = [way for place, way in places if place and path.is_relative_to(place.absolute())]
    other = f", or {inside[0]}" if inside else ""
    for codes, mend in _MENDS.items():
        if error.errno in codes:
            return f"{path}: {what}; {mend}{other}"
    return f"{path}: {what}"


def csv_line(cells: Iterable[object]) -> str:
    """One row of a CSV file, which ends with a line feed.

    Python 3.11's writer quotes only the characters of its own line end, but a carriage return in a
    file's name would end the row for readers.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def lock(file: IO[Any] | int, refusal: str) -> None:
    """Keep other processes from locking an open file, until it is closed or this process ends.

    If another process has locked it, TutelageError says ``refusal``. On Windows, and on file
    systems that know no locks, every process is let in.
    """
    if locked(file) is False:
        raise TutelageError(refusal)


def locked(file: IO[Any] | int) -> bool | None:
    """Whether an open file could be locked, as ``lock`` does; None where there are no locks."""
    try:
        import fcntl
    except ModuleNotFoundError:  # not on Windows
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True
