"""How accurate from how few labels: tutelage and its peers on the same draws, weights and minutes.

python benchmarks/efficiency.py cifar10 --labels-per-class 4 --seeds 5 --minutes 10 \
    --arms probe,fine-tune,self-train,timm-fine-tune,freematch --out efficiency.jsonl
python benchmarks/efficiency.py --out efficiency.jsonl

Every (data set, labels, seed, arm) appends one line of JSON; lines that are there are not made
again, so the same command goes on after a kill, and two processes with different seeds and
``--threads 1`` may share a file. With ``--engine ray`` each draw is a task of a Ray cluster, whose
nodes must all see the file and the images. The last lines printed are means over the draws and, for
every arm, the paired differences to ``--against``. Without a data set only that is printed.

The arms of ``tutelage ladder`` (self-train is the teacher) come from one run; their seconds are of
their own stages, which together have about ``--minutes``: fine-tune and student-alone come on top.
kd distils that run's teacher into the same untrained student in the student's own seconds. The
other peers get the whole of ``--minutes`` for training alone.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import named_sets
import results
from peers import finetune, kd, selftraining, usb
from peers.common import Draw, Trained
from tutelage.chain import answers, pipeline, student, types
from tutelage.chain import prepare as preparing
from tutelage.chain.plan import RunPlan
from tutelage.chain.run import teach, teach_student
from tutelage.config import DataConfig, make_config
from tutelage.data.catalog import Catalog
from tutelage.data.open import read_catalog
from tutelage.ladder import arms as rungs
from tutelage.ladder.cluster import draws_share, settle
from tutelage.ladder.request import RUNGS
from tutelage.models.classifier import count_parameters
from tutelage.models.zoo import without_levels
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import metrics
from tutelage.system.engines import ENGINES, Local, Lost, Resources, asked_cluster
from tutelage.training.loader import Canvases

PACKAGES = ("tutelage", "torch", "timm", "onnxruntime", "numpy", "scikit-learn", "semilearn")
PEERS: dict[str, Callable[[Draw, pipeline.Pipeline], Trained]] = {
    "timm-fine-tune": lambda draw, chain: finetune.finetune(draw),
    "fixmatch": lambda draw, chain: usb.train(draw, "fixmatch"),
    "freematch": lambda draw, chain: usb.train(draw, "freematch"),
    "sklearn-threshold": lambda draw, chain: self_trained(draw, chain, "threshold"),
    "sklearn-k-best": lambda draw, chain: self_trained(draw, chain, "k_best"),
    "kd": lambda draw, chain: distilled(draw, chain),
}
ARMS = (*RUNGS, *PEERS)


def load(name: str, folder: Path | None, most_test: int) -> Catalog:
    """A named data set or a path, with at most ``most_test`` test images: the same for all."""
    known = name in named_sets.NAMES
    catalog = named_sets.catalog(name, folder) if known else read_catalog(name)
    test = np.flatnonzero(catalog.splits == "test")
    left_out = np.random.default_rng(0).permutation(test)[most_test:]
    return catalog.select(np.setdiff1d(np.arange(len(catalog)), left_out))


def prepare(options: argparse.Namespace, catalog: Catalog, seed: int, out: Path) -> types.Run:
    """Split, store, trunk and plan of one draw."""
    settings = {
        "seed": seed,
        "labels_per_class": options.labels_per_class,
        "limit": options.limit,
        "minutes": options.minutes,
        "input_size": options.size,
        "device": options.device,
        "teacher": options.teacher,
    }
    config = make_config("run", settings)
    return preparing.prepare("run", catalog, options.data, out, config, quiet=True)


def as_draw(options: argparse.Namespace, run: types.Run) -> Draw:
    """What peers see of a run; the size is the one at which tutelage trains a trunk."""
    return Draw(
        store=run.store,
        labeled=run.task.labeled,
        labels=run.task.labels,
        pool=run.task.pool,
        base=without_levels(run.base),
        size=options.size or _trained_size(run.plan),
        seconds=60 * options.minutes,
        device=run.device,
        seed=run.config.data.seed,
        workers=options.workers,
    )


def _trained_size(plan: RunPlan) -> int:
    """The side of the views at which a trunk is trained, or else the student."""
    trained = [work for work in (plan.transfer, *plan.rounds) if work.trunk != "frozen"]
    return (trained or [plan.student])[0].size


def self_trained(draw: Draw, chain: pipeline.Pipeline, criterion: Any) -> Trained:
    """On the centre view, which is what the model is used on; the features count as given."""
    own, frozen = draw.base.num_features, chain.features
    labeled, pool = (bank.views[0][:, :own] for bank in (frozen.labeled, frozen.pool))
    trained = selftraining.self_training(draw, labeled, pool, criterion)
    trained.model.spec = dataclasses.replace(trained.model.spec, input_size=chain.run.plan.size)
    return trained


def distilled(draw: Draw, chain: pipeline.Pipeline) -> Trained:
    """From the chain's teacher, in the seconds and at the size of the chain's own student."""
    chain = pipeline.Pipeline(chain.run)  # from the start: what is finished is in the run folder
    teach(chain, self_training=True)
    teacher = chain.teacher.outcome.model
    own = teach_student(chain, [teacher])
    draw = dataclasses.replace(draw, seconds=own.seconds, size=own.outcome.model.spec.input_size)
    return kd.distill(draw, teacher, student.create_student(chain.run.config, teacher))


def chain_rows(chain: pipeline.Pipeline, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of the ladder's arms; test is read after the last of them has been trained."""
    # A student learns from the self-trained teacher, whichever rows are there already.
    arms = {*wanted, "self-train"} if "student" in wanted else {*wanted}
    done = rungs.train_arms(chain, sorted(arms, key=RUNGS.index))
    for arm in wanted:
        if arm in done:
            stage = done[arm].stage
            yield {
                "arm": arm,
                **judged(chain.run, stage.outcome.model),
                "seconds": round(done[arm].seconds, 1),
                "stage": stage.name,
            }


