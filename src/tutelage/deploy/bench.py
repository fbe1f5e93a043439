"""What exported models cost on this machine: latency, memory, size. Imports no torch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.system.words import counted

WARMUP = 5  # untimed runs of each call before the timed ones
BATCHES = (1, 32)
# On Linux a process inherits the ru_maxrss of the one that started it, so VmHWM is asked instead.
MEMORY = """
import re, resource, sys
from pathlib import Path
import numpy as np
from tutelage.deploy.runtime import OnnxModel
status = Path("/proc/self/status")
def peak():
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
model = OnnxModel(sys.argv[1], threads=int(sys.argv[2]))
image = np.full((int(sys.argv[3]), int(sys.argv[3]), 3), 128, dtype=np.uint8)
for _ in range(3):
    model.probabilities([image] * int(sys.argv[4]))
print(peak() - before)
"""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: median and 5th percentile (the machine at its quietest)."""

    p50_ms: float
    p05_ms: float
    runs: int


def latencies(calls: Sequence[Callable[[], object]], *, runs: int = 50) -> list[Latency]:
    """Time calls in turns, so that a busy moment of the machine slows all of them."""
    for call in calls:
        for _ in range(WARMUP):
            call()
    seconds = np.empty((len(calls), runs))
    for run in range(runs):
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            seconds[index, run] = time.perf_counter() - start
    middle, low = np.percentile(seconds * 1000.0, [50, 5], axis=1)
    return [Latency(float(m), float(p), runs) for m, p in zip(middle, low, strict=True)]


def onnx_latency(path: Path | str) -> Latency:
    """Time an exported model, preprocessing included: one canvas-sized image, one thread."""
    return latencies([onnx_call(path)])[0]


def onnx_call(
    path: Path | str, *, size: int | None = None, batch: int = 1, threads: int = 1
) -> Callable[[], object]:
    """A call that runs an exported model on grey square images, by default of its canvas's size."""
    model = OnnxModel(path, threads=threads)
    side = size or int(model.metadata["tutelage.canvas"])
    images = [np.full((side, side, 3), 128, dtype=np.uint8)] * batch
    return lambda: model.probabilities(images)


def bench_model(
    paths: Sequence[Path | str], *, threads: int = 1, size: int | None = None, runs: int = 50
) -> dict[str, Any]:
    """Time exported models in turns on grey square images, preprocessing included.

    Without a ``size`` the images are as large as each model's canvas. There are ``runs`` timed runs
    with one image, and a fifth of them with 32. A latency is that of the whole batch, and
    "memory_bytes" come on top of the imports (None where the system does not tell).
    """
    if threads < 1 or runs < 1 or (size is not None and size < 1):
        raise TutelageError(f"threads {threads}, runs {runs}, size {size}: each must be at least 1")
    if not paths:
        raise TutelageError("there is no model to measure")
    opened = [OnnxModel(path, threads=threads) for path in paths]
    models: list[dict[str, Any]] = [
        {
            "path": str(model.path),
            "bytes": model.path.stat().st_size,
            "parameters": int(model.metadata["tutelage.parameters"]),
            "input_size": model.input_size,
            "image": size or int(model.metadata["tutelage.canvas"]),
            "batches": {},
        }
        for model in opened
    ]
    for batch in BATCHES:
        calls = [onnx_call(model.path, size=size, batch=batch, threads=threads) for model in opened]
        timed = latencies(calls, runs=runs if batch == 1 else max(1, runs // 5))
        for row, found in zip(models, timed, strict=True):
            row["batches"][str(batch)] = {
                "latency_ms_p50": found.p50_ms,
                "latency_ms_p05": found.p05_ms,
                "memory_bytes": _memory(row["path"], threads, row["image"], batch),
            }
    return {"threads": threads, "runs": runs, "models": models}


def describe(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"median (and 5th percentile) of {result['runs']} runs in turns, preprocessing included, "
        f"{counted(result['threads'], 'thread')}; memory on top of the imports",
        f"  {'model':<32}{'size':>9}{'1 image':>20}{'32 images, each':>20}{'memory, 32':>12}",
    ]
    for row in result["models"]:
        one, many = row["batches"]["1"], row["batches"]["32"]
        memory = "-" if many["memory_bytes"] is None else _size(many["memory_bytes"])
        single, each = (
            f"{batch['latency_ms_p50'] / n:.1f} ({batch['latency_ms_p05'] / n:.1f}) ms"
            for batch, n in ((one, 1), (many, 32))
        )
        name = row["path"] if len(row["path"]) <= 32 else f"...{row['path'][-29:]}"
        lines.append(f"  {name:<32}{_size(row['bytes']):>9}{single:>20}{each:>20}{memory:>12}")
    return "\n".join(lines)


def _size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _memory(path: str, threads: int, side: int, batch: int) -> int | None:
    """How many bytes more a process holds at most when it runs the model; None if it fails."""
    command = [sys.executable, "-c", MEMORY, path, str(threads), str(side), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else None
