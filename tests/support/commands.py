"""Command lines in processes of their own, to be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

# Forked from a process that has imported what a run needs: importing takes longer than a tiny run.
SERVER = """
import json, os, signal, sys, traceback
import matplotlib.figure, onnx, onnxruntime, pyarrow.parquet, timm, torch
torch.set_num_threads(1)
from tutelage import api, cli
from tutelage.chain import evidence, pipeline, plan
if len(sys.argv) > 1:
    plan.STEPS = (int(sys.argv[1]),)
for line in sys.stdin:
    words, log = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        code = 70
        try:
            code = cli.main(words)
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Commands:
    """Runs one command line after the other, each in a process of its own."""

    def __init__(
        self,
        log: Path,
        environment: Mapping[str, str] | None = None,
        *,
        student_steps: int | None = None,
    ) -> None:
        """Start the process that the commands are forked from.

        Args:
            log: file for the standard error of the latest command.
            environment: variables besides those of this process.
            student_steps: of each student, in place of those that its plan would give it.
        """
        self.log = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        given = [] if student_steps is None else [str(student_steps)]
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Self:
        """The object itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self._server.kill()
        self._server.communicate()

    def run(
        self, words: Sequence[str], *, sent: int = 0, when: Callable[[], object] | None = None
    ) -> int:
        """The exit code of a command that gets the signal ``sent`` once ``when`` is true."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([list(words), str(self.log)]) + "\n")
        self._server.stdin.flush()
        child = int(self._server.stdout.readline())
        deadline = time.monotonic() + 120
        while when is not None and not when():
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                raise AssertionError(f"the moment did not come:\n{self.log.read_text()}")
            time.sleep(0.002)
        if when is not None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(child, sent)
        return int(self._server.stdout.readline())