def judged(run: types.Run, model: Any) -> dict[str, Any]:
    """Test figures of a classifier, at the view and temperature of its own spec."""
    rows = run.split.indices("test")
    canvases = Canvases(run.store, rows, run.device)
    logits = answers.evaluation_look(canvases, rows, model, run.device).numpy().astype(np.float64)
    found = metrics(softmax(logits, model.spec.temperature), run.split.truth[rows])
    parameters = count_parameters(model)
    return {**(found or {}), "size_used": model.spec.input_size, "parameters": parameters}


def peer_row(run: types.Run, arm: str, draw: Draw, chain: pipeline.Pipeline) -> dict[str, Any]:
    """Row of one peer."""
    trained = PEERS[arm](draw, chain)
    return {
        "arm": arm,
        **judged(run, trained.model),
        "seconds": round(trained.seconds, 1),
        "steps": trained.steps,
    }


def one_seed(
    options: argparse.Namespace, catalog: Catalog, seed: int, arms: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows of the arms that are still to be made, on one draw."""
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        teacher = options.teacher.replace("/", "_")
        words = (asked(options)["data"], options.labels_per_class, f"{options.minutes:g}", seed)
        name = "-".join(map(str, (*words, teacher)))
        run = prepare(options, catalog, seed, folder / name)
        chain, draw = pipeline.Pipeline(run), as_draw(options, run)
        of_chain = [arm for arm in arms if arm in RUNGS]
        if of_chain:
            yield from chain_rows(chain, of_chain)
        for arm in arms:
            if arm in PEERS:
                yield peer_row(run, arm, draw, chain)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append_row(row: dict[str, Any], path: Path) -> None:
    """Add one whole line, also when two processes write."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")


def asked(options: argparse.Namespace) -> dict[str, Any]:
    """What the rows of this command have in common."""
    shared = {name: getattr(options, name) for name in results.SETTING}
    named = options.data in named_sets.NAMES
    return {**shared, "data": options.data if named else Path(options.data).stem}


def measure(options: argparse.Namespace) -> None:
    """Make the rows that are not in the file, one draw after the other or on a cluster."""
    if set(options.arms) & set(usb.METHODS):
        usb.semilearn()  # what is missing shall be missed before the work, not after half of it
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    cluster = asked_cluster(options.engine, options.address)
    if cluster is None:
        list(Local().map(partial(measuring, options), seeds, Resources()))
        return
    with cluster.connected() as nodes:
        share = draws_share(nodes, options.device)
        there = partial(measuring, options, os.getcwd(), int(share.cores))
        for seed, result in cluster.map(there, seeds, share):
            if isinstance(result, Lost):
                print(f"seed {seed} is lost ({result.reason}); repeat the command", flush=True)


@contextlib.contextmanager
def measuring(
    options: argparse.Namespace, place: str | None = None, cores: int = 0
) -> Iterator[Callable[[int], None]]:
    """Gives the function that appends a draw's rows; on a cluster it settles in ``place`` first."""
    if place is not None:
        settle(place, cores)
    catalog = load(options.data, options.data_dir, options.test)
    machine = {**results.hardware(), "threads": torch.get_num_threads()}
    if options.device != "cpu" and torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    yield partial(measure_draw, options, catalog, machine)


