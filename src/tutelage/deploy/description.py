"""``NAME.onnx.json``: what other programs must know about ``NAME.onnx``. Imports no torch.

The ONNX file says the same in its metadata, but not every runtime can read that, and converters
lose it. docs/deployment.md explains the fields.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tutelage._version import __version__
from tutelage.models.spec import ModelSpec
from tutelage.system.files import write_atomically

FORMAT = 1


def description_of(path: Path) -> Path:
    """Where the description of an exported file lies."""
    return path.with_name(f"{path.name}.json")


def write_description(
    path: Path,
    spec: ModelSpec,
    parameters: int,
    *,
    portable: Path | None = None,
    view: Path | None = None,
) -> Path:
    """Describe the exported file ``path``, with its other forms beside it; return where."""
    forms = {"onnx": path, "portable": portable, "view": view}
    fields: dict[str, Any] = {
        "format": FORMAT,
        "tutelage": __version__,
        "architecture": spec.architecture,
        "parameters": parameters,
        "classes": spec.classes,
        "files": {form: file and file.name for form, file in forms.items()},
        "canvas": spec.canvas,
        "input_size": spec.input_size,
        "crop_pct": spec.crop_pct,
        "mean": spec.mean,
        "std": spec.std,
        "temperature": spec.temperature,
        "unknown_threshold": spec.unknown_threshold,
        "decision_threshold": spec.decision_threshold,
    }
    written = description_of(path)
    write_atomically(written, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    return written
