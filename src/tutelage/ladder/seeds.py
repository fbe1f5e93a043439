"""What each stage gains on the user's own data: paired label draws, every arm on the same split.

Each seed has a run folder of its own, so a ladder that was cut off goes on after the last finished
stage. Within a seed, the test images are looked at once, after the last decision.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.chain.clock import in_minutes
from tutelage.chain.measure import predict_rows
from tutelage.chain.pipeline import Pipeline
from tutelage.chain.prepare import prepare
from tutelage.chain.types import Run, is_round
from tutelage.config import RunConfig
from tutelage.data.catalog import Catalog
from tutelage.data.runfolder import RunFolder, repeating_line
from tutelage.deploy.latency import onnx_latency
from tutelage.deploy.onnx import export_onnx
from tutelage.ladder.arms import ALONE, TrainedArm, train_arms
from tutelage.ladder.curve import NEED, CurvePoint, check_budgets, worth
from tutelage.ladder.page import BASELINE, Arm, Difference, LadderPage, headline, render, summary
from tutelage.ladder.request import ARMS, FEWEST_SEEDS, LEFT_OUT, RUNGS, check_request
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.report.html import write_page
from tutelage.report.wording import now, title
from tutelage.stats.intervals import Interval, t_interval
from tutelage.stats.metrics import metrics
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.system.progress import Part, Progress

KEPT_S = 60.0  # a draw that took less was there before, and tells nothing of the others


def ladder(
    config: RunConfig,
    opened: tuple[Catalog, str],
    out: Path,
    settings: dict[str, Any],
    *,
    seeds: int,
    arms: Sequence[str] | None,
    curve: Sequence[int] | None,
    hourly_price: float | None,
    quiet: bool,
) -> dict[str, Any]:
    """Train the arms on each draw, write the page; ``tutelage.api.ladder`` has the arguments.

    ``settings`` are those that were given, which make ``config``; ``opened`` is what ``open_data``
    returned.
    """
    wanted = check_request(arms, seeds, config.data.seed)
    catalog, name = opened
    if not ((catalog.splits == "test") & (catalog.labels >= 0)).any():
        raise _no_test(catalog)
    budgets = check_budgets(curve, catalog, config.data.labels_per_class, wanted)
    given = {
        **settings,
        "seeds": seeds,
        "arms": None if arms is None else list(wanted),
        "curve": None if curve is None else list(budgets),
        "hourly_price": hourly_price,
    }
    line = repeating_line("ladder", name, str(out), given)
    for draws, folder, console in run_seeds(
        catalog, name, out, config, wanted, seeds, budgets, quiet=quiet
    ):
        page = make_page(draws, catalog, config, command=line, created=now(), price=hourly_price)
        content = to_dict(page)
        folder.write_json("ladder.json", content)
        path = folder.path / "ladder.html"
        write_page(render(page), path)
        if len(draws) < seeds:
            console.say(f"page of {len(draws)} draws so far: {path}")
    for change in content["differences"]:
        mean, low, high = (100 * part for part in (change["mean"], *change["ci95"]))
        console.say(
            f"  {change['arm']:<14} minus {change['minus']:<14} {mean:+5.1f} points "
            f"[{low:+.1f}, {high:+.1f}]  {change['verdict']}"
        )
    console.say(content["summary"])
    console.point("page", path)
    return content


def _no_test(catalog: Catalog) -> TutelageError:
    found = ", ".join(sorted(set(catalog.splits.tolist()))) or "none"
    return TutelageError(
        f"a ladder needs labelled test images that can be read, and there are none; the splits "
        f"are: {found}. Put some into test/<class>/ or mark rows of the manifest with split test"
    )


def run_seeds(
    catalog: Catalog,
    data: str,
    out: Path,
    config: RunConfig,
    arms: Sequence[str],
    seeds: int,
    budgets: Sequence[int] = (),
    *,
    quiet: bool = False,
) -> Iterator[tuple[list[dict[str, Any]], RunFolder, Console]]:
    """Train the arms on each seed's draw of labels in turn, each in ``out / "seed-N"``.

    The user calls the catalog ``data``. The first seed is that of ``config``. The curve's other
    points have ``budgets`` labels per class.

    Yields:
        After each seed from the second on: the contents of the seeds' metrics.json so far, the
        folder ``out``, and its console.

    Raises:
        TutelageError: as ``run_seed``, or the folder holds something else. A new folder in which
            no seed has begun is removed again.
    """
    folder = RunFolder(out)
    request = {"command": "ladder", "data": os.path.normpath(data), "arms": list(arms)}
    folder.claim({**request, "curve": list(budgets), "settings": config.to_dict()})
    console = Console(folder.events, quiet=quiet)
    first = config.data.seed
    names = [f"draw {number}" for number in range(1, seeds + 1)]
    console.progress.expect(dict.fromkeys(names, Part()))
    draws = []
    try:
        for number, seed in enumerate(range(first, first + seeds), start=1):
            began = time.monotonic()
            console.say(f"draw {number} of {seeds} (seed {seed})", seed=seed)
            drawn = config.changed("data", seed=seed)
            run = partial(
                run_seed, catalog, data, quiet=quiet, shared=folder, progress=console.progress
            )
            with console.progress.part(names[number - 1]):
                done = run(out / f"seed-{seed}", drawn, arms, timed=number == 1)
                done["curve"] = [_point(done, own=True)] if set(NEED) <= set(arms) else []
                for budget in budgets:
                    console.say(f"draw {number}, {budget} labels per class")
                    fewer = drawn.changed("data", labels_per_class=budget)
                    point = run(out / f"seed-{seed}" / f"labels-{budget}", fewer, NEED)
                    done["curve"].append(_point(point, own=False))
            draws.append(done)
            took = time.monotonic() - began
            if number < seeds and took > KEPT_S:
                console.progress.expect(dict.fromkeys(names, Part(took, first=took)))
                _say_what_is_left(console, took, seeds - number)
            if number >= FEWEST_SEEDS:
                yield draws, folder, console
    except TutelageError:
        if not any(out.glob("seed-*")):
            folder.release()
        raise
    finally:
        folder.unlock()


def _say_what_is_left(console: Console, took: float, draws: int) -> None:
    """Say how long the other draws will take."""
    left = in_minutes(took * draws).removeprefix("about ")
    console.say(
        f"this draw took {in_minutes(took)}; {draws} more will take about {left} (fewer --arms or "
        "a shorter --curve take less)"
    )


def _point(draw: Mapping[str, Any], *, own: bool) -> dict[str, Any]:
    """One draw's point of the curve; without planned rounds the teacher is transfer's."""
    accuracy = {entry["arm"]: entry["test"]["accuracy"] for entry in draw["arms"]}
    without, within = (accuracy.get(arm, accuracy["transfer"]) for arm in NEED)
    return {"labels": draw["labeled"], "without": without, "within": within, "own": own}


def run_seed(
    catalog: Catalog,
    data: str,
    out: Path,
    config: RunConfig,
    arms: Sequence[str],
    *,
    timed: bool = False,
    quiet: bool = False,
    shared: RunFolder | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and test the arms on one draw of labels, unless the folder ``out`` has them already.

    In the folder ``shared`` the choice of a student is pinned, so that all seeds train the same
    one. If ``timed``, the latency of each model is measured. ``progress`` is the whole ladder's.

    Returns:
        The content of the folder's metrics.json.

    Raises:
        TutelageError: as ``prepare``, or no test image can be read.
    """
    folder = RunFolder(out)
    if (out / "metrics.json").exists():
        return folder.read_json("metrics.json")
    run = prepare(
        "ladder", catalog, data, out, config, quiet=quiet, shared=shared, progress=progress
    )
    with contextlib.closing(run):
        if not len(run.split.indices("test")):
            raise _no_test(catalog)
        trained = train_arms(Pipeline(run), arms)
        result = {
            "seed": config.data.seed,
            "labeled": len(run.task.labeled),
            "notes": run.notes,
            "versions": run.base.spec.versions,
            "arms": _test(run, trained, timed=timed),
        }
        folder.write_json("metrics.json", result)
    return result


