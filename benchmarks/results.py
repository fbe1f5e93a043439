"""Where the benchmarks keep what they measured: a JSON list, one object a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def append(result: dict[str, Any], path: Path | None) -> None:
    """Add ``result`` to the list in a file; without a file nothing is kept."""
    if path is None:
        return
    earlier = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*earlier, result], indent=1) + "\n")
