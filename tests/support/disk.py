"""Disks that are full, fail or are slow: ``disk.c``, compiled and put before the C library.

It reaches whatever writes through the C library's ``open``, ``write``, ``fsync``, ``rename`` and
so on, Python, NumPy and Arrow alike; it does not reach memory maps, nor C's own ``FILE``. Linux
with glibc and a C compiler, and no privileges.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
KINDS = ("create", "write", "sync", "rename", "mkdir", "open", "read")  # bits, as in disk.c
CHANGES = KINDS[:5]
EVER = 2**62
_LAYOUT = struct.Struct("8q1024s1024s")


def why_not() -> str | None:
    """Why there can be no faults here; None where there can."""
    if sys.platform != "linux":
        return "the library that makes disks fail is for Linux"
    if shutil.which("cc") is None:
        return "no C compiler (cc)"
    return None


class Faults:
    """What fails in processes that run in ``environment``; nothing until ``set`` is called."""

    def __init__(self, folder: Path) -> None:
        """Compile into ``folder``."""
        library, control = folder / "faults.so", folder / "disk.control"
        command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
        subprocess.run([*command, "-o", str(library), str(SOURCE), "-ldl"], check=True)
        control.write_bytes(bytes(_LAYOUT.size))
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)
        self.environment = {"LD_PRELOAD": str(library), "TUTELAGE_FAULTS": str(control)}
        self.clear()

    def set(
        self,
        pattern: str,
        *kinds: str,
        error: int = errno.ENOSPC,
        first: int = 0,
        times: int = EVER,
        space: int = -1,
        delay: float = 0.0,
    ) -> None:
        """From now on, calls on paths that match ``pattern`` fail.

        Args:
            pattern: as of ``fnmatch``, where * also stands for /.
            kinds: of ``KINDS``, which calls.
            error: errno of those that fail.
            first: how many are still to succeed.
            times: how many fail after these.
            space: bytes that the files may still take; the write that is cut off there is short,
                as on a full disk. Below 0: any number.
            delay: seconds that each call takes longer.
        """
        bits = sum(1 << KINDS.index(kind) for kind in kinds)
        numbers = (bits, error, first, times, space, round(delay * 1e6), 0, 0)
        self._memory[:] = _LAYOUT.pack(*numbers, pattern.encode(), b"")

    def clear(self) -> None:
        """Nothing fails any more."""
        self.set("")

    @property
    def seen(self) -> int:
        """Calls that matched since ``set``."""
        return int(_LAYOUT.unpack(self._memory[:])[6])

    @property
    def failed(self) -> int:
        """Those of them that failed."""
        return int(_LAYOUT.unpack(self._memory[:])[7])

    @property
    def victim(self) -> str:
        """Path of the first that failed; empty where none did."""
        return os.fsdecode(_LAYOUT.unpack(self._memory[:])[9].rstrip(b"\0"))
