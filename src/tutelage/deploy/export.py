"""A model folder exported for other programs, and checked against torch on images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.data.decode import UnreadableImage, decode
from tutelage.data.open import Data, open_data
from tutelage.data.runfolder import catalog_of, has_data
from tutelage.deploy.answers import read_threshold, threshold_text
from tutelage.deploy.find import find_model
from tutelage.deploy.forms import (
    BESIDE,
    CALIBRATION_IMAGES,
    FORMATS,
    JUDGED_IMAGES,
    Job,
    chosen_forms,
)
from tutelage.system.errors import TutelageError, need

PARITY_IMAGES = 64


def export(
    model: Path,
    out: Path | None,
    *,
    images: Data | None,
    max_loss: float,
    threshold: str | None,
    **forms: Any,
) -> dict[str, Any]:
    """Export and check; ``tutelage.api.export`` has the arguments."""
    others = {"out": out is not None, "images": images is not None}
    format, beside, page = chosen_forms(forms, others, threshold=threshold is not None)
    if page is not None:
        from tutelage.deploy.webpage import export_page

        return export_page(model, page, threshold=threshold)
    if out is not None:
        _check_out(out, format, beside)
    folder = model_folder(model)
    for package in ("torch", "timm", "onnx"):
        need(package, "train")
    from tutelage.models.folder import load_model

    loaded = load_model(folder)
    if threshold is not None:
        least = read_threshold(threshold, loaded.spec.classes)
        loaded.spec = replace(loaded.spec, decision_threshold=least)
    path = out or folder / FORMATS[format].file
    own = _own_images(folder, images)
    if not own and (wanting := [name for name in beside if BESIDE[name].needs_images]):
        raise TutelageError(
            f"{wanting[0]} is calibrated on real images, but {folder} lies in no run folder; "
            "give some with --images"
        )
    shown = own[:PARITY_IMAGES] or noise_images(loaded.spec.canvas)
    ports = {name: _beside(path, name) for name in beside if BESIDE[name].for_ports}
    if ports:
        from tutelage.deploy.portable import golden_folder

        golden_folder(path)  # refused before anything is written
    job = Job(loaded, path, folder, own, shown, max_loss)
    source = "training images" if own else "generated"
    result = {"path": str(path), **FORMATS[format].write(job, path), "images": source}
    for name in beside:
        file = _beside(path, name)
        result[name] = {"path": str(file), **BESIDE[name].write(job, file)}
    if ports:
        from tutelage.deploy.portable import write_golden

        result["golden"] = str(write_golden(loaded, path, shown))
    if format == "onnx":
        from tutelage.deploy.portable import write_description
        from tutelage.models.classifier import count_parameters

        described = write_description(path, loaded.spec, count_parameters(loaded), **ports)
        result["description"] = str(described)
    if loaded.spec.decision_threshold is not None:
        result["threshold"] = threshold_text(loaded.spec.decision_threshold)
    return result


def _beside(path: Path, form: str) -> Path:
    return path.with_suffix(BESIDE[form].file)


def _check_out(out: Path, format: str, beside: Sequence[str]) -> None:
    """Refuse a file that exists or is called like another kind of file; folders see to it later."""
    suffix = Path(FORMATS[format].file).suffix
    if not suffix:
        return
    if out.suffix != suffix:
        raise TutelageError(f"--out {out}: the name of this file must end in {suffix}")
    for path in (out, *(_beside(out, form) for form in beside)):
        if path.exists():
            raise TutelageError(f"{path} exists; choose another --out, or delete it first")


def model_folder(model: Path) -> Path:
    """The model folder that is exported; an exported file has none."""
    folder = find_model(model).folder
    if folder is None:
        raise TutelageError(
            f"{model} is exported already; to export a model anew, give its folder, such as "
            "RUN/student, or its run"
        )
    return folder


def _own_images(model: Path, images: Data | None) -> list[np.ndarray]:
    """Training images of a data set, or of the run that a model folder lies in, if there is one.

    They are drawn at random, always the same; unreadable ones are passed over.
    """
    if images is None and not has_data(model.parent):
        return []
    catalog = catalog_of(model.parent) if images is None else open_data(images)[0]
    rows = np.random.default_rng(0).permutation(np.flatnonzero(catalog.splits == "train"))
    return list(readable(catalog, rows[: CALIBRATION_IMAGES + JUDGED_IMAGES]))


def readable(catalog: Catalog, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The images in rows (n,) of a catalog, as files hold them; unreadable ones are passed over."""
    for row in rows:
        with contextlib.suppress(UnreadableImage, OSError):
            yield decode(catalog.source.read(int(row)))


def noise_images(canvas: int, count: int = 128) -> list[np.ndarray]:
    """Smooth random pictures of many shapes, for a model that has no images at hand."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        height, width = rng.integers(canvas // 2, 2 * canvas, size=2)
        coarse = rng.integers(0, 256, size=(4, 4, 3))
        rows = np.linspace(0, 3, height).round().astype(int)
        columns = np.linspace(0, 3, width).round().astype(int)
        images.append(coarse[rows][:, columns].astype(np.uint8))
    return images
