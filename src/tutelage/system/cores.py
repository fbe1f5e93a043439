"""How many cores this process may use, and that it leaves them to others while it waits."""

from __future__ import annotations

import os

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
    times as long (docs/log.md). This tells GNU's OpenMP, which torch has on Linux. What the user
    says about it in the environment stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
