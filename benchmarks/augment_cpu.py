"""``tutelage bench augment`` several times, each in a process of its own: figures with a spread.

python benchmarks/augment_cpu.py --images photos.parquet --json results.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import results

PACKAGES = (
    *("tutelage", "torch", "numba", "numpy", "pillow"),
    *("torchvision", "timm", "albumentations", "opencv-python-headless", "kornia"),
)


def joined(runs: list[list[dict[str, Any]]], *key: str) -> list[dict[str, Any]]:
    """One row for the rows of all runs that agree in ``key``: the median, and the widest spread."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in (row for run in runs for row in run):
        groups.setdefault(tuple(row[name] for name in key), []).append(row)
    return [
        {
            **{name: rows[-1][name] for name in (*key, "from", "form") if name in rows[-1]},
            "images_per_second": statistics.median(row["images_per_second"] for row in rows),
            "min": min(row["min"] for row in rows),
            "max": max(row["max"] for row in rows),
            "ratio": statistics.median(row["ratio"] for row in rows),
            "ratio_each": [row["ratio"] for row in rows],
        }
        for rows in groups.values()
    ]


def breakdown(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Median microseconds an image of each stage."""
    return {
        row["stage"]: statistics.median(run["breakdown"][i]["microseconds"] for run in runs)
        for i, row in enumerate(runs[0]["breakdown"])
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", help="a folder or manifest of photos (default: generated)")
    parser.add_argument("--seconds", type=float, default=150.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    command = [sys.executable, "-m", "tutelage", "bench", "augment", "--json"]
    command += ["--seconds", str(options.seconds)]
    command += ["--images", options.images] if options.images else []
    runs = []
    for number in range(options.runs):
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        runs.append(json.loads(done.stdout))
        ratios = {
            f"{row['name']} {row['size']}": row["ratio"]
            for row in runs[-1]["rows"]
            if row["name"] != "tutelage"
        }
        print(f"run {number}, load {runs[-1]['load_before']}: {json.dumps(ratios)}", flush=True)
    photos = runs[0]["photos"].replace(str(options.images), Path(options.images or "").name)
    result = {
        **results.provenance("augment_cpu", PACKAGES),
        "photos": photos,
        **{name: runs[0][name] for name in ("device", "backend", "threads", "batch", "absent")},
        "runs": options.runs,
        "rounds": runs[0]["rounds"],
        "seconds": options.seconds,
        "load_before": [run["load_before"] for run in runs],
        "rows": joined([run["rows"] for run in runs], "name", "size"),
        "uint8": joined([run["uint8"] for run in runs], "name", "size"),
        "limits": joined([run["limits"] for run in runs], "name", "size"),
        "scaling": joined([run["scaling"] for run in runs], "threads"),
        "breakdown": breakdown(runs),
        "first_call_seconds": [run["first_call_seconds"] for run in runs],
    }
    print(json.dumps({name: result[name] for name in ("rows", "scaling", "breakdown")}, indent=1))
    results.append(result, options.json)


if __name__ == "__main__":
    main()
