"""Augmentation on the CPU: images a second, beside the peers and beside the machine's limits.

python benchmarks/augment.py --images photos/ --peers timm,kornia --seconds 60
python benchmarks/augment.py --images photos.parquet --runs 3 --json results.json

Random resized crop, flip and RandAugment by this library and by those installed beside it. Several
runs take place in a process each; ``--json`` keeps their medians and widest spreads.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import augment_peers as peers
import results
from augment_peers import Job, Pipeline
from augment_words import describe
from photos import choose_photos, shrink, to_jpeg
from tutelage.augment import Plan
from tutelage.chain.machine import keep_freed_memory
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.system.process import cores

BATCH = 64
PHOTOS = 2 * BATCH
ROUNDS = 5
CASES = ((256, 224), (32, 32))
"""Sides of the images and of the views."""
PACKAGES = (
    *("tutelage", "torch", "numba", "numpy", "pillow"),
    *("torchvision", "timm", "albumentationsx", "opencv-python-headless", "kornia"),
)

Clock = Callable[[], float]
Rates = dict[str, list[float]]
Row = dict[str, Any]


def measure(
    images: Path | str | None = None,
    *,
    seconds: float = 150.0,
    threads: int = 1,
    only: Sequence[str] | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Measure all contenders in this process.

    The process keeps freed memory, as training does: fresh memory for each batch would cost every
    contender the same time, and so make them look more alike. On one thread, seconds are those of
    the processor, on several those of the clock on the wall.

    Args:
        images: a folder or manifest of photos; None generates some.
        seconds: to measure, in all; a batch takes as long as it takes, so slow peers need more.
        threads: of torch and OpenCV in this process.
        only: names of the peers to measure; None is all of them.
        quiet: show no progress.

    Returns:
        "rows" of float32 views, "uint8" of uint8 views, "limits" (what the machine could do),
        "absent" (why a peer is not there), "scaling" and "breakdown" (this library alone), and
        what all of it was measured on.

    Raises:
        TutelageError: a peer is unknown, a number is out of range, or the images cannot be read.
    """
    names = _check(only, seconds, threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    source = choose_photos(images, PHOTOS, CASES[0][0])
    pixels = {CASES[0][0]: source.pixels, CASES[1][0]: shrink(source.pixels, CASES[1][0])}
    jobs = [Job(pixels[side], size, norm) for norm in (True, False) for side, size in CASES]
    keep_freed_memory()
    with _threads(threads):
        began = time.perf_counter()
        peers.tutelage(jobs[0])(slice(0, BATCH))
        first = time.perf_counter() - began
        absent: dict[str, str] = {}
        wall = time.perf_counter
        own = time.process_time if threads == 1 else wall  # without what other programs take
        contests = [(_contenders(job, names, absent), own) for job in jobs]
        contests += [(_by_threads(jobs[0]), wall), (_stages(jobs[0]), own)]
        share = seconds / (ROUNDS * sum(len(contest) for contest, _ in contests))
        rates: list[Rates] = []
        with Console(quiet=quiet).bar("bench", len(contests), "table") as done:
            for contest, clock in contests:
                rates.append(interleave(contest, share, clock))
                done(len(rates))
    rows = [row for job, each in zip(jobs, rates, strict=False) for row in _rows(job, each)]
    return {
        "device": "cpu",
        "backend": "cpu" if peers.installed("numba") else "reference",
        "threads": threads,
        "photos": source.origin,
        "batch": BATCH,
        "rounds": ROUNDS,
        "load_before": load,
        "rows": [row for row in rows if row["dtype"] == "float32" and row["name"] != "decode"],
        "uint8": [row for row in rows if row["dtype"] == "uint8"],
        "limits": [row for row in rows if row["name"] in ("copy", "decode")],
        "absent": absent,
        "scaling": _scaling(rates[-2]),
        "breakdown": _breakdown(rates[-1]),
        "first_call_seconds": round(first, 3),
    }


def _check(only: Sequence[str] | None, seconds: float, threads: int) -> list[str]:
    names = list(peers.PEERS) if only is None else list(dict.fromkeys(only))
    if unknown := [name for name in names if name not in peers.PEERS]:
        raise TutelageError(f"no peer is named {unknown}; there are: {', '.join(peers.PEERS)}")
    if not seconds > 0:
        raise TutelageError(f"seconds is {seconds}, expected more than 0")
    if not 1 <= threads <= cores():
        raise TutelageError(f"threads is {threads}, expected 1 to {cores()}, this machine's cores")
    return names


# --- who takes part


def _contenders(job: Job, names: Sequence[str], absent: dict[str, str]) -> dict[str, Pipeline]:
    """What is measured, by name or "name/form"; ``absent`` says why others are not."""
    contest = {"tutelage": _checked(peers.tutelage(job), job)}
    for name in names:
        if not peers.installed(name):
            absent[name] = "not installed"
        if name in absent:
            continue
        try:
            contest |= _forms(name, job)
        except Exception as error:  # another version of a peer may raise anything: it is reported
            absent[name] = f"does not work here: {type(error).__name__}: {error}"
    if job.normalise:
        contest |= {"copy": copying(job), "decode": decoding(job)}
    return contest


def _forms(name: str, job: Job) -> dict[str, Pipeline]:
    """The forms of a peer, tried on one batch."""
    found = {}
    for form, build in peers.PEERS[name].items():
        with _silence():
            pipeline = build(job)
        peers.set_threads(torch.get_num_threads())  # building it may have imported OpenCV
        found[f"{name}/{form}"] = _checked(_silenced(pipeline), job)
    return found


def _checked(pipeline: Pipeline, job: Job) -> Pipeline:
    check(pipeline(slice(0, BATCH)), job)
    return pipeline


def check(views: Tensor, job: Job) -> None:
    """Refuse views (B, 3, h, w) that are not what the job asks for.

    Raises:
        TutelageError: the shape or type is another, or too many of the views have one colour.
    """
    shape = (BATCH, 3, job.size, job.size)
    dtype = torch.float32 if job.normalise else torch.uint8
    if tuple(views.shape) != shape or views.dtype != dtype or not views.is_contiguous():
        raise TutelageError(
            f"it made {tuple(views.shape)} {views.dtype}, expected contiguous {shape} {dtype}"
        )
    flat = int((views.float().flatten(1).std(dim=1) == 0).sum())
    if flat > BATCH // 8:
        raise TutelageError(f"{flat} of {BATCH} views have one colour")


def copying(job: Job) -> Pipeline:
    """A plain copy that reads and writes as many bytes as the job does."""
    read = job.pixels[0].nbytes
    written = 3 * job.size**2 * (4 if job.normalise else 1)
    source = torch.ones(BATCH * (read + written) // 2, dtype=torch.uint8)
    target = torch.empty_like(source)
    return lambda rows: target.copy_(source)


def decoding(job: Job) -> Pipeline:
    """Pillow's decoding of the same images from JPEG files in memory."""
    files = to_jpeg(job.pixels)

    def batch(rows: slice) -> Tensor:
        for file in files[rows]:
            array = np.asarray(Image.open(io.BytesIO(file)))
        return torch.from_numpy(array.copy())

    return batch


def _by_threads(job: Job) -> dict[str, Pipeline]:
    """This library on one thread, two, and all cores."""

    def on(threads: int) -> Pipeline:
        pipeline = peers.tutelage(job)

        def batch(rows: slice) -> Tensor:
            with _threads(threads):
                return pipeline(rows)

        return _checked(batch, job)  # which starts the threads

    most = cores()
    return {str(count): on(count) for count in sorted({1, 2, most}) if count <= most}


def _stages(job: Job) -> dict[str, Pipeline]:
    """The job in steps, whose differences say what each costs."""
    canvases = torch.from_numpy(job.pixels)
    bytes_only = replace(job, normalise=False)
    corner = canvases[:, : job.size, : job.size].contiguous()
    identity = Plan.identity(BATCH)
    aspect = torch.ones(BATCH)
    order = np.random.default_rng(0).permutation(len(canvases))

    def plans(sample: Callable[[Tensor], Plan]) -> dict[int, Plan]:
        starts = range(0, len(canvases) - BATCH + 1, BATCH)
        return {start: sample(canvases[start : start + BATCH]) for start in starts}

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    # The same draws, so the same crops: the policy's view draws first.
    full = plans(lambda images: peers.POLICY.plan(aspect, seeded()))
    crop = plans(lambda images: peers.POLICY.view.plan(aspect, seeded()))
    slant = {start: replace(crop[start], matrix=plan.matrix) for start, plan in full.items()}
    generator = seeded()

    def rendering(plans: Mapping[int, Plan], how: Job) -> Pipeline:
        return lambda rows: peers.render(canvases[rows], plans[rows.start], how)

    return {
        "plan": lambda rows: peers.POLICY.plan(aspect, generator).matrix,
        "copy": lambda rows: peers.render(corner[rows], identity, bytes_only),
        "crop": rendering(crop, bytes_only),
        "slant": rendering(slant, bytes_only),
        "color": rendering(full, bytes_only),
        "normalise": rendering(full, job),
        "gather": lambda rows: torch.from_numpy(job.pixels[order[rows]]),
    }


# --- measuring


def interleave(contest: Mapping[str, Pipeline], share: float, clock: Clock) -> Rates:
    """Images a second of each contender in each round, in turns: other work then slows all of them.

    Args:
        contest: makes a batch of some rows.
        share: seconds for a contender in a round; it makes at least one batch.
        clock: what "a second" is counted by.
    """
    rates: Rates = {name: [] for name in contest}
    for _ in range(ROUNDS):
        for name, pipeline in contest.items():
            rates[name].append(_rate(pipeline, share, clock))
    return rates


def _rate(pipeline: Pipeline, share: float, clock: Clock) -> float:
    batches, ends, began = 0, time.perf_counter() + share, clock()
    while time.perf_counter() < ends or not batches:
        start = batches * BATCH % PHOTOS
        pipeline(slice(start, start + BATCH))
        batches += 1
    return BATCH * batches / (clock() - began)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run torch and OpenCV on ``count`` threads; afterwards on as many as torch had."""
    before = torch.get_num_threads()
    peers.set_threads(count)
    try:
        yield
    finally:
        peers.set_threads(before)


@contextmanager
def _silence() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _silenced(pipeline: Pipeline) -> Pipeline:
    def batch(rows: slice) -> Tensor:
        with _silence():
            return pipeline(rows)

    return batch


# --- what came out


def _rows(job: Job, rates: Rates) -> list[Row]:
    """One row per name, with its fastest form."""
    forms: dict[str, dict[str, list[float]]] = {}
    for key, each in rates.items():
        name, _, form = key.partition("/")
        forms.setdefault(name, {})[form] = each
    rows = []
    for name, found in forms.items():
        form, each = max(found.items(), key=lambda item: statistics.median(item[1]))
        row = {
            "name": name,
            "size": job.size,
            "from": job.pixels.shape[1],
            "dtype": "float32" if job.normalise else "uint8",
            **_spread(each),
            "ratio": _ratio(rates["tutelage"], each),
        }
        if form:
            row |= {"form": form, "forms": {key: _spread(rate) for key, rate in found.items()}}
        if peers.PUBLISHED in found:
            row["published"] = row["forms"][peers.PUBLISHED]["images_per_second"]
        if name == "copy":
            moved = job.pixels[0].nbytes + 12 * job.size**2
            row["gigabytes_per_second"] = round(statistics.median(each) * moved / 1e9, 2)
        rows.append(row)
    return rows


def _spread(each: Sequence[float]) -> dict[str, float]:
    return {
        "images_per_second": round(statistics.median(each), 1),
        "min": round(min(each), 1),
        "max": round(max(each), 1),
    }


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast we are: the median over the rounds, each compared with itself."""
    return float(f"{statistics.median(a / b for a, b in zip(ours, theirs, strict=True)):.3g}")


def _scaling(rates: Rates) -> list[Row]:
    return [
        {"threads": int(name), **_spread(each), "ratio": _ratio(each, rates["1"])}
        for name, each in rates.items()
    ]


def _breakdown(rates: Rates) -> list[Row]:
    """Microseconds an image of each stage; from "crop" on, what it adds to the last one."""
    cost = {name: 1e6 / statistics.median(each) for name, each in rates.items()}
    chain = ["copy", "crop", "slant", "color", "normalise"]
    added = {after: cost[after] - cost[before] for before, after in pairwise(chain)}
    whole = cost["plan"] + cost["normalise"]
    return [
        {"stage": name, "microseconds": round(time, 1), "share": round(time / whole, 3)}
        for name, time in {**cost, **added}.items()
    ]


# --- several runs


def summary(runs: Sequence[Mapping[str, Any]], images: str | None) -> dict[str, Any]:
    """What is kept of the runs: medians, widest spreads, and each run's ratios."""
    first = runs[0]
    return {
        "photos": first["photos"].replace(images, Path(images).name) if images else first["photos"],
        **{name: first[name] for name in ("device", "backend", "threads", "batch", "absent")},
        "runs": len(runs),
        "rounds": first["rounds"],
        "load_before": [run["load_before"] for run in runs],
        **{name: _joined(runs, name, "name", "size") for name in ("rows", "uint8", "limits")},
        "scaling": _joined(runs, "scaling", "threads"),
        "breakdown": {
            row["stage"]: statistics.median(run["breakdown"][i]["microseconds"] for run in runs)
            for i, row in enumerate(first["breakdown"])
        },
        "first_call_seconds": [run["first_call_seconds"] for run in runs],
    }


def _joined(runs: Sequence[Mapping[str, Any]], table: str, *key: str) -> list[Row]:
    """One row for the rows of all runs that agree in ``key``: the median, and the widest spread."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in (row for run in runs for row in run[table]):
        groups.setdefault(tuple(row[name] for name in key), []).append(row)
    return [
        {
            **{name: rows[-1][name] for name in (*key, "from", "form") if name in rows[-1]},
            "images_per_second": statistics.median(row["images_per_second"] for row in rows),
            "min": min(row["min"] for row in rows),
            "max": max(row["max"] for row in rows),
            **_published(rows),
            "ratio": statistics.median(row["ratio"] for row in rows),
            "ratio_each": [row["ratio"] for row in rows],
        }
        for rows in groups.values()
    ]


def _published(rows: Sequence[Row]) -> dict[str, float]:
    """The median of a peer as published."""
    found = [row["published"] for row in rows if "published" in row]
    return {"published": statistics.median(found)} if found else {}


def _in_new_process(**options: Any) -> dict[str, Any]:
    """``measure`` in a new process, which nothing of an earlier run can help or hinder."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, **options).result()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", metavar="DATA", help="photos (default: generated)")
    parser.add_argument("--seconds", type=float, default=150.0, help="of each run (default: 150)")
    parser.add_argument("--threads", type=int, default=1, help="of torch and OpenCV (default: 1)")
    parser.add_argument(
        "--peers",
        dest="only",
        metavar="A,B",
        type=lambda text: text.split(","),
        help=f"of {', '.join(peers.PEERS)} (default: all that are installed)",
    )
    parser.add_argument("--runs", type=int, default=1, help="(default: 1)")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = vars(parser.parse_args(argv))
    count, path = options.pop("runs"), options.pop("json")
    if count < 1:
        parser.error(f"--runs is {count}, expected at least 1")
    runs = []
    try:
        for _ in range(count):
            runs.append((measure if count == 1 else _in_new_process)(**options, quiet=False))
            print(describe(runs[-1]), flush=True)
    except TutelageError as error:
        parser.error(str(error))
    about = {**results.provenance("augment_cpu", PACKAGES), "seconds": options["seconds"]}
    results.append({**about, **summary(runs, options["images"])}, path)


if __name__ == "__main__":
    main()
