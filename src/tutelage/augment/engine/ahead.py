"""Compiles the CPU kernel in a process of its own, while this one decodes images.

The first run on a machine compiles for some twenty seconds. Most of that is Python's work, so a
thread would keep this process's own threads waiting for the interpreter. numba keeps what it
compiled on the disk, where this process finds it.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

PATIENCE_S = 180.0  # far longer than compiling takes; then this process compiles itself
_COMMAND = (sys.executable, "-m", "tutelage.augment.engine.precompile")
_started: list[subprocess.Popen[bytes]] = []  # one at most


def begin() -> None:
    """Start to compile the kernel, unless it is compiled or being compiled; returns at once."""
    if _started or not sys.executable or find_spec("numba") is None or is_compiled():
        return
    quiet = subprocess.DEVNULL
    _started.append(subprocess.Popen(_COMMAND, stdin=quiet, stdout=quiet, stderr=quiet))
    atexit.register(_end)


def wait() -> None:
    """Wait until the process that ``begin`` started has ended, if there is one.

    Where it failed, the kernel is compiled when it is first called, as without it.
    """
    for process in _started:
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_compiled() -> bool:
    """Whether numba has kept code of the kernel that is newer than its source."""
    from tutelage.augment.engine import kernel

    kept = Path(kernel.render.stats.cache_path).glob("kernel.render-*.nbi")
    written = [index.stat().st_mtime for index in kept]
    return bool(written) and max(written) >= os.stat(kernel.__file__).st_mtime


def _end() -> None:
    """Leave no process behind when this one ends early."""
    for process in _started:
        process.kill()
        process.wait()
