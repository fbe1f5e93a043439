"""Pieces of work for an engine, in a module that the processes of a cluster find."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tutelage.system.errors import TutelageError


@contextmanager
def squares(log: Path) -> Iterator[Callable[[int], int]]:
    """Opened, closed and each piece of work are files of the folder ``log``."""
    (log / f"opened-{os.getpid()}").touch()

    def square(number: int) -> int:
        (log / f"{number}-{os.getpid()}-{threading.get_ident()}").touch()
        return number * number

    try:
        yield square
    finally:
        (log / f"closed-{os.getpid()}").touch()


def failing(number: int) -> int:
    if number == 3:
        raise TutelageError("3 is too many; expected 2")
    return number


@contextmanager
def fails() -> Iterator[Callable[[int], int]]:
    yield failing


@contextmanager
def kills(log: Path, times: int) -> Iterator[Callable[[int], int]]:
    """The process dies at number 1, so many times."""

    def work(number: int) -> int:
        before = len(list(log.glob("death-*")))
        if number == 1 and before < times:
            (log / f"death-{before}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    yield work
