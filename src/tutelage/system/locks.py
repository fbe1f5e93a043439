"""Locks that keep other processes out; the kernel releases them, however a process ends."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import IO, Any

from tutelage.system.errors import TutelageError


def lock(file: IO[Any] | int, refusal: str) -> None:
    """Keep other processes from locking an open file, until it is closed or this process ends.

    On Windows, and on file systems that know no locks, every process is let in.

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


class Claims:
    """This process's claims to pieces of work, when any number of processes share a folder.

    A claim is a lock on one byte of a file. POSIX record locks are used because they are the ones
    that network file systems pass on to their server (NFS does, CIFS and Lustre where mounted so);
    ``flock`` often stays within one machine. Closing any descriptor of a file lets go of all record
    locks that the process has on it, so a second object for the same file would end the claims of
    the first.

    Attributes:
        work: the file system has such locks. Without them (Windows, some network mounts) every
            claim is granted, and the processes must divide the work themselves.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._held: set[str] = set()
        self._guard = threading.Lock()
        self.work = True
        self.take("")  # is anything locked here at all?
        self.release("")

    def take(self, key: str) -> bool:
        """Claim a piece of work; False when another process, or this one, has it."""
        with self._guard:
            if key in self._held or not self._lock(key):
                return False
            self._held.add(key)
            return True

    def release(self, key: str) -> None:
        """Let go of a piece of work."""
        with self._guard:
            self._held.discard(key)
            if self.work:
                import fcntl

                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(key))

    def close(self) -> None:
        """Let go of everything."""
        os.close(self._file)

    def _lock(self, key: str) -> bool:
        if not self.work:
            return True
        try:
            import fcntl

            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(key))
        except (BlockingIOError, PermissionError):  # POSIX allows either where it is held
            return False
        except (ModuleNotFoundError, OSError):
            self.work = False
        return True


def _byte(key: str) -> int:
    """The key's place in the file, which stays empty: locks may lie beyond the end."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 2
