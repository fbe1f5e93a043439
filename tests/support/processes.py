"""Functions on several ranks, as torchrun would start them."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import TypeVar

from tutelage.system.ranks import joined

T = TypeVar("T")


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}


def on_ranks(world: int, work: Callable[[], T]) -> list[T]:
    """What ``work`` gives each of ``world`` forked processes."""
    port = free_port()
    children = [_fork(environment(rank, world, port), work) for rank in range(world)]
    answers = []
    for child, reader in children:
        with os.fdopen(reader, "rb") as pipe:
            content = pipe.read()
        os.waitpid(child, 0)
        assert content, "a rank failed; its traceback is above"
        answers.append(pickle.loads(content))
    return answers


def _fork(settings: dict[str, str], work: Callable[[], T]) -> tuple[int, int]:
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: these ones only wait
        child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    try:
        os.environ.update(settings)
        with joined():
            answer = work()
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    os._exit(0)
