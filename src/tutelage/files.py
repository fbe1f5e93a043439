"""Writing files so that a killed process leaves the old one or the new one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tutelage.errors import TutelageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A neighbour to write to, which replaces ``path`` in one step when all went well."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp makes it private
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file in one step; text is written as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def digest(content: bytes) -> str:
    """What tells whether bytes are those that were written: BLAKE2b, 128 bits, in hex."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def lock(file: IO[Any], refusal: str) -> None:
    """Keep other processes from locking an open file, until it is closed or the process ends.

    Windows, and file systems that know no locks, let all in.

    Raises:
        TutelageError: another process has locked it; the message is ``refusal``.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TutelageError(refusal) from None
    except OSError:  # some network file systems
        return
