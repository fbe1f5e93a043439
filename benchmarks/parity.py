"""Real photos through ``predict``: the exported ONNX graph against the torch model it came from.

python benchmarks/parity.py RUN DATA --count 200 --json parity.json
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

import results
import tutelage
from photos import spread
from tutelage.data.open import read_catalog
from tutelage.deploy.onnx import TOLERANCE


def write_photos(data: str, count: int, folder: Path) -> list[Path]:
    """Write ``count`` images, evenly spaced over the data set, byte for byte as they are stored."""
    catalog = read_catalog(data)
    paths = []
    for row in spread(len(catalog), count):
        paths.append(folder / f"{row:06d}.img")
        paths[-1].write_bytes(catalog.source.read(int(row)))
    return paths


def compare(folder: Path, graph: Path, photos: list[Path]) -> dict[str, Any]:
    """Largest difference of probabilities, and how many answers are the same."""
    with tempfile.TemporaryDirectory() as alone:  # in its place its exported file would answer
        shutil.copytree(folder, alone, ignore=shutil.ignore_patterns("*.onnx"), dirs_exist_ok=True)
        ours, skipped = tutelage.predict(alone, photos)
    theirs, skipped_too = tutelage.predict(graph, photos)
    assert skipped == skipped_too
    differences = [
        abs(a.probabilities[name] - b.probabilities[name])
        for a, b in zip(ours, theirs, strict=True)
        for name in a.probabilities
    ]
    same = sum(a.label == b.label for a, b in zip(ours, theirs, strict=True))
    return {
        "photos": len(ours),
        "unreadable": len(skipped),
        "same_top1": same,
        "max_difference": max(differences),
        "agrees": same == len(ours) and max(differences) <= TOLERANCE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run folder")
    parser.add_argument("data", help="a folder or manifest with photos")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(options.data, options.count, Path(folder))
        sizes = set()
        for path in photos:
            with Image.open(path) as image:
                sizes.add(image.size)
        pairs = (("teacher", "teacher/model.onnx"), ("student", "student.onnx"))
        result = {
            "benchmark": "parity",
            "data": Path(options.data).name,
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {name: version(name) for name in ("torch", "onnxruntime")},
            "distinct_sizes": len(sizes),
            **{
                name: compare(options.run / name, options.run / graph, photos)
                for name, graph in pairs
            },
        }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    if not (result["teacher"]["agrees"] and result["student"]["agrees"]):
        raise SystemExit("the exported graph and torch do not agree")


if __name__ == "__main__":
    main()
