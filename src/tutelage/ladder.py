"""What each stage buys on the user's own data: paired label draws, every arm on the same split.

Each seed is a run folder of its own, so a ladder that was cut off goes on after the last finished
stage. Within a seed, the test images are looked at once, after the last decision.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage import pipeline, runs, stages, student, trunk
from tutelage.config import RunConfig
from tutelage.console import Console
from tutelage.data.catalog import Catalog
from tutelage.deploy.latency import onnx_latency
from tutelage.deploy.onnx import export_onnx
from tutelage.errors import TutelageError
from tutelage.metrics import metrics, t_interval
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.pipeline import Finished
from tutelage.plan import MOST_TRANSFER_STEPS, Plan, Work
from tutelage.report.ladder import BASELINE, Arm, Difference, LadderPage, headline
from tutelage.report.numbers import Interval
from tutelage.runfolder import RunFolder
from tutelage.runs import Run
from tutelage.stages import Outcome

ARMS = ("probe", "fine-tune", "transfer", "self-train", "student-alone", "student")
"""From the plainest to the whole chain."""
ALONE = ("fine-tune", "student-alone")  # beside the chain, which learns nothing from them
FEWEST_SEEDS = 2  # one draw has no interval


def check_request(arms: Sequence[str] | None, seeds: int, first: int) -> tuple[str, ...]:
    """The arms that were asked for, in the ladder's order.

    Args:
        arms: names of ``ARMS``; None takes them all.
        seeds: label draws.
        first: seed of the first of them.

    Raises:
        TutelageError: an unknown arm, none at all, or too few or too many seeds.
    """
    wanted = ARMS if arms is None else tuple(arms)
    unknown = sorted(set(wanted) - set(ARMS))
    if unknown or not wanted:
        found = f"no arm called {', '.join(map(repr, unknown))}" if unknown else "no arms given"
        raise TutelageError(f"{found}; --arms takes some of {','.join(ARMS)}")
    if not FEWEST_SEEDS <= seeds <= 2**32 - first:
        raise TutelageError(
            f"--seeds is {seeds}, expected {FEWEST_SEEDS} or more label draws: an interval over "
            "draws needs them (5 or more are worth reading)"
        )
    return tuple(arm for arm in ARMS if arm in wanted)


def check_test(catalog: Catalog) -> None:
    """Refuse data without test images.

    Raises:
        TutelageError: there are none with a label.
    """
    if not ((catalog.splits == "test") & (catalog.labels >= 0)).any():
        raise _no_test(catalog)


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
    *,
    quiet: bool = False,
) -> tuple[list[dict[str, Any]], RunFolder, Console]:
    """Every seed in turn, each in ``out / "seed-N"``.

    Returns:
        The contents of the seeds' metrics.json, the folder ``out``, and its console.

    Raises:
        TutelageError: as ``run_seed``, or the folder holds something else; a new folder in which
            nothing was begun is given back.
    """
    folder = RunFolder(out)
    request = {"command": "ladder", "data": os.path.normpath(data), "arms": list(arms)}
    folder.claim({**request, "settings": config.to_dict()})
    console = Console(folder.events, quiet=quiet)
    first = config.data.seed
    draws = []
    try:
        for number, seed in enumerate(range(first, first + seeds), start=1):
            console.say(f"seed {seed}, {number} of {seeds}", seed=seed)
            where = out / f"seed-{seed}"
            drawn = dataclasses.replace(config, data=dataclasses.replace(config.data, seed=seed))
            timed = number == 1
            draws.append(
                run_seed(catalog, data, where, drawn, arms, timed=timed, quiet=quiet, shared=folder)
            )
    except TutelageError:
        if not any(out.glob("seed-*")):
            folder.release()
        raise
    return draws, folder, console


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
) -> dict[str, Any]:
    """Train and test the arms on one draw of labels; what the run folder ``out`` has is kept.

    Args:
        catalog: the data.
        data: what the user called it.
        out: the seed's run folder.
        config: settings, the seed among them.
        arms: some of ``ARMS``.
        timed: also measure the latency of each model.
        quiet: print nothing.
        shared: where the choice of a student is pinned, so that all seeds train the same one.

    Returns:
        The content of the folder's metrics.json.

    Raises:
        TutelageError: as ``runs.prepare``, or no test image can be read.
    """
    folder = RunFolder(out)
    if (out / "metrics.json").exists():
        return folder.read_json("metrics.json")
    run = runs.prepare("ladder", catalog, data, out, config, quiet=quiet, shared=shared)
    if not len(run.split.indices("test")):
        raise _no_test(catalog)
    finished, seconds = climb(pipeline.Chain(run), arms)
    result = {
        "seed": config.data.seed,
        "labeled": len(run.task.labeled),
        "notes": run.notes,
        "versions": run.base.spec.versions,
        "arms": _test(run, finished, seconds, timed=timed),
    }
    folder.write_json("metrics.json", result)
    return result


def climb(
    chain: pipeline.Chain, arms: Sequence[str]
) -> tuple[dict[str, Finished], dict[str, float]]:
    """Train the arms, and make every decision between them, without a look at test.

    Args:
        chain: nothing is finished in it yet; afterwards the stages of the arms are.
        arms: some of ``ARMS``.

    Returns:
        arm -> the stage it stands for, and arm -> seconds of its own work. Without unlabelled
        images or planned rounds there is no "self-train".
    """
    run = chain.run
    done: dict[str, Finished] = {}
    seconds: dict[str, float] = {}
    rounds = "self-train" in arms and len(run.task.pool) > 0 and len(run.plan.rounds) > 0
    if set(arms) - set(ALONE):
        pipeline.teach(chain, rounds=rounds)
        done = {stage.name: stage for stage in chain.finished if stage.name in ARMS}
    if rounds:
        done["self-train"] = chain.teacher
        seconds["self-train"] = sum(s.seconds for s in chain.finished if _is_round(s))
    if "fine-tune" in arms:
        done["fine-tune"] = chain.arm("fine-tune", lambda: fine_tune(chain))
    if "student-alone" in arms:
        done["student-alone"] = chain.arm(
            "student-alone",
            lambda: student.train_alone(run.shop, run.task, run.base, run.plan.student),
        )
    if "student" in arms:
        done["student"] = pipeline.student_stage(chain, chain.teacher.outcome.model)
    done = {arm: done[arm] for arm in ARMS if arm in arms and arm in done}
    return done, {arm: stage.seconds for arm, stage in done.items()} | seconds


def _is_round(stage: Finished) -> bool:
    return stage.name.startswith("self-train-")


def fine_tune_work(plan: Plan) -> Work:
    """The plan's own training of a trunk, on labels alone; if it has none, the student's steps."""
    trained = [work for work in (plan.transfer, *plan.rounds) if work.trunk != "frozen"]
    work = trained[0] if trained else plan.student
    return dataclasses.replace(work, trunk="trained", steps=min(work.steps, MOST_TRANSFER_STEPS))


def fine_tune(chain: pipeline.Chain) -> Outcome:
    """Arm "fine-tune": the trunk trained on the labels, from a plain head; nothing is judged."""
    run = chain.run
    task = dataclasses.replace(run.task, chains=run.task.chains[:1], pool=run.task.pool[:0])
    plain = {"metric": "plain", "strength": stages.PROBE_STRENGTH}
    heads = stages.fit_chain_heads(task, chain.frozen, plain, run.config, [None])
    work = fine_tune_work(run.plan)
    return trunk.train_trunk(run.shop, task, run.base, heads, [None], work, 0, "fine-tune")


def _test(
    run: Run, finished: Mapping[str, Finished], seconds: Mapping[str, float], *, timed: bool
) -> list[dict[str, Any]]:
    """Test every arm once; a stage that stands for two arms is looked at once."""
    rows = run.split.indices("test")
    different = {stage.name: stage for stage in finished.values()}
    probs = pipeline.predict_rows(run, list(different.values()), rows)
    times = _latencies([stage.outcome.model for stage in different.values()]) if timed else {}
    kept = {"transfer": lambda stage: stage.accepted, "self-train": _is_round}
    return [
        {
            "arm": arm,
            "stage": stage.name,
            "kept": kept[arm](stage) if arm in kept else None,
            "seconds": round(seconds[arm], 2),
            "parameters": count_parameters(stage.outcome.model),
            "latency_ms": times.get(_shape(stage.outcome.model)),
            "test": metrics(probs[stage.name], run.split.truth[rows]),
        }
        for arm, stage in finished.items()
    ]


def _shape(model: Classifier) -> tuple[Any, ...]:
    """Models of one shape take the same time."""
    spec = model.spec
    return (
        spec.architecture,
        spec.cut,
        spec.skipped,
        spec.head_hidden,
        spec.levels,
        spec.input_size,
    )


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
    """The arms that every seed has, and their paired differences.

    Args:
        seeds: contents of the seeds' metrics.json, at least 2.
    """
    tables = [{entry["arm"]: entry for entry in seed["arms"]} for seed in seeds]
    names = [name for name in ARMS if all(name in table for table in tables)]
    arms = [_arm(name, [table[name] for table in tables]) for name in names]
    accuracy = {arm.name: np.array(arm.each) for arm in arms}
    differences = []
    for arm, minus in pairs(names):
        each = (accuracy[arm] - accuracy[minus]).tolist()
        differences.append(Difference(arm, minus, each, Interval(*t_interval(each))))
    return arms, differences


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each arm and what it is compared with: the one before it, its teacher, and fine-tuning."""
    for position, arm in enumerate(names[1:], start=1):
        before = [names[position - 1]]
        if arm == "student":
            before += [teacher for teacher in ("self-train", "transfer") if teacher in names][:1]
        before += [BASELINE] * (BASELINE in names[:position])
        yield from ((arm, minus) for minus in dict.fromkeys(before))


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
) -> LadderPage:
    """Everything the page shows, from the contents of the seeds' metrics.json."""
    arms, differences = summarise(seeds)
    return LadderPage(
        title=f"tutelage ladder: {', '.join(catalog.classes[:6])}"
        + (" ..." if len(catalog.classes) > 6 else ""),
        command=command,
        created=created,
        seeds=[seed["seed"] for seed in seeds],
        n_test=seeds[0]["arms"][0]["test"]["n"],
        arms=arms,
        differences=differences,
        notes=_notes(seeds, config, arms),
        settings={"versions": seeds[0]["versions"], **config.to_dict()},
    )


