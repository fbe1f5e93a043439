"""The .csv that predict writes, read again."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tutelage.deploy.answers import Prediction


def predictions_in(path: Path) -> list[dict[str, Any]]:
    """Its rows, with the probabilities by class as in the other formats."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        columns = [name for name in row if name.startswith("p_")]
        row["probabilities"] = {name[2:]: float(row.pop(name)) for name in columns}
        row["confidence"] = float(row["confidence"])
    return rows


def as_in_csv(row: Prediction) -> dict[str, Any]:
    """What ``predictions_in`` reads of a prediction that nobody asked rejections of."""
    return {
        "image": row.image,
        "label": row.label,
        "confidence": float(f"{row.confidence:.6g}"),
        "probabilities": {name: float(f"{p:.6g}") for name, p in row.probabilities.items()},
    }
