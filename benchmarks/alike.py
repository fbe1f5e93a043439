"""Whether two folders hold the same, however they came about, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TIMED = ("events.jsonl", "report.html", "MODEL_CARD.md")  # tell when they were written


def whole(folder: Path) -> list[str]:
    """Files below a folder, except hidden ones, that cannot be read to their end."""
    import pyarrow.parquet
    from safetensors.numpy import load_file

    def read_arrays(path: Path) -> None:
        with np.load(path) as arrays:
            [arrays[name] for name in arrays.files]

    readers: dict[str, Any] = {
        ".json": lambda path: json.loads(path.read_text()),
        ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
        ".parquet": pyarrow.parquet.read_table,
        ".safetensors": load_file,
        ".npz": read_arrays,
    }
    broken = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in readers and not hidden:
            try:
                readers[path.suffix](path)
            except Exception as error:  # each reader has kinds of its own
                broken.append(f"{path.relative_to(folder)}: {error}")
    return broken


def timeless(part: Any) -> Any:
    """A JSON value without its durations, among them the pinned speed of the machine."""
    if isinstance(part, dict):
        timed = {k for k in part if k == "machine" or "seconds" in k}
        return {k: timeless(v) for k, v in part.items() if k not in timed}
    return [timeless(v) for v in part] if isinstance(part, list) else part


def content(folder: Path) -> dict[str, Any]:
    """The content of a finished folder by file, without what may depend on how it came about."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            keeps = path.name not in TIMED
            found[str(path.relative_to(folder))] = (
                (timeless(json.loads(data)) if path.suffix == ".json" else data) if keeps else None
            )
    return found


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Files that are not the same in two ``content``s, or in one of them only."""
    names = sorted(found.keys() | expected.keys())
    return [name for name in names if found.get(name, b"") != expected.get(name, b"")]
