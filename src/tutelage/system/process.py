"""This process among others: the cores it may use, and SIGTERM, with which schedulers end it.

What is in training is saved first.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SPINS = "10000"  # times that a waiting thread looks; GNU's default is 300,000

_given: int | None = None  # None: as many as the system allows


def cores() -> int:
    """The cores it may use: those it was given, else those that the system allows it to run on."""
    if _given is not None:
        return _given
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_to(count: int) -> None:
    """Use so many cores from now on, beside other work on this machine.

    Torch's threads are counted apart; an engine sets ``OMP_NUM_THREADS`` for them.
    """
    global _given
    _given = count


def spin_briefly() -> None:
    """Make OpenMP's threads sleep soon where they wait for each other; call before torch's import.

    By default they look for milliseconds whether the others are done, and beside other jobs of the
    machine that takes the core from whom they wait for: there a training step took twice to three
    times as long (benchmarks/log.md). This tells GNU's OpenMP, which torch has on Linux. What the
    user says about it in the environment stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


EXIT_CODE = 128 + signal.SIGTERM
GRACE = 8.0  # seconds to end in good order; some schedulers send SIGKILL after ten


class Terminated(BaseException):
    """The process was asked to end; like KeyboardInterrupt no ``except Exception`` stops it."""


_asked = False
_deferring = 0


@contextmanager
def handled() -> Iterator[None]:
    """Raise ``Terminated`` in the main thread when SIGTERM comes, unless it is ``deferred``.

    If the main thread does not get to it within ``GRACE``, since it waits in a library's code (for
    a rank that is dead, say), the process ends all the same. Files are never half-written.
    """
    global _asked
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.signal(signal.SIGTERM, _note)
    # A handler runs between two instructions of the interpreter; the pipe tells a thread at once.
    earlier = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    over = threading.Event()
    threading.Thread(target=_watch, args=(reader, over), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        signal.signal(signal.SIGTERM, before)
        over.set()
        os.close(writer)
        _asked = False


def _watch(reader: int, over: threading.Event) -> None:
    with os.fdopen(reader, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] == signal.SIGTERM and not over.wait(GRACE):
                os._exit(EXIT_CODE)


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Only note SIGTERM; the caller asks whether it came, and ends in good order."""
    global _deferring
    _deferring += 1
    try:
        yield lambda: _asked
    finally:
        _deferring -= 1


def _note(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = True
    if not _deferring:
        raise Terminated
