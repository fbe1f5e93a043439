"""Command lines in processes of their own, to be killed.

They are forked from a process that has imported what a run needs and has loaded the compiled
kernel: that takes longer than a tiny run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Self

NEEDED = ("matplotlib.figure", "onnx", "onnxruntime", "pyarrow.parquet", "sklearn.manifold", "timm",
          "tutelage.api", "tutelage.chain.run")  # fmt: skip


def fork(words: Sequence[str], log: Path) -> int:
    """The process of ``tutelage`` with these words, whose standard error is the file ``log``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: these ones only wait
        child = os.fork()
    if child:
        return child
    code = 70
    try:
        from tutelage import cli

        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)  # pytest has put another in its place
        code = cli.main(list(words))
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


class Commands:
    """Runs one command line after the other, each in a process that is forked from this one."""

    def __init__(self, log: Path) -> None:
        """Keep the standard error of the latest command in the file ``log``."""
        self.log = log

    def run(
        self, words: Sequence[str], *, sent: int = 0, when: Callable[[], object] | None = None
    ) -> int:
        """The exit code of a command that gets the signal ``sent`` once ``when`` is true."""
        child = self._begin(words)
        deadline = time.monotonic() + 120
        while when is not None and not when():
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                raise AssertionError(f"the moment did not come:\n{self.log.read_text()}")
            time.sleep(0.002)
        if when is not None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(child, sent)
        return self._code(child)

    def _begin(self, words: Sequence[str]) -> int:
        return fork(words, self.log)

    def _code(self, child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Served(Commands):
    """The same from a process of its own, which may have another environment."""

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
        super().__init__(log)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        given = [] if student_steps is None else [str(student_steps)]
        self._server = subprocess.Popen(
            [sys.executable, __file__, *given],
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

    def _begin(self, words: Sequence[str]) -> int:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([list(words), str(self.log)]) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def _code(self, child: int) -> int:
        return self._answer()

    def _answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


def serve(student_steps: int | None) -> None:
    """Fork what is asked for, line after line, and answer with its number and its exit code."""
    for name in NEEDED:
        import_module(name)
    import torch

    from tutelage.augment.engine.precompile import compile_kernel
    from tutelage.chain import plan

    torch.set_num_threads(1)
    compile_kernel()
    if student_steps is not None:
        plan.STEPS = (student_steps,)
    for line in sys.stdin:
        words, log = json.loads(line)
        child = fork(words, log)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]) if sys.argv[1:] else None)
