"""SIGTERM, with which schedulers end a job: what is being trained is saved first."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """The process was asked to end; like KeyboardInterrupt no ``except Exception`` stops it."""


_asked = False
_deferring = 0


@contextmanager
def handled() -> Iterator[None]:
    """Raise ``Terminated`` where the main thread is when SIGTERM comes, or after it is deferred."""
    global _asked
    before = signal.signal(signal.SIGTERM, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked = False


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Only note the signal; the caller asks whether it came, and ends in good order."""
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