def measure_draw(
    options: argparse.Namespace, catalog: Catalog, machine: dict[str, Any], seed: int
) -> None:
    """Append the rows of one draw that are not in the file."""
    key = {**asked(options), "seed": seed}
    rows = read_rows(options.out)
    done = [row["arm"] for row in rows if all(row[name] == key[name] for name in key)]
    arms = [arm for arm in options.arms if arm not in done]
    if not arms:
        return
    began = time.monotonic()
    for row in one_seed(options, catalog, seed, arms):
        made = results.provenance("efficiency", PACKAGES)
        row = {**made, **key, **row, "hardware": machine}
        append_row(row, options.out)
        print(
            f"{key['data']} {options.labels_per_class} labels, seed {seed}, {row['arm']}: "
            f"{row['accuracy']:.4f} in {row['seconds']:.0f} s "
            f"({time.monotonic() - began:.0f} s since the draw)",
            flush=True,
        )


def summary(rows: Sequence[dict[str, Any]], against: str) -> list[dict[str, Any]]:
    """One object for every arm of every setting: mean, and difference to ``against`` in pairs."""
    out = []
    for setting, arms in results.grouped(rows).items():
        for arm, by_seed in arms.items():
            seeds = sorted(by_seed)
            pairs = [seed for seed in seeds if seed in arms.get(against, {})]
            change = [by_seed[s]["accuracy"] - arms[against][s]["accuracy"] for s in pairs]
            out.append(
                {
                    **dict(zip(results.SETTING, setting, strict=True)),
                    "arm": arm,
                    "draws": len(seeds),
                    "accuracy": results.mean([by_seed[s]["accuracy"] for s in seeds]),
                    "ece": results.mean([by_seed[s]["ece"] for s in seeds]),
                    "seconds": results.mean([by_seed[s]["seconds"] for s in seeds]),
                    "against": against,
                    "pairs": len(pairs),
                    "difference": results.mean(change) if pairs and arm != against else None,
                }
            )
    return out


def show(found: Sequence[dict[str, Any]]) -> None:
    """The summary, one line an arm, in percent."""
    for row in found:
        name = f"{row['data']}, {row['labels_per_class']} labels a class, {row['minutes']:g} min"
        line = f"{name}: {row['arm']:16} {_percent(row['accuracy'])}, {row['draws']} draws"
        if row["difference"]:
            line += f"; minus {row['against']}: {_percent(row['difference'], '+')}"
        print(line)


def _percent(figure: dict[str, Any], sign: str = "") -> str:
    text = f"{100 * figure['mean']:{sign}.1f}"
    if figure["ci95"]:
        text += " ({:{s}.1f} to {:{s}.1f})".format(*(100 * end for end in figure["ci95"]), s=sign)
    return text


def arm_list(text: str) -> list[str]:
    """``a,b`` -> arms, once each."""
    arms = list(dict.fromkeys(text.split(",")))
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; use {', '.join(ARMS)}")
    return arms


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join(named_sets.NAMES)
    parser.add_argument("data", nargs="?", help=f"{known}, or a folder or manifest")
    parser.add_argument("--data-dir", type=Path, help="of the named sets (or $TUTELAGE_DATA)")
    parser.add_argument("--labels-per-class", type=int, default=10)
    parser.add_argument("--limit", type=int, help="pool images at most")
    parser.add_argument("--teacher", default=DataConfig().teacher, help="as in tutelage run")
    parser.add_argument("--seeds", type=int, default=5, help="how many draws")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", type=arm_list, default=[*ARMS], help="separated by commas")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each arm")
    parser.add_argument("--size", type=int, help="of the input, for all (default: planned)")
    parser.add_argument("--test", type=int, default=2000, help="test images at most")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of torch (default: all cores)")
    parser.add_argument("--engine", default="local", choices=ENGINES)
    parser.add_argument("--address", help="of the Ray cluster (default: $RAY_ADDRESS)")
    parser.add_argument("--workers", type=int, default=0, help="processes for the peers' views")
    parser.add_argument("--keep", type=Path, help="run folders, for arms that are asked for later")
    parser.add_argument("--against", default="self-train", choices=ARMS, help="of the differences")
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file, appended to")
    parser.add_argument("--json", type=Path, help="append the summary to this file's list")
    options = parser.parse_args()
    if options.threads and options.engine == "ray":
        parser.error("--threads: a node of a cluster uses the cores that it is given")
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.data:
        measure(options)
    found = summary(read_rows(options.out), options.against)
    show(found)
    results.append({**results.provenance("efficiency", PACKAGES), "arms": found}, options.json)


if __name__ == "__main__":
    main()
