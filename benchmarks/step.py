"""Where a training step's time goes, on the demo's student, and what it cannot be less than.

python benchmarks/step.py --steps 60 --json results.json

Milliseconds a view: making the views, asking the teacher, the student's forward and backward pass,
the optimiser (with the average and the gradient's norm), looking at how close the student is, and
the whole step. ``floor`` is what the same work, without the looks, costs the fastest forward there
is here: the views, the teacher, and three forwards of the student by onnxruntime, since a backward
pass computes about twice what the forward does, less what the stages that do not learn save.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import results
from chain import PACKAGES
from tutelage.chain import pipeline, trained
from tutelage.chain.prepare import prepare
from tutelage.chain.run import teach, teach_student
from tutelage.config import make_config
from tutelage.data.demo import solar_cells
from tutelage.models.classifier import EMA
from tutelage.models.forward import Forward
from tutelage.steps.distillation import DistillationStep, Teachers
from tutelage.training.best import Best
from tutelage.training.loader import Loader

FIRST = 5  # steps that are not counted
PARTS = ("views", "teacher", "forward", "backward", "optimiser", "looks")


class Clock:
    """Seconds of the parts of each step; a new step begins when views are made."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.began: list[float] = []

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time is counted."""

        def call(*given: Any, **options: Any) -> Any:
            began = time.perf_counter()
            if part == "views":
                self.began.append(began)
                self.steps.append(defaultdict(float))
            try:
                return work(*given, **options)
            finally:
                if self.steps:
                    self.steps[-1][part] += time.perf_counter() - began

        return call

    def milliseconds(self, part: str) -> float:
        """Mean of a part over the steps that count."""
        counted = self.steps[FIRST:-1]
        return 1e3 * sum(step[part] for step in counted) / len(counted)

    def whole(self) -> float:
        """Mean of a whole step."""
        return 1e3 * (self.began[-1] - self.began[FIRST]) / (len(self.began) - 1 - FIRST)


@contextlib.contextmanager
def watched(clock: Clock) -> Iterator[None]:
    """Count the parts of the steps of every training."""
    places: list[tuple[Any, str, str]] = [
        (Loader, "batch", "views"),
        (Teachers, "__call__", "teacher"),
        (DistillationStep, "__call__", "forward"),
        (torch.Tensor, "backward", "backward"),
        (torch.nn.utils, "clip_grad_norm_", "optimiser"),
        (torch.optim.AdamW, "step", "optimiser"),
        (EMA, "update", "optimiser"),
        (Best, "after", "looks"),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    for (owner, name, part), work in zip(places, before, strict=True):
        setattr(owner, name, clock.timed(part, work))
    try:
        yield
    finally:
        for (owner, name, _), work in zip(places, before, strict=True):
            setattr(owner, name, work)


def measured(steps: int, minutes: float, device: str) -> dict[str, Any]:
    """What a step of the demo's student costs in milliseconds a view."""
    clock = Clock()
    students: list[Any] = []
    fit = trained.fit

    def kept(run: Any, model: Any, *rest: Any, **options: Any) -> Any:
        students.append(model)
        with watched(clock):
            return fit(run, model, *rest, **options)

    with tempfile.TemporaryDirectory() as folder:
        given = {"labels_per_class": 20, "device": device, "minutes": minutes}
        config = make_config("demo", given)
        run = prepare(
            "demo", solar_cells(), "elpv-dataset", Path(folder) / "run", config, quiet=True
        )
        work = dataclasses.replace(run.plan.student, steps=steps)
        run.plan = dataclasses.replace(run.plan, student=work)
        chain = pipeline.Pipeline(run)
        teach(chain, self_training=False)
        trained.fit = kept  # type: ignore[assignment]
        try:
            teach_student(chain, [chain.teacher.outcome.model])
        finally:
            trained.fit = fit
    student, batch = students[-1], work.batch_size
    forward = Forward(student)
    views = torch.rand(batch, 3, work.size, work.size)
    forward(views)
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        forward(views)
        seconds.append(time.perf_counter() - began)
    a_view = {part: clock.milliseconds(part) / batch for part in PARTS}
    a_view["forward"] -= a_view["teacher"]  # whose answers the step asks for
    a_view["whole step"] = clock.whole() / batch
    a_view["rest"] = a_view["whole step"] - sum(a_view[part] for part in PARTS)
    a_view["onnxruntime forward"] = 1e3 * min(seconds) / batch
    a_view["floor"] = a_view["views"] + a_view["teacher"] + 3 * a_view["onnxruntime forward"]
    return {
        "device": run.device.type,
        "sizes": {"student": work.size, "teacher": run.plan.size, "batch": batch},
        "frozen_stages": work.frozen_stages,
        "steps": len(clock.steps),
        "ms_a_view": {part: round(value, 2) for part, value in a_view.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--minutes", type=float, default=4, help="what the sizes are planned for")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    result = {
        **results.provenance("step", PACKAGES),
        "data": "demo",
        **measured(options.steps, options.minutes, options.device),
    }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)


if __name__ == "__main__":
    main()
