"""Prediction files: .csv, .jsonl or .parquet by suffix."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from tutelage.api import Prediction
from tutelage.errors import TutelageError, need
from tutelage.files import replacing

SUFFIXES = (".csv", ".jsonl", ".parquet")


def check_suffix(path: Path) -> None:
    """Refuse a file name whose suffix names no known format, or an existing file.

    Raises:
        TutelageError: the mend is a suffix or another name.
    """
    if path.suffix not in SUFFIXES:
        raise TutelageError(f"--out {path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        need("pyarrow", "train")
    if path.exists():
        raise TutelageError(f"--out {path} exists; choose another name, or delete it first")


def write_predictions(rows: Sequence[Prediction], path: Path) -> None:
    """Write predictions atomically; probabilities are a JSON object in .csv, a map in .parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}[path.suffix](
            rows, partial
        )


def _write_csv(rows: Sequence[Prediction], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "label", "confidence", "probabilities"])
        for row in rows:
            probabilities = json.dumps(row.probabilities, ensure_ascii=False)
            writer.writerow([row.image, row.label, row.confidence, probabilities])


def _write_jsonl(rows: Sequence[Prediction], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row.__dict__, ensure_ascii=False) + "\n")


def _write_parquet(rows: Sequence[Prediction], path: Path) -> None:
    arrow, parquet = need("pyarrow", "train"), need("pyarrow.parquet", "train")
    schema = arrow.schema(
        [
            ("image", arrow.string()),
            ("label", arrow.string()),
            ("confidence", arrow.float64()),
            ("probabilities", arrow.map_(arrow.string(), arrow.float64())),
        ]
    )
    columns = {
        "image": [row.image for row in rows],
        "label": [row.label for row in rows],
        "confidence": [row.confidence for row in rows],
        "probabilities": [list(row.probabilities.items()) for row in rows],
    }
    parquet.write_table(arrow.table(columns, schema=schema), path)
