"""Command lines that serve a page, each in a process of its own that begins at once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

# Forked from a process that has imported what they need: importing takes longer than the rest.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tutelage.cli", "tutelage.api", "tutelage.review.app",
                               "tutelage.data.decode", "pyarrow.parquet", "uvicorn",
                               "uvicorn.protocols.http.h11_impl"])  # fmt: skip


@contextmanager
def serving(*words: str) -> Iterator[tuple[str, ForkServerProcess]]:
    """``tutelage`` with these words, and the address that it prints; it is killed afterwards."""
    heard, said = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=_serve, args=(words, said), daemon=True)
    process.start()
    said.close()
    with heard, os.fdopen(os.dup(heard.fileno())) as printed:
        try:
            yield printed.readline().split()[-1], process
        finally:
            process.kill()
            process.join()


def _serve(words: tuple[str, ...], said: Connection) -> None:
    from tutelage import cli

    sys.stdout = os.fdopen(said.fileno(), "w", buffering=1)
    raise SystemExit(cli.main(list(words)))
