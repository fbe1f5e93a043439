"""Prediction files: .csv, .jsonl or .parquet by suffix."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from tutelage.deploy.answers import Prediction
from tutelage.system.errors import TutelageError, need
from tutelage.system.files import csv_line, replacing

SUFFIXES = (".csv", ".jsonl", ".parquet")


def check_suffix(path: Path) -> None:
    """Refuse a file that exists, or whose suffix names no known format.

    Raises:
        TutelageError: it says which suffix or name to choose.
    """
    if path.suffix not in SUFFIXES:
        raise TutelageError(f"--out {path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        need("pyarrow", "train")
    if path.exists():
        raise TutelageError(f"--out {path} exists; choose another name, or delete it first")


def write_predictions(rows: Sequence[Prediction], path: Path) -> None:
    """Write predictions atomically.

    A .csv has a column ``p_<class>`` for each probability, which people read and which has six
    digits there; in .jsonl they are an object, in .parquet a map, and exact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if path.suffix == ".csv":
            _write_csv(rows, partial)
        elif path.suffix == ".parquet":
            _write_parquet(rows, partial)
        else:
            partial.write_text("".join(line + "\n" for line in as_json_lines(rows)), "utf-8")


def _columns(rows: Sequence[Prediction]) -> list[str]:
    """Names of the columns; ``rejected`` only if somebody asked for it."""
    asked = any(row.rejected is not None for row in rows)
    return [f.name for f in fields(Prediction) if f.name != "rejected" or asked]


def _write_csv(rows: Sequence[Prediction], path: Path) -> None:
    """A column for each class; the mark at the start tells spreadsheets that it is UTF-8."""
    names = [name for name in _columns(rows) if name != "probabilities"]
    classes = list(rows[0].probabilities) if rows else []
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        file.write(csv_line([*names, *(f"p_{name}" for name in classes)]))
        for row in rows:
            rejected = None if row.rejected is None else json.dumps(row.rejected)
            cells = {**vars(row), "rejected": rejected}
            cells["confidence"] = _short(row.confidence)
            known = [_short(row.probabilities[name]) for name in classes]
            file.write(csv_line([*(cells[name] for name in names), *known]))


def _short(probability: float) -> str:
    """As far as a float32 knows it: six digits are the same in any runtime, and more are noise."""
    return f"{probability:.6g}"


def formula_cells(rows: Sequence[Prediction]) -> int:
    """How many names and labels a spreadsheet would take for formulas.

    They are written unchanged: programs that read the file need the exact names, and OWASP calls no
    escape safe for all spreadsheets (owasp.org/www-community/attacks/CSV_Injection).
    """
    cells = [cell for row in rows for cell in (row.image, row.label)]
    return sum(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)


def as_json_lines(rows: Sequence[Prediction]) -> list[str]:
    """One JSON object a prediction."""
    names = _columns(rows)
    return [
        json.dumps({name: getattr(row, name) for name in names}, ensure_ascii=False) for row in rows
    ]


def _write_parquet(rows: Sequence[Prediction], path: Path) -> None:
    arrow, parquet = need("pyarrow", "train"), need("pyarrow.parquet", "train")
    types = {
        "image": arrow.string(),
        "label": arrow.string(),
        "confidence": arrow.float64(),
        "probabilities": arrow.map_(arrow.string(), arrow.float64()),
        "rejected": arrow.bool_(),
    }
    names = _columns(rows)
    columns = {name: [getattr(row, name) for row in rows] for name in names}
    columns["probabilities"] = [list(row.probabilities.items()) for row in rows]
    schema = arrow.schema([(name, types[name]) for name in names])
    parquet.write_table(arrow.table(columns, schema=schema), path)
