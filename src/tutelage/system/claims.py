"""Who does which piece of work, when any number of processes share a folder.

A claim is a lock on one byte of a file, which the kernel lets go when its process ends, however it
ends: nothing is left behind that could be taken for a claim. POSIX record locks are used because
they are the ones that network file systems pass on to their server (NFS does, CIFS and Lustre where
mounted so); ``flock`` often stays within one machine.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path


class Claims:
    """Claims of this process in one file; a second object for the same file would end the first's.

    (Closing any descriptor of a file lets go of all record locks that the process has on it.)

    Attributes:
        work: the file system has such locks. Without them (Windows, some network mounts) every
            claim is granted, and the processes must divide the work themselves.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, made if needed.

        Raises:
            OSError: it cannot be made.
        """
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
    """Its place in the file, which stays empty: locks may lie beyond the end."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 2
