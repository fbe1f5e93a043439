"""How much of a training step goes into data and augmentation, on the demo's student.

python benchmarks/loader.py --steps 60 --json results.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import results
from chain import PACKAGES
from tutelage.chain import pipeline, trained
from tutelage.chain.prepare import prepare
from tutelage.chain.run import teach, teach_student
from tutelage.config import make_config
from tutelage.data.demo import solar_cells
from tutelage.training.batch import Batch


class Timed:
    """A loader's batches, and the seconds that were spent on making each."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.seconds = batches, []

    def __iter__(self) -> Iterator[Batch]:
        stream = iter(self.batches)
        while True:
            began = time.perf_counter()
            batch = next(stream)
            self.seconds.append(time.perf_counter() - began)
            yield batch


def measured(steps: int, device: str) -> dict[str, Any]:
    """Milliseconds a step: all of it, and the loader's part, without the first five steps."""
    ends: list[float] = []
    clocks: list[Timed] = []
    fit = trained.fit

    def timed_fit(shop: Any, model: Any, step: Any, loader: Any, *rest: Any) -> Any:
        clocks.append(Timed(loader))

        def timed_step(model: Any, batch: Batch) -> Any:
            ends.append(time.perf_counter())
            return step(model, batch)

        return fit(shop, model, timed_step, clocks[-1], *rest)

    with tempfile.TemporaryDirectory() as folder:
        config = make_config("demo", {"labels_per_class": 20, "device": device})
        run = prepare(
            "demo", solar_cells(), "elpv-dataset", Path(folder) / "run", config, quiet=True
        )
        work = dataclasses.replace(run.plan.student, steps=steps)
        run.plan = dataclasses.replace(run.plan, student=work)
        chain = pipeline.Pipeline(run)
        teach(chain, self_training=False)
        trained.fit = timed_fit  # type: ignore[assignment]
        try:
            teach_student(chain, [chain.teacher.outcome.model])
        finally:
            trained.fit = fit
        views = {"student": work.size, "teacher": run.plan.size, "batch": work.batch_size}
    first = 5
    whole = (ends[-1] - ends[first]) / (len(ends) - 1 - first)
    loading = sum(clocks[-1].seconds[first + 1 : len(ends)]) / (len(ends) - 1 - first)
    return {
        "device": run.device.type,
        "views": views,
        "step_ms": round(1e3 * whole, 1),
        "loader_ms": round(1e3 * loading, 2),
        "share": round(loading / whole, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    result = {
        **results.provenance("loader", PACKAGES),
        "data": "demo",
        **measured(options.steps, options.device),
    }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)


if __name__ == "__main__":
    main()
