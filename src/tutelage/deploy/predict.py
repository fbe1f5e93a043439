"""Models opened by their path, and what they say about image files and data sets.

Imports no torch at the top: an exported model needs only the base install.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.data.decode import decode
from tutelage.data.folder import as_text, image_files
from tutelage.data.sources import read_file
from tutelage.deploy.answers import (
    Prediction,
    answer,
    decide,
    each_image,
    read_threshold,
    reason_of,
)
from tutelage.deploy.tables import check_suffix, write_predictions
from tutelage.stats.metrics import metrics
from tutelage.system.errors import TutelageError, need


def open_model(path: Path) -> Any:
    """An ``OnnxModel`` with one core a batch, or a ``TorchModel`` for a model folder.

    Raises:
        TutelageError: no model there, or an unfinished run.
    """
    path = exported_file(path)
    if path.is_dir():
        need("torch", "train")
        from tutelage.deploy.graph import TorchModel
        from tutelage.models.folder import load_model

        return TorchModel(load_model(path))
    from tutelage.deploy.runtime import OnnxModel

    return OnnxModel(path, threads=1)


def exported_file(path: Path) -> Path:
    """The exported model of a run folder; any other path as it is.

    Raises:
        TutelageError: the run is unfinished, or the folder is an export for timm.
    """
    if not (path.is_dir() and (path / "config.json").exists()):
        return path
    from tutelage.data.runfolder import RunFolder

    if "architecture" in RunFolder(path).read_json("config.json"):
        raise TutelageError(f"{path} is an export for timm; give the model that it was made from")
    ready = [f for f in (path / "student.onnx", path / "teacher" / "model.onnx") if f.exists()]
    if not ready:
        raise TutelageError(f"the run {path} is unfinished; repeat its command to continue it")
    return ready[0]


def exported_files(models: Sequence[Path | str]) -> list[Path]:
    """Exported files; for a run folder, those of its teacher and its student.

    Raises:
        TutelageError: an unfinished run, or a path that is no file.
    """
    files: list[Path] = []
    for model in map(Path, models):
        if exported_file(model) == model:
            files.append(model)
            continue
        parts = ("teacher/model.onnx", "student.onnx", "student/model.int8.onnx")
        files += [file for part in parts if (file := model / part).exists()]
    if absent := [str(file) for file in files if not file.is_file()]:
        raise TutelageError(f"{absent[0]} is no exported model; tutelage export MODEL writes one")
    return files


def predict(
    model: Path,
    images: Sequence[Path | str],
    out: Path | None,
    *,
    reject: bool,
    threshold: str | None = None,
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Classify image files; ``tutelage.api.predict`` has the arguments."""
    if out is not None:
        check_suffix(out)
    opened = open_model(model)
    if reject and opened.unknown_threshold is None:
        raise TutelageError(
            f"{model} has no threshold for unknown images: no label was held out while its teacher "
            "was made, or it is older than such thresholds; train it again, with 2 or more labels "
            "per class (and export it again), or leave out --reject"
        )
    least = None if threshold is None else read_threshold(threshold, opened.classes)
    paths = _files(images)

    def look(path: Path) -> Prediction:
        pixels = decode(read_file(path))
        named = [as_text(str(path))]
        return answer(opened, named, [pixels], reject=reject, threshold=least)[0]

    rows: list[Prediction] = []
    skipped: list[tuple[str, str]] = []
    for path, found in zip(paths, each_image(look, paths), strict=True):
        if isinstance(found, Prediction):
            rows.append(found)
        else:
            skipped.append((as_text(str(path)), reason_of(found)))
    if out is not None and rows:
        write_predictions(rows, out)
    return rows, skipped


def _files(images: Sequence[Path | str]) -> list[Path]:
    out: list[Path] = []
    for item in map(Path, images):
        if item.is_dir():
            if not (found := image_files(item)):
                raise TutelageError(f"no images in {item}")
            out += found
        elif item.exists():
            out.append(item)
        else:
            raise TutelageError(f"no such image or folder: {item}")
    return out


def evaluate(opened: Any, catalog: Catalog, data: str, *, split: str) -> dict[str, Any]:
    """The figures of an opened model on one split; ``tutelage.api.evaluate`` describes them."""
    rows = _labeled_rows(catalog, data, split, opened.classes)

    def look(row: int) -> Any:
        return opened.probabilities([decode(catalog.source.read(row))])[0]

    index = {name: k for k, name in enumerate(opened.classes)}
    probs: list[np.ndarray] = []
    labels: list[int] = []
    reasons: dict[str, str] = {}
    for at, seen in zip(rows, each_image(look, rows.tolist()), strict=True):
        if isinstance(seen, np.ndarray):
            probs.append(seen)
            labels.append(index[catalog.classes[catalog.labels[at]]])
        else:
            reasons[catalog.names[at]] = reason_of(seen)
    if not probs:
        raise TutelageError(f"none of the {len(rows)} '{split}' images of {data} can be read")
    stacked = np.stack(probs)
    predicted = decide(stacked, opened.classes, opened.decision_threshold)
    figures = metrics(stacked, np.array(labels), predicted)
    assert figures is not None
    return {"split": split, **figures, "skipped": len(reasons), "reasons": reasons}


def _labeled_rows(catalog: Catalog, data: str, split: str, classes: Sequence[str]) -> np.ndarray:
    """Rows (n,) of a split's labelled images, whose classes must all be among the model's."""
    rows = np.flatnonzero((catalog.splits == split) & (catalog.labels >= 0))
    if not len(rows):
        found = ", ".join(sorted(set(catalog.splits.tolist())))
        raise TutelageError(f"{data} has no labelled '{split}' images; its splits are: {found}")
    unknown = {catalog.classes[k] for k in catalog.labels[rows]} - set(classes)
    if unknown:
        raise TutelageError(
            f"the model does not know the classes {', '.join(sorted(unknown))}; "
            f"it knows {', '.join(classes)}"
        )
    return rows
