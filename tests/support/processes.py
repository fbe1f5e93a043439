"""Functions on several ranks, as torchrun would start them."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tutelage.system.ranks import joined

T = TypeVar("T")
ATTEMPTS = 3  # to connect ranks
FAILED, UNCONNECTED = 1, 3  # exit codes of a rank whose work failed, and of one that came to none


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
    """What ``work`` gives each of ``world`` forked processes.

    Another process may take the port before they listen on it, or call at it; ranks of which none
    came to the work start again.
    """
    for _ in range(ATTEMPTS):
        with tempfile.TemporaryDirectory() as folder:
            answers = [Path(folder, str(rank)) for rank in range(world)]
            port = free_port()
            children = [
                _fork(environment(rank, world, port), work, answer)
                for rank, answer in enumerate(answers)
            ]
            codes = _all_ended(children)
            if not any(codes):
                return [pickle.loads(answer.read_bytes()) for answer in answers]
        assert set(codes) <= {UNCONNECTED, -signal.SIGKILL}, f"a rank failed, see above: {codes}"
    raise AssertionError(f"the ranks could not be connected in {ATTEMPTS} attempts")


def _all_ended(children: Sequence[int]) -> list[int]:
    """The exit codes of all; when one has failed, the others would wait for it, and are killed."""
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                codes[child] = os.waitstatus_to_exitcode(status)
        if any(codes.values()):
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[child] for child in children]


def _fork(settings: dict[str, str], work: Callable[[], T], answer: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: these ones only wait
        child = os.fork()
    if child:
        return child
    code = UNCONNECTED
    try:
        os.environ.update(settings)
        with joined():
            code = FAILED
            answer.write_bytes(pickle.dumps(work()))
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    os._exit(code)
