"""A model folder exported for other programs, and checked against torch on images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.data.decode import UnreadableImage, decode
from tutelage.data.open import Data, open_data
from tutelage.data.runfolder import catalog_of, has_data
from tutelage.deploy.answers import read_threshold, threshold_text
from tutelage.deploy.find import find_model
from tutelage.system.errors import TutelageError, need

# The formats, and what each file or folder is called in the model folder.
FORMATS = {"onnx": "model.onnx", "torch": "model.pt2", "timm": "timm", "hub": "hub"}
PARITY_IMAGES = 64
CALIBRATION_IMAGES = 256  # for int8
JUDGED_IMAGES = 512  # others, on which int8 is judged


def export(
    model: Path,
    out: Path | None,
    *,
    format: str,
    int8: bool,
    portable: bool,
    view: bool,
    images: Data | None,
    max_loss: float,
    threshold: str | None = None,
    web: Path | None = None,
) -> dict[str, Any]:
    """Export and check; ``tutelage.api.export`` has the arguments."""
    onnx_forms = {"--int8": int8, "--portable": portable, "--view": view}
    if web is not None:
        from tutelage.deploy.webpage import export_page

        others = {"--out": out is not None, "--images": images is not None}
        _check_page({**others, **onnx_forms, "--format": format != "onnx"})
        return export_page(model, web, threshold=threshold)
    _check_format(format, onnx_forms, threshold)
    if out is not None:
        _check_out(out, format, [name[2:] for name, wanted in onnx_forms.items() if wanted])
    folder = model_folder(model)
    for package in ("torch", "timm", "onnx"):
        need(package, "train")
    from tutelage.models.folder import load_model

    loaded = load_model(folder)
    if threshold is not None:
        least = read_threshold(threshold, loaded.spec.classes)
        loaded.spec = replace(loaded.spec, decision_threshold=least)
    path = out or folder / FORMATS[format]
    own = _own_images(folder, images)
    if int8 and not own:
        raise TutelageError(
            f"int8 is calibrated on real images, but {folder} lies in no run folder; "
            "give some with --images"
        )
    shown = own[:PARITY_IMAGES] or noise_images(loaded.spec.canvas)
    if portable or view:
        from tutelage.deploy.portable import golden_folder

        golden_folder(path)  # refused before anything is written
    checked = _written(loaded, path, format, shown, folder)
    source = "training images" if own else "generated"
    result: dict[str, Any] = {"path": str(path), **asdict(checked), "images": source}
    if format == "onnx":
        result |= _beside(loaded, path, shown, portable=portable, view=view)
    if loaded.spec.decision_threshold is not None:
        result["threshold"] = threshold_text(loaded.spec.decision_threshold)
    if int8:
        result["int8"] = _quantized(loaded, path, own, max_loss)
    return result


def _check_page(others: Mapping[str, bool]) -> None:
    """Refuse options that say how a file is written where a page of a written file is made."""
    if given := [name for name, value in others.items() if value]:
        raise TutelageError(
            f"--web makes a page of the file that is exported already; leave out {given[0]}, "
            "or export first, and give --web the file"
        )


def _check_format(format: str, onnx_forms: Mapping[str, bool], threshold: str | None) -> None:
    if format not in FORMATS:
        raise TutelageError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    for name, wanted in onnx_forms.items():
        if wanted and format != "onnx":
            raise TutelageError(
                f"{name} writes an ONNX file; leave out --format {format} or {name}"
            )
    if threshold is not None and format == "timm":
        raise TutelageError(
            "timm's format has no place for a threshold; leave out --threshold, or export as hub"
        )


def _check_out(out: Path, format: str, forms: Sequence[str]) -> None:
    """Refuse a file that exists or is called like another kind of file; folders see to it later."""
    suffix = Path(FORMATS[format]).suffix
    if not suffix:
        return
    if out.suffix != suffix:
        raise TutelageError(f"--out {out}: the name of this file must end in {suffix}")
    for path in (out, *(out.with_suffix(f".{form}{suffix}") for form in forms)):
        if path.exists():
            raise TutelageError(f"{path} exists; choose another --out, or delete it first")


def model_folder(model: Path) -> Path:
    """The model folder that is exported.

    Raises:
        TutelageError: no model there, or only an exported file.
    """
    folder = find_model(model).folder
    if folder is None:
        raise TutelageError(
            f"{model} is exported already; to export a model anew, give its folder, such as "
            "RUN/student, or its run"
        )
    return folder


def _quantized(
    model: Any, path: Path, images: Sequence[np.ndarray], max_loss: float
) -> dict[str, Any]:
    """Write and describe the int8 form of the ONNX file, if it does no harm; how it compares."""
    from tutelage.deploy.portable import write_description
    from tutelage.deploy.quantize import quantize_onnx
    from tutelage.deploy.runtime import OnnxModel
    from tutelage.models.classifier import count_parameters

    half = min(CALIBRATION_IMAGES, (len(images) + 1) // 2)
    out = path.with_suffix(".int8.onnx")
    quantized = quantize_onnx(path, out, images[:half], images[half:], max_loss=max_loss)
    result = {**asdict(quantized), "path": str(quantized.path)}
    if quantized.kept == "int8":
        known = OnnxModel(out)
        fitted = {name: getattr(known, name) for name in ("temperature", "unknown_threshold")}
        described = write_description(out, replace(model.spec, **fitted), count_parameters(model))
        result["description"] = str(described)
    return result


def _written(
    model: Any, path: Path, format: str, images: Sequence[np.ndarray], origin: Path
) -> Any:
    from tutelage.deploy import hub, onnx, program

    if format == "timm":
        return hub.export_timm(model, path, images, origin)
    if format == "hub":
        return hub.export_hub(model, path, images, origin)
    if format == "torch":
        program.export_torch(model, path)
        return onnx.parity(model, path, images, lambda shown: program.probabilities(path, shown))
    onnx.export_onnx(model, path)
    return onnx.parity(model, path, images)


def _beside(
    model: Any, path: Path, images: Sequence[np.ndarray], *, portable: bool, view: bool
) -> dict[str, Any]:
    """Write what lies beside the ONNX file ``path``: other forms, golden images, description."""
    from tutelage.deploy import portable as forms
    from tutelage.deploy.onnx import parity
    from tutelage.models.classifier import count_parameters

    result: dict[str, Any] = {}
    files: dict[str, Path] = {}
    if portable:
        file = files["portable"] = path.with_suffix(".portable.onnx")
        forms.export_portable(model, file)
        checked = parity(model, file, images)
        result["portable"] = {"path": str(file), **asdict(checked)}
    if view:
        file = files["view"] = path.with_suffix(".view.onnx")
        forms.export_view(model, file)
        checked = forms.view_parity(model, file, images)
        result["view"] = {"path": str(file), **asdict(checked)}
    if files:
        result["golden"] = str(forms.write_golden(model, path, images))
    described = forms.write_description(path, model.spec, count_parameters(model), **files)
    return {**result, "description": str(described)}


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
