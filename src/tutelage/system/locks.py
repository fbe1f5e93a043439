"""Locks that keep other processes out; the kernel releases them, however a process ends."""

from __future__ import annotations

from typing import IO, Any

from tutelage.system.errors import TutelageError


def lock(file: IO[Any] | int, refusal: str) -> None:
    """Keep other processes from locking an open file, until it is closed or this process ends.

    On Windows, and on file systems that know no locks, every process is let in.

    Raises:
        TutelageError: another process has locked it; the message is ``refusal``.
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
