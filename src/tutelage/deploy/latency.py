"""How long an exported model takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutelage.deploy.runtime import OnnxModel

WARMUP = 5  # untimed runs of each call before the timed ones


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
