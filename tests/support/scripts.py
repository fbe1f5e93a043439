"""The scripts of benchmarks/, for the tests that import them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def importable() -> Iterator[None]:
    """Let them be imported as one script imports another; later imports find none of them.

    Their names are short: a library that looks for a package ``tables`` must not find theirs.
    """
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
