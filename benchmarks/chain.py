"""The whole chain over several label draws: accuracy per stage, seconds, memory.

python benchmarks/chain.py DATA --labels-per-class 10 --seeds 5 --json results.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import results

PACKAGES = ("tutelage", "torch", "timm", "onnxruntime", "numpy")


def one_run(command: list[str]) -> dict[str, Any]:
    """Metrics, seconds and peak memory of one run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "tutelage", *command, "--out", str(out), "--quiet"], check=True
        )
        seconds = time.perf_counter() - began
        metrics = json.loads((out / "metrics.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of all children so far
    return {"seconds": round(seconds, 1), "peak_mib": peak // 1024, "metrics": metrics}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread of the test accuracy of probe, teacher and student."""
    picked = {
        "probe": [r["metrics"]["stages"][0]["test"]["accuracy"] for r in runs],
        "teacher": [r["metrics"]["teacher"]["test"]["accuracy"] for r in runs],
        "student": [r["metrics"]["final"]["test"]["accuracy"] for r in runs],
        "seconds": [r["seconds"] for r in runs],
    }
    return {
        name: {
            "mean": round(statistics.mean(values), 4),
            "sd": round(statistics.stdev(values), 4) if len(values) > 1 else None,
            "each": values,
        }
        for name, values in picked.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a folder or manifest; 'demo' runs the demo")
    parser.add_argument("--labels-per-class", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    runs = []
    for seed in range(options.seeds):
        command = ["demo"] if options.data == "demo" else ["run", options.data]
        for name in ("labels_per_class", "limit", "minutes"):
            value = getattr(options, name)
            if value is not None:
                command += [f"--{name.replace('_', '-')}", str(value)]
        runs.append(one_run([*command, "--seed", str(seed)]))
        print(f"seed {seed}: {json.dumps(summary(runs[-1:]))}", flush=True)
    result = {
        **results.provenance("chain", PACKAGES),
        "data": Path(options.data).name,
        "labels_per_class": options.labels_per_class,
        "limit": options.limit,
        "minutes": options.minutes,
        "summary": summary(runs),
        "runs": runs,
    }
    print(json.dumps(result["summary"], indent=2))
    results.append(result, options.json)


if __name__ == "__main__":
    main()
