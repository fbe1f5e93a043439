"""Where the benchmarks keep what they measured: a JSON list, one object a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def append(result: dict[str, Any], path: Path | None) -> None:
    """Add ``result`` to the list in a file; without a file nothing is kept."""
    if path is None:
        return
    earlier = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*earlier, result], indent=1) + "\n")
