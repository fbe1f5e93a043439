"""SIGTERM, with which schedulers end a job: what is in training is saved first."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

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
