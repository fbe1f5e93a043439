"""Processes that train as one: torchrun starts them, torch.distributed connects them.

Each process, a rank, holds the whole model and works on its share of every batch. What a step
needs from the shares of others is gathered (``tutelage.training.together``), so that all ranks see
the same numbers and decide alike; the lead, rank 0, writes the files. A single process is its own
lead. Imports torch only where there are several.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from tutelage.system.errors import TutelageError

# The others wait while the lead decodes or exports; torchrun itself ends the job if a rank dies.
PATIENCE = timedelta(days=1)
T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's number among how many."""

    rank: int = 0
    world: int = 1

    def share(self, n: int) -> slice:
        """This rank's part of ``n`` things in order; the parts of all ranks are the whole."""
        if self.world == 1:  # ``alone`` too, whatever the rank
            return slice(0, n)
        return slice(n * self.rank // self.world, n * (self.rank + 1) // self.world)


_current = Ranks()


def current() -> Ranks:
    """The ranks that work together now: one alone unless ``joined``."""
    return _current


def is_lead() -> bool:
    """Whether this process writes the files and speaks to the user."""
    return _current.rank == 0


def env_int(name: str, default: int) -> int:
    """A number that torchrun gives its processes; TutelageError if the variable holds none."""
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise TutelageError(f"{name}={text} in the environment: expected a whole number")
    return int(text or default)


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Connect the processes that torchrun started; without torchrun there is one.

    Gloo carries what lies in main memory and NCCL what lies on GPUs; local rank i takes GPU i.
    More ranks than GPUs are refused, and so are restarts on several machines, where the ranks would
    have stale addresses of one another.
    """
    world = env_int("WORLD_SIZE", 1)
    if world == 1 or "MASTER_ADDR" not in os.environ:
        yield Ranks()
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if torch.cuda.is_available():
        local = env_int("LOCAL_RANK", 0)
        if local >= torch.cuda.device_count():
            raise TutelageError(
                f"local rank {local} has no GPU of its own: there are {torch.cuda.device_count()}; "
                f"start torchrun with --nproc-per-node {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    ours = not distributed.is_initialized()  # a caller in Python may have connected them already
    if ours:
        distributed.init_process_group(
            backend,
            store=_fresh_store(),
            rank=env_int("RANK", 0),
            world_size=world,
            timeout=PATIENCE,
        )
        # Gloo may connect one rank and fail on another: then none goes to work.
        distributed.all_reduce(torch.zeros(1))
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size())
    try:
        with _acting_as(ranks):
            yield ranks
    finally:
        if ours:
            distributed.destroy_process_group()


def _fresh_store() -> Any:
    """A store of the ranks' addresses without those of earlier ranks; None means torch's own.

    Since 2.5 torchrun keeps one store over restarts, in which a rank may find the address of one
    that is dead, and wait for it forever (pytorch/pytorch#135712). Restarts are counted alike on
    one machine only.
    """
    from torch import distributed

    environment = os.environ
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    if (
        env_int("TORCHELASTIC_MAX_RESTARTS", 0)
        and environment.get("LOCAL_WORLD_SIZE") != environment["WORLD_SIZE"]
    ):
        raise TutelageError(
            "torchrun --max-restarts on several machines needs "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment, or ranks that were "
            "restarted wait for dead ones"
        )
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    shared = distributed.TCPStore(address, port, is_master=False)  # type: ignore[attr-defined]
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    return distributed.PrefixStore(f"tutelage/{attempt}", shared)  # type: ignore[attr-defined]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let each rank do the whole of what follows, alone: all do the same, or only the lead does."""
    with _acting_as(Ranks(_current.rank)):
        yield


@contextlib.contextmanager
def _acting_as(ranks: Ranks) -> Iterator[None]:
    global _current
    before, _current = _current, ranks
    try:
        yield
    finally:
        _current = before


def wait() -> None:
    """Wait until all ranks have come here."""
    if _current.world > 1:
        from torch import distributed

        distributed.barrier()


def agreed(value: T) -> T:
    """The lead's value, on every rank."""
    if _current.world == 1:
        return value
    from torch import distributed

    values = [value]
    distributed.broadcast_object_list(values, 0)
    return values[0]


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is true on any rank; all ranks go on when all have come here."""
    if _current.world == 1:
        return flag
    import torch
    from torch import distributed

    count = torch.tensor([int(flag)])
    distributed.all_reduce(count)
    return bool(count)


def by_lead(work: Callable[[], T]) -> T:
    """The result of ``work`` on the lead, for every rank; the others wait for it.

    A TutelageError is raised on the lead alone, which tells the user; the others end.
    """
    return agreed(_done(work, here=is_lead()))  # type: ignore[return-value]


def lead_first(work: Callable[[], T]) -> T:
    """The result of ``work``, done first by one rank of each machine, which fills the caches.

    A TutelageError is raised on the rank that went first; the others end.
    """
    first = env_int("LOCAL_RANK", 0) == 0
    result = _done(work, here=first)
    return result if first else work()  # type: ignore[return-value]


def _done(work: Callable[[], T], *, here: bool) -> T | None:
    """The result of work that some ranks do; if it fails, all end, and only those say why."""
    result: T | None = None
    error: TutelageError | None = None
    if here:
        try:
            result = work()
        except TutelageError as caught:
            error = caught
    failed = any_of(error is not None)
    if error is not None:
        raise error
    if failed:
        raise SystemExit(2)
    return result
