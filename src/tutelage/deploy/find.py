"""What a MODEL stands for: a run folder, a model folder or an exported file. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.system.console import printable
from tutelage.system.errors import MissingExtra, TutelageError, need
from tutelage.system.words import did_you_mean

EXPECTED = (
    "expected a run folder (the --out of tutelage run), a model folder (such as RUN/student or "
    "RUN/teacher) or an exported .onnx file"
)
REFERENCE = "reference.npz"
"""In a model folder: what ``watch`` compares images with; beside a file, ``NAME.reference.npz``."""
_SHOWN = 5  # names of a folder in an error


@dataclass(frozen=True)
class FoundModel:
    """Where a model lies; its file, its folder or both are there."""

    given: Path  # what the user called it
    exported: Path | None  # its .onnx file
    folder: Path | None  # its model folder, with the weights for torch


def find_model(model: Path | str) -> FoundModel:
    """Where the model lies that a path stands for; of a run, the student if there is one."""
    path = Path(model)
    if path.is_file():
        if path.name in ("model.json", "model.safetensors"):
            raise TutelageError(f"{path} is part of a model folder; give the folder, {path.parent}")
        if path.suffix.lower() not in (".onnx", ""):
            raise TutelageError(f"{path} is no model: {EXPECTED}")
        return FoundModel(path, path, None)
    if not path.is_dir():
        raise TutelageError(f"there is no model {model}: {EXPECTED}{did_you_mean(path)}")
    if (path / "model.json").is_file():
        return FoundModel(path, _exported_beside(path), path)
    for exported, folder in (("student.onnx", "student"), ("teacher/model.onnx", "teacher")):
        if (path / exported).is_file():
            known = (path / folder / "model.json").is_file()
            return FoundModel(path, path / exported, path / folder if known else None)
    raise TutelageError(_why_none(path))


def _exported_beside(folder: Path) -> Path | None:
    """The exported file of a model folder; that of a run's student lies beside its folder."""
    files = [folder / "model.onnx"]
    named = folder if folder.name else folder.absolute()  # "." has no name
    if named.name == "student":
        files.append(named.parent / "student.onnx")
    return next((file for file in files if file.is_file()), None)


def _why_none(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        config = None
    if isinstance(config, dict) and "architecture" in config:
        return f"{folder} is an export for timm; give the model that it was made from"
    if isinstance(config, dict) and "request" in config:
        return f"the run {folder} is unfinished; repeat its command to continue it"
    names = sorted(printable(item.name) for item in folder.iterdir())
    found = ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
    return f"{folder} is a folder without a model (in it: {found or 'nothing'}); {EXPECTED}"


def exported_file(model: Path | str) -> Path:
    """The exported .onnx file of a model, for what needs one."""
    found = find_model(model)
    if found.exported is None:
        raise TutelageError(
            f"{model} has no exported .onnx file; write one with tutelage export {model}"
        )
    return found.exported


def exported_files(models: Sequence[Path | str]) -> list[Path]:
    """Exported files of several models; for a run folder, those of its teacher and its student."""
    files: list[Path] = []
    for model in map(Path, models):
        first = exported_file(model)
        parts = ("teacher/model.onnx", "student.onnx", "student/model.int8.onnx", "model.int8.onnx")
        ready = [model / part for part in parts if (model / part).is_file()]
        files += ready if first in ready else [first, *ready]
    return files


def reference_beside(exported: Path) -> Path:
    """Where the reference of an exported file lies that is not the file of its model folder."""
    return exported.with_suffix(f".{REFERENCE}")


def reference_file(found: FoundModel) -> Path:
    """Where the reference of a model lies: beside its file, or in its folder."""
    assert found.exported is not None
    own, place = reference_beside(found.exported), found.exported.parent
    if found.folder is None and own.is_file():
        return own
    if found.folder is None and found.exported.name == "student.onnx":
        inside = place / "student"
        return (inside if inside.is_dir() else place) / REFERENCE
    return (found.folder or place) / REFERENCE


def open_model(found: FoundModel) -> Any:
    """An ``OnnxModel`` with one core a batch or, for a folder without one, a ``TorchModel``."""
    if found.exported is None:
        assert found.folder is not None
        return open_folder(found.folder)
    from tutelage.deploy.runtime import OnnxModel

    return OnnxModel(found.exported, threads=1)


def open_folder(folder: Path, device: str = "cpu") -> Any:
    """A ``TorchModel`` of the weights in a model folder."""
    try:
        need("torch", "train")
    except MissingExtra as error:
        raise MissingExtra(f"{folder} has no exported .onnx file: {error}") from error
    from tutelage.deploy.graph import TorchModel
    from tutelage.models.folder import load_model

    return TorchModel(load_model(folder), device)
