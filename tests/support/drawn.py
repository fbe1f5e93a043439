"""What the draws of a ladder leave, made up."""

from __future__ import annotations

from typing import Any


def seed_of(number: int, **accuracy: float) -> dict[str, Any]:
    """The content of a seed's metrics.json, made up."""
    arms = [
        {
            "arm": name.replace("_", "-"),
            "stage": name,
            "kept": number > 0 if name == "transfer" else None,
            "seconds": float(number),
            "total_seconds": 10.0 + number,
            "parameters": 100,
            "latency_ms": 2.0 if number == 0 else None,
            "test": {"n": 100, "accuracy": value, "ece": 0.1 * number},
        }
        for name, value in accuracy.items()
    ]
    note = {"notes": ["odd"] if number == 1 else ["same"]}
    point = {"labels": 4, "without": 0.5, "within": 0.6, "own": True}
    more = {"labels": 8, "without": 0.7, "within": 0.8, "own": False}
    return {"seed": number, "labeled": 4, "versions": {"torch": "1"}, "arms": arms,
            "curve": [more, point]} | note  # fmt: skip


SEEDS = [
    seed_of(0, probe=0.50, fine_tune=0.52, transfer=0.60, student=0.40),
    seed_of(1, probe=0.60, fine_tune=0.61, transfer=0.69, student=0.51),
    seed_of(2, probe=0.70, fine_tune=0.73, transfer=0.80, student=0.59),
]
