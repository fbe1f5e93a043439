"""Whether a process is kept out of a run folder."""

from __future__ import annotations

from pathlib import Path

import pytest


def is_locked(folder: Path) -> bool:
    """Whether another process would be refused; locks are of open files, so this one counts."""
    fcntl = pytest.importorskip("fcntl")
    with (folder / "events.jsonl").open("a") as theirs:
        try:
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