def _test(run: Run, trained: Mapping[str, TrainedArm], *, timed: bool) -> list[dict[str, Any]]:
    """Test every arm; a stage that stands for two arms looks at the images once."""
    rows = run.split.indices("test")
    # Named by arm: each chain that lacks a part has a stage "student" of its own.
    different = {id(one.stage): (arm, one.stage) for arm, one in trained.items()}
    shown = [dataclasses.replace(stage, name=arm) for arm, stage in different.values()]
    probs = predict_rows(run, shown, rows)
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
            "test": metrics(probs[different[id(one.stage)][0]], run.split.truth[rows]),
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


def summarise(seeds: Sequence[Mapping[str, Any]]) -> tuple[list[Arm], list[Difference]]:
    """The arms that all of at least 2 seeds' metrics.json have, and their paired differences."""
    tables = [{entry["arm"]: entry for entry in seed["arms"]} for seed in seeds]
    names = [name for name in ARMS if all(name in table for table in tables)]
    arms = [_arm(name, [table[name] for table in tables]) for name in names]
    accuracy = {arm.name: np.array(arm.each) for arm in arms}
    differences = []
    for arm, minus in pairs(names):
        each = (accuracy[arm] - accuracy[minus]).tolist()
        differences.append(Difference(arm, minus, each, t_interval(each)))
    return arms, differences


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is compared with what, as (arm, the arm that is subtracted).

    Each rung with the one before it and with fine-tuning, fine-tuning with the same training from
    random weights, the student with its teacher, and the student with the students of the chains
    that lack a part.
    """
    rungs = [name for name in names if name in RUNGS]
    for position, arm in enumerate(rungs[1:], start=1):
        before = [rungs[position - 1]]
        if arm == "student":
            before += [teacher for teacher in ("self-train", "transfer") if teacher in rungs][:1]
        before += ["augment"] * (arm == BASELINE and "augment" in rungs)
        before += [BASELINE] * (BASELINE in rungs[:position])
        yield from ((arm, minus) for minus in dict.fromkeys(before))
    if "student" in rungs:
        yield from (("student", name) for name in names if name in LEFT_OUT)


def _arm(name: str, entries: Sequence[Mapping[str, Any]]) -> Arm:
    each = [entry["test"]["accuracy"] for entry in entries]
    mean, low, high = t_interval(each)
    kept = [entry["kept"] for entry in entries if entry["kept"] is not None]
    return Arm(
        name=name,
        each=each,
        mean=Interval(mean, max(0.0, low), min(1.0, high)),
        ece=statistics.fmean(entry["test"]["ece"] for entry in entries),
        parameters=entries[0]["parameters"],
        seconds=statistics.fmean(entry["seconds"] for entry in entries),
        total=statistics.fmean(entry["total_seconds"] for entry in entries),
        latency_ms=entries[0]["latency_ms"],
        kept=sum(kept) if kept else None,
    )


def make_page(
    seeds: Sequence[Mapping[str, Any]],
    catalog: Catalog,
    config: RunConfig,
    *,
    command: str,
    created: str,
    price: float | None = None,
) -> LadderPage:
    """Everything the page shows; ``seeds`` are metrics.json, each with its points of the curve."""
    arms, differences = summarise(seeds)
    points = _curve_points(seeds)
    return LadderPage(
        title=title("tutelage ladder", catalog.classes),
        command=command,
        created=created,
        seeds=[seed["seed"] for seed in seeds],
        n_test=seeds[0]["arms"][0]["test"]["n"],
        arms=arms,
        differences=differences,
        points=points,
        worth=worth(points),
        price=price,
        notes=_notes(seeds, config, arms),
        settings={"versions": seeds[0]["versions"], **config.to_dict()},
    )


def _curve_points(seeds: Sequence[Mapping[str, Any]]) -> list[CurvePoint]:
    points = []
    for draws in zip(*(seed["curve"] for seed in seeds), strict=True):
        each = {name: [draw[name] for draw in draws] for name in ("labels", "without", "within")}
        labels = statistics.fmean(each["labels"])
        points.append(CurvePoint(labels, each["without"], each["within"], draws[0]["own"]))
    return sorted(points, key=lambda point: point.labels)


def to_dict(page: LadderPage) -> dict[str, Any]:
    """The content of ladder.json; accuracies and differences are fractions."""
    return {
        "command": page.command,
        "created": page.created,
        "seeds": list(page.seeds),
        "n_test": page.n_test,
        "verdict": headline(page),
        "summary": f"{headline(page)} {summary(page)}",
        "arms": [
            {
                "name": arm.name,
                "accuracy": arm.mean.value,
                "accuracy_ci95": [arm.mean.low, arm.mean.high],
                "each": list(arm.each),
                "ece": arm.ece,
                "parameters": arm.parameters,
                "seconds": round(arm.seconds, 2),
                "total_seconds": round(arm.total, 2),
                "cost": page.cost(arm),
                "latency_ms": arm.latency_ms,
                "kept": arm.kept,
            }
            for arm in page.arms
        ],
        "differences": [
            {
                "arm": change.arm,
                "minus": change.minus,
                "mean": change.mean.value,
                "ci95": [change.mean.low, change.mean.high],
                "each": list(change.each),
                "verdict": change.verdict,
            }
            for change in page.differences
        ],
        "curve": [
            {
                "labels": point.labels,
                "without_pool": statistics.fmean(point.without),
                "with_pool": statistics.fmean(point.within),
                "each_without_pool": list(point.without),
                "each_with_pool": list(point.within),
                "own": point.own,
            }
            for point in page.points
        ],
        "worth": None if page.worth is None else dataclasses.asdict(page.worth),
        "notes": list(page.notes),
        "settings": dict(page.settings),
    }


def _notes(seeds: Sequence[Mapping[str, Any]], config: RunConfig, arms: Sequence[Arm]) -> list[str]:
    """What the reader must know: first about the design, then each seed's own notes, said once."""
    out = []
    if config.data.labels_per_class is None:
        out.append(
            "Every draw had all labels, so the draws differ in views and training only; "
            "--labels-per-class N draws N labels anew each time."
        )
    if "self-train" not in {arm.name for arm in arms}:
        out.append("There were no rounds of self-training.")
    alone = [arm.name for arm in arms if arm.name in ALONE]
    if alone:
        out.append(
            f"{', '.join(alone)}: no labels are held out for a temperature, so without a val "
            "split their ECE is that of uncalibrated probabilities."
        )
    by_note: dict[str, list[int]] = {}
    for seed in seeds:
        for note in seed["notes"]:
            by_note.setdefault(note, []).append(seed["seed"])
    for note, found in by_note.items():
        where = "" if len(found) == len(seeds) else f" (seed {', '.join(map(str, found))})"
        out.append(f"{note}{where}")
    return out
