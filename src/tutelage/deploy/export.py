"""A model folder exported for other programs, and checked against torch on images.

A new form is a row of ``FORMATS`` or ``BESIDE``, the module that writes it, and its name among the
arguments of ``tutelage.api.export``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.data.decode import UnreadableImage, decode
from tutelage.data.open import Data, open_data
from tutelage.data.runfolder import catalog_of, has_data
from tutelage.deploy.answers import read_threshold, threshold_text
from tutelage.deploy.find import find_model
from tutelage.system.errors import TutelageError, need, refuse_existing

PARITY_IMAGES = 64
CALIBRATION_IMAGES = 256  # for int8
JUDGED_IMAGES = 512  # others, on which int8 is judged


@dataclass(frozen=True)
class Job:
    """What a form is written from."""

    model: Any  # a ``Classifier``
    main: Path  # what ``--format`` writes
    folder: Path  # of the model
    own: Sequence[np.ndarray]  # training images, uint8 (H, W, 3); none if there are none at hand
    shown: Sequence[np.ndarray]  # images to check on
    max_loss: float  # of accuracy, by int8


@dataclass(frozen=True)
class Form:
    """How a model can be written."""

    file: str  # of a format: its name in the model folder; of others: what ends the ONNX file's
    write: Callable[[Job, Path], dict[str, Any]]  # writes and checks it; how well it agrees
    for_ports: bool = False  # comes with golden images, and its description names it
    needs_images: bool = False  # real ones
    keeps_threshold: bool = True  # whether it has a place for a decision threshold


def _onnx(job: Job, path: Path) -> dict[str, Any]:
    from tutelage.deploy import onnx

    onnx.export_onnx(job.model, path)
    return asdict(onnx.parity(job.model, path, job.shown))


def _torch(job: Job, path: Path) -> dict[str, Any]:
    from tutelage.deploy import onnx, program

    program.export_torch(job.model, path)
    answers = lambda images: program.probabilities(path, images)  # noqa: E731
    return asdict(onnx.parity(job.model, path, job.shown, answers))


def _timm(job: Job, path: Path) -> dict[str, Any]:
    from tutelage.deploy.hub import export_timm

    return export_timm(job.model, path, job.shown, job.folder)


def _hub(job: Job, path: Path) -> dict[str, Any]:
    from tutelage.deploy.hub import export_hub

    return asdict(export_hub(job.model, path, job.shown, job.folder))


def _portable(job: Job, path: Path) -> dict[str, Any]:
    from tutelage.deploy import onnx, portable

    portable.export_portable(job.model, path)
    return asdict(onnx.parity(job.model, path, job.shown))


def _view(job: Job, path: Path) -> dict[str, Any]:
    from tutelage.deploy import portable

    portable.export_view(job.model, path)
    return asdict(portable.view_parity(job.model, path, job.shown))


def _int8(job: Job, path: Path) -> dict[str, Any]:
    from tutelage.deploy.quantize import export_int8

    half = min(CALIBRATION_IMAGES, (len(job.own) + 1) // 2)
    return export_int8(job.model, job.main, path, job.own[:half], job.own[half:], job.max_loss)


# The values of --format.
FORMATS = {
    "onnx": Form("model.onnx", _onnx),
    "torch": Form("model.pt2", _torch),
    "timm": Form("timm", _timm, keeps_threshold=False),
    "hub": Form("hub", _hub),
}
# What is written beside an ONNX file, each by a flag of its name.
BESIDE = {
    "portable": Form(".portable.onnx", _portable, for_ports=True),
    "view": Form(".view.onnx", _view, for_ports=True),
    "int8": Form(".int8.onnx", _int8, needs_images=True),
}


def export(
    model: Path,
    out: Path | None,
    *,
    format: str,
    beside: Mapping[str, bool],
    web: Path | None,
    images: Data | None,
    max_loss: float,
    threshold: str | None,
) -> dict[str, Any]:
    """Export and check; ``tutelage.api.export`` has the arguments."""
    asked = [name for name in BESIDE if beside[name]]
    if web is not None:
        told = {"out": out is not None, "images": images is not None, "format": format != "onnx"}
        if wrong := [*asked, *(name for name, given in told.items() if given)]:
            raise TutelageError(
                f"--web makes a page of the file that is exported already; leave out --{wrong[0]}, "
                "or export first, and give --web the file"
            )
        from tutelage.deploy.webpage import export_page

        return export_page(model, web, threshold=threshold)
    _check_form(format, asked, threshold=threshold is not None)
    if out is not None:
        _check_out(out, format, asked)
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
    if not own and (wanting := [name for name in asked if BESIDE[name].needs_images]):
        raise TutelageError(
            f"{wanting[0]} is calibrated on real images, but {folder} lies in no run folder; "
            "give some with --images"
        )
    shown = own[:PARITY_IMAGES] or noise_images(loaded.spec.canvas)
    ports = {name: _beside(path, name) for name in asked if BESIDE[name].for_ports}
    if ports:
        from tutelage.deploy.portable import golden_folder

        golden_folder(path)  # refused before anything is written
    job = Job(loaded, path, folder, own, shown, max_loss)
    source = "training images" if own else "generated"
    result = {"path": str(path), **FORMATS[format].write(job, path), "images": source}
    for name in asked:
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


def _check_form(format: str, beside: Sequence[str], *, threshold: bool) -> None:
    if format not in FORMATS:
        raise TutelageError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    if beside and format != "onnx":
        raise TutelageError(
            f"--{beside[0]} writes an ONNX file; leave out --format {format} or --{beside[0]}"
        )
    if threshold and not FORMATS[format].keeps_threshold:
        raise TutelageError(
            f"{format}'s format has no place for a threshold; leave out --threshold, or export as "
            "hub"
        )


def _beside(path: Path, form: str) -> Path:
    return path.with_suffix(BESIDE[form].file)


def _check_out(out: Path, format: str, beside: Sequence[str]) -> None:
    """Refuse a file that exists or is called like another kind of file; folders see to it later."""
    suffix = Path(FORMATS[format].file).suffix
    if not suffix:
        return
    if out.suffix != suffix:
        raise TutelageError(f"--out {out}: the name of this file must end in {suffix}")
    refuse_existing(out, *(_beside(out, form) for form in beside))


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