def to_dict(page: LadderPage) -> dict[str, Any]:
    """The content of ladder.json; accuracies and differences are fractions."""
    return {
        "command": page.command,
        "created": page.created,
        "seeds": list(page.seeds),
        "n_test": page.n_test,
        "verdict": headline(page),
        "arms": [
            {
                "name": arm.name,
                "accuracy": arm.mean.value,
                "accuracy_ci95": [arm.mean.low, arm.mean.high],
                "each": list(arm.each),
                "ece": arm.ece,
                "parameters": arm.parameters,
                "seconds": round(arm.seconds, 2),
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
        "notes": list(page.notes),
        "settings": dict(page.settings),
    }


def _notes(seeds: Sequence[Mapping[str, Any]], config: RunConfig, arms: Sequence[Arm]) -> list[str]:
    """What the reader must know: of the design first, then each seed's own, said once."""
    out = []
    if config.data.labels_per_class is None:
        out.append(
            "Every draw had all labels, so the draws differ in views and training only; "
            "--labels-per-class N draws N other labels each time."
        )
    if "self-train" not in {arm.name for arm in arms}:
        out.append("No rounds of self-training took part.")
    alone = [arm.name for arm in arms if arm.name in ALONE]
    if alone:
        out.append(
            f"{' and '.join(alone)}: no labels are held out for a temperature, so without a val "
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
