"""Whether --minutes are kept: what was planned and what a run took, alone and beside busy jobs.

python benchmarks/clock.py demo --minutes 2,5,10 --busy 0,2

Each run is a process of its own, timed from its start to its end, imports included. A busy job is
a process that counts. ``--first`` runs with empty caches: what a first run on a machine takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import results

PACKAGES = ("tutelage", "torch", "timm", "onnxruntime", "numba", "numpy")


@contextlib.contextmanager
def busy(jobs: int) -> Iterator[None]:
    """So many processes that take all the time they can get."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(jobs)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def one_run(words: list[str], minutes: float, *, first: bool) -> dict[str, Any]:
    """Seconds and figures of a run of ``words`` with its minutes."""
    with tempfile.TemporaryDirectory() as folder:
        out, environment = Path(folder) / "run", dict(os.environ)
        if first:
            environment["TUTELAGE_CACHE"] = str(Path(folder) / "cache")
            environment["NUMBA_CACHE_DIR"] = str(Path(folder) / "numba")
        command = [sys.executable, "-m", "tutelage", *words, "--minutes", str(minutes)]
        began = time.perf_counter()
        subprocess.run([*command, "--out", str(out), "--quiet"], check=True, env=environment)
        taken = time.perf_counter() - began
        config = json.loads((out / "config.json").read_text())
        stages = json.loads((out / "metrics.json").read_text())["stages"]
        kept = {path.parent.name: path for path in (out / "stages").glob("*/stage.json")}
        seconds = {name: json.loads(path.read_text())["seconds"] for name, path in kept.items()}
    plan = config["plan"]
    return {
        "minutes": minutes,
        "planned_seconds": plan["estimated_seconds"],
        "taken_seconds": round(taken, 1),
        "over": round(taken / (60 * minutes) - 1, 3),
        "prepared_seconds": config["prepared_seconds"],
        "stage_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "size": plan["size"],
        "views": plan["views"],
        "student_steps": plan["student"]["steps"],
        "shortened": config.get("shortened", {}),
        "left_out": config.get("left_out"),
        "test_accuracy": {
            stage["name"]: stage["test"]["accuracy"] for stage in stages if stage["test"]
        },
    }


def numbers(text: str) -> list[float]:
    """Numbers separated by commas."""
    return [float(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a folder or manifest; 'demo' runs the demo")
    parser.add_argument("--labels-per-class", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--minutes", type=numbers, default=[2.0, 5.0, 10.0])
    parser.add_argument("--busy", type=numbers, default=[0.0, 2.0], help="jobs beside the run")
    parser.add_argument("--first", action="store_true", help="with empty caches")
    parser.add_argument("--json", type=Path, help="append the results to this file's list")
    options = parser.parse_args()
    words = ["demo"] if options.data == "demo" else ["run", options.data]
    for name in ("labels_per_class", "limit"):
        if getattr(options, name) is not None:
            words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    for jobs in map(int, options.busy):
        for minutes in options.minutes:
            with busy(jobs):
                found = one_run(words, minutes, first=options.first)
            print(json.dumps({"busy_jobs": jobs, **found}), flush=True)
            if options.json:
                header = results.provenance("clock", PACKAGES)
                row = {**header, "data": Path(options.data).name, "busy_jobs": jobs, **found}
                results.append(row, options.json)


if __name__ == "__main__":
    main()
