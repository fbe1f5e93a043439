"""The .csv that predict writes, read again."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


def predictions_in(path: Path) -> list[dict[str, Any]]:
    """Its rows, with the probabilities by class as in the other formats."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        columns = [name for name in row if name.startswith("p_")]
        row["probabilities"] = {name[2:]: float(row.pop(name)) for name in columns}
        row["confidence"] = float(row["confidence"])
    return rows
