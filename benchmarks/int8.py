"""Does int8 answer as the float model does, and is it faster?

python benchmarks/int8.py runs/digits runs/solar --json results.json

Each is the folder of a finished run whose data has labelled test images. Its student is quantised
as ``tutelage export --int8`` does, and both are asked about the same test images, which took no
part in the quantisation. Where int8 is not kept, its figures are those of the file that was thrown
away. Speeds are fifth percentiles of one image on one thread, in turns.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import results
from tutelage.data.catalog import Catalog
from tutelage.data.runfolder import catalog_of
from tutelage.deploy.export import CALIBRATION_IMAGES, JUDGED_IMAGES, readable
from tutelage.deploy.quantize import quantize_onnx, write_int8
from tutelage.deploy.runtime import OnnxModel
from tutelage.stats.metrics import metrics

PACKAGES = ("tutelage", "onnxruntime", "onnx", "numpy")


def measured(run: Path, most_test: int) -> dict[str, Any]:
    """What int8 changes for the student of one run."""
    catalog = catalog_of(run)
    order = np.random.default_rng(0).permutation(len(catalog))
    train = order[catalog.splits[order] == "train"][: CALIBRATION_IMAGES + JUDGED_IMAGES]
    test = order[(catalog.splits[order] == "test") & (catalog.labels[order] >= 0)][:most_test]
    images = list(readable(catalog, train))
    shown, others = images[:CALIBRATION_IMAGES], images[CALIBRATION_IMAGES:]
    exact = run / "student.onnx"
    with tempfile.TemporaryDirectory() as folder:
        rounded = Path(folder) / "int8.onnx"
        made = quantize_onnx(exact, rounded, shown, others)
        if made["kept"] == "fp32":
            write_int8(exact, rounded, shown)
        return {"data": run.name, **sizes(made), **compared(exact, rounded, catalog, test)}


def sizes(made: dict[str, Any]) -> dict[str, Any]:
    """What the export says, its milliseconds and bytes."""
    return {
        "kept": made["kept"],
        "fp32_ms": round(made["fp32"]["p05_ms"], 3),
        "int8_ms": round(made["int8"]["p05_ms"], 3),
        "fp32_bytes": made["fp32_bytes"],
        "int8_bytes": made["int8_bytes"],
        "estimated_loss": round(made["loss"], 4),
    }


def compared(exact: Path, rounded: Path, catalog: Catalog, rows: np.ndarray) -> dict[str, Any]:
    """Both models on the test images in ``rows`` (n,) of a catalog."""
    images = list(readable(catalog, rows))
    if len(images) < len(rows):
        raise SystemExit(f"{len(rows) - len(images)} test images cannot be read")
    models = [OnnxModel(path, threads=1) for path in (exact, rounded)]
    answers = [model.answers(images) for model in models]
    figures = [metrics(probs, catalog.labels[rows]) or {} for probs, _ in answers]
    labels = [probs.argmax(axis=1) for probs, _ in answers]
    unknown = [
        energy > (np.inf if model.unknown_threshold is None else model.unknown_threshold)
        for model, (_, energy) in zip(models, answers, strict=True)
    ]
    both = zip(("fp32", "int8"), figures, unknown, strict=True)
    return {
        "n": len(images),
        "classes": len(catalog.classes),
        "agreement": round(float((labels[0] == labels[1]).mean()), 4),
        "unknown_flips": int((unknown[0] != unknown[1]).sum()),
        **{
            name: {
                "accuracy": round(found["accuracy"], 4),
                "ece": round(found["ece"], 4),
                "nll": round(found["nll"], 4),
                "unknown": int(rejected.sum()),
            }
            for name, found, rejected in both
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--test", type=int, default=2000, help="test images at most")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    rows = []
    for run in options.runs:
        rows.append(measured(run, options.test))
        print(rows[-1], flush=True)
    about = results.provenance("int8", PACKAGES)
    results.append({**about, "note": options.note, "runs": rows}, options.json)


if __name__ == "__main__":
    main()
