"""One draw of labels: every arm trained on it and tested, in a run folder of its own.

A draw that was cut off goes on after its last finished stage. Its test images are looked at once,
after the last decision.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tutelage.chain.evidence import predict_test
from tutelage.chain.pipeline import Pipeline
from tutelage.chain.prepare import prepare
from tutelage.chain.types import Run, is_round
from tutelage.config import RunConfig
from tutelage.data.catalog import Catalog
from tutelage.data.runfolder import RunFolder
from tutelage.deploy.bench import onnx_latency
from tutelage.deploy.onnx import export_onnx
from tutelage.ladder.arms import TrainedArm, train_arms
from tutelage.ladder.request import NEED, no_test
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.stats.metrics import metrics
from tutelage.stats.results import ArmMetrics, DrawMetrics, DrawnPoint
from tutelage.system.console import Console


@dataclass(frozen=True)
class Ladder:
    """What its draws share; they are numbered from 1."""

    catalog: Catalog
    data: str  # what the user called the catalog
    out: Path  # of the page; each draw has a folder below it
    config: RunConfig  # its seed is that of the first draw
    arms: Sequence[str]
    budgets: Sequence[int]  # labels per class, of the curve's other points
    seeds: int  # how many draws

    @property
    def draws(self) -> range:
        """The numbers of all draws."""
        return range(1, self.seeds + 1)

    def seed(self, draw: int) -> int:
        """The seed of a draw."""
        return self.config.data.seed + draw - 1

    def folder(self, draw: int) -> Path:
        """The run folder of a draw."""
        return self.out / f"seed-{self.seed(draw)}"


def choose_student(ladder: Ladder, draw: int, console: Console) -> None:
    """Choose the student that keeps the limits, and pin it for all draws; the rest is prepared."""
    config = ladder.config.changed("data", seed=ladder.seed(draw))
    _prepared(ladder, ladder.folder(draw), config, console).close()


def train_draw(ladder: Ladder, draw: int, console: Console) -> DrawMetrics:
    """Train and test the arms on a draw of labels, and on the fewer or more labels of the curve.

    The first draw also measures the latency of each model.
    """
    seed, folder = ladder.seed(draw), ladder.folder(draw)
    console.say(f"draw {draw} of {ladder.seeds} (seed {seed})", seed=seed)
    config = ladder.config.changed("data", seed=seed)
    with console.progress.part(f"draw {draw}"):
        done = run_seed(ladder, folder, config, ladder.arms, console, timed=draw == 1)
        done["curve"] = [_point(done, own=True)] if set(NEED) <= set(ladder.arms) else []
        for budget in ladder.budgets:
            console.say(f"draw {draw}, {budget} labels per class")
            fewer = config.changed("data", labels_per_class=budget)
            point = run_seed(ladder, folder / f"labels-{budget}", fewer, NEED, console)
            done["curve"].append(_point(point, own=False))
    return done


def _point(draw: DrawMetrics, *, own: bool) -> DrawnPoint:
    """One draw's point of the curve; without planned rounds the teacher is transfer's."""
    accuracy = {entry["arm"]: entry["test"]["accuracy"] for entry in draw["arms"]}
    without, within = (accuracy.get(arm, accuracy["transfer"]) for arm in NEED)
    return {"labels": draw["labeled"], "without": without, "within": within, "own": own}


def run_seed(
    ladder: Ladder,
    out: Path,
    config: RunConfig,
    arms: Sequence[str],
    console: Console,
    *,
    timed: bool = False,
) -> DrawMetrics:
    """Train and test the arms on one draw of labels, unless the folder ``out`` has them already."""
    folder = RunFolder(out)
    if (out / "metrics.json").exists():
        return cast(DrawMetrics, folder.read_json("metrics.json"))
    with contextlib.closing(_prepared(ladder, out, config, console)) as run:
        if not len(run.split.indices("test")):
            raise no_test(ladder.catalog)
        trained = train_arms(Pipeline(run), arms)
        works = (run.plan.transfer, *run.plan.rounds, run.plan.student)
        result: DrawMetrics = {
            "seed": config.data.seed,
            "labeled": len(run.task.labeled),
            "notes": run.notes,
            "plan": {
                "size": run.plan.size,
                "views": run.plan.views,
                "trainings": [{"trunk": w.trunk, "steps": w.steps, "size": w.size} for w in works],
            },
            "versions": run.base.spec.versions,
            "arms": _test(run, trained, timed=timed),
        }
        folder.write_json("metrics.json", result)
    return result


def _prepared(ladder: Ladder, out: Path, config: RunConfig, console: Console) -> Run:
    return prepare(
        "ladder",
        ladder.catalog,
        ladder.data,
        out,
        config,
        quiet=console.quiet,
        shared=RunFolder(ladder.out),  # so that all draws train the same student
        progress=console.progress,
    )


def _test(run: Run, trained: Mapping[str, TrainedArm], *, timed: bool) -> list[ArmMetrics]:
    """Test every arm; a stage that stands for two arms looks at the images once."""
    # Named by arm: each chain that lacks a part has a stage "student" of its own.
    different = {id(one.stage): (arm, one.stage) for arm, one in trained.items()}
    shown = [dataclasses.replace(stage, name=arm) for arm, stage in different.values()]
    tested = predict_test(run, shown)
    times = _latencies([stage.outcome.model for stage in shown]) if timed else {}
    kept = {"transfer": lambda stage: stage.accepted, "self-train": is_round}
    return [
        {
            "arm": arm,
            "stage": one.stage.name,
            "kept": kept[arm](one.stage) if arm in kept else None,
            "seconds": round(one.seconds, 2),
            "total_seconds": round(one.total, 2),
            "parameters": count_parameters(one.stage.outcome.model),
            "latency_ms": times.get(_shape(one.stage.outcome.model)),
            "test": metrics(tested.probs[different[id(one.stage)][0]], tested.labels),
        }
        for arm, one in trained.items()
    ]


def _shape(model: Classifier) -> tuple[Any, ...]:
    """What a model's latency depends on: models of one shape take the same time."""
    spec = model.spec
    trunks = [(t.architecture, t.cut, t.skipped, t.levels, t.head_hidden) for t in spec.trunks]
    return (*trunks, spec.input_size)


def _latencies(models: Sequence[Classifier]) -> dict[tuple[Any, ...], float]:
    """Median milliseconds of one image on one core, by the shape of the exported model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        out = {}
        for shape, model in {_shape(model): model for model in models}.items():
            export_onnx(model, path)
            out[shape] = round(onnx_latency(path).p50_ms, 3)
    return out
