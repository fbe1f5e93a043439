"""The forms of an exported model: one table, from which options, their help and errors are made.

A new form is a row of ``FORMS`` and the module that writes it: ``--format`` and ``tutelage.export``
know it then. Nothing heavy is imported before a form is written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import indent, wrap
from typing import TYPE_CHECKING, Any, Literal

from tutelage.system.errors import TutelageError

if TYPE_CHECKING:
    import numpy as np

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
    help: str
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

    return asdict(export_timm(job.model, path, job.shown, job.folder))


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


FORMATS = {
    "onnx": Form("model.onnx", "an ONNX file with the preprocessing inside", _onnx),
    "torch": Form("model.pt2", "a .pt2 file of torch.export with the preprocessing inside", _torch),
    "timm": Form("timm", "a folder for timm.create_model", _timm, keeps_threshold=False),
    "hub": Form("hub", "a model folder with its ONNX file and a card", _hub),
}
"""The values of ``--format``; the first is the default."""

BESIDE = {
    "portable": Form(
        ".portable.onnx",
        "also write model.portable.onnx, for runtimes that do not resize as onnxruntime does: "
        "OpenVINO, OpenCV, MNN, tract",
        _portable,
        for_ports=True,
    ),
    "view": Form(
        ".view.onnx",
        "also write model.view.onnx, whose host resizes: for ncnn, LiteRT, CoreML. With each of "
        "these two comes golden/, ten of the images with the answers to them",
        _view,
        for_ports=True,
    ),
    "int8": Form(
        ".int8.onnx",
        "also write an ONNX file with 8-bit numbers, calibrated on the images, with its "
        "description and, from the images of the run, what tutelage watch compares with; the usual "
        "file is kept if that is not faster, or loses more than --max-loss",
        _int8,
        needs_images=True,
    ),
}
"""What is written beside an ONNX file, each by a flag of its name."""

WEB = (
    "instead, a new folder with a page that runs the exported file in the browser, with "
    "onnxruntime-web beside it (33 MB are fetched once), for any plain web server; pictures do not "
    "leave the browser"
)
DEFAULTS = {"format": next(iter(FORMATS)), **dict.fromkeys(BESIDE, False), "web": None}


def with_forms(verb: Any) -> Any:
    """Give ``export`` an argument for each form in the place of ``**forms``, with its help."""
    hints = {"format": Literal[tuple(FORMATS)], **dict.fromkeys(BESIDE, bool)}
    hints["web"] = Path | str | None
    formats = "; ".join(f"{name}, {form.help}" for name, form in FORMATS.items())
    help = {"format": formats, **{name: form.help for name, form in BESIDE.items()}, "web": WEB}
    signature = inspect.signature(verb)
    before = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
        for name, value in DEFAULTS.items()
    ]
    verb.__signature__ = signature.replace(parameters=[*before, *added])
    verb.__annotations__ |= hints
    said = ["\n".join(wrap(f"{name}: {text}.", 88)) for name, text in help.items()]
    lines = [indent(text, " " * 12)[4:] for text in said]
    verb.__doc__ = verb.__doc__.replace("        forms: what is written.", "\n".join(lines))
    return verb


def chosen_forms(
    given: Mapping[str, Any], others: Mapping[str, bool], *, threshold: bool
) -> tuple[str, list[str], Path | None]:
    """The format, what is written beside it, and the folder of a page; refuse what contradicts.

    ``others`` says which of the options ``--out`` and ``--images`` are given.
    """
    if unknown := [name for name in given if name not in DEFAULTS]:
        raise TutelageError(
            f"export has no option {unknown[0]}; the forms are {', '.join(DEFAULTS)}"
        )
    options = {**DEFAULTS, **given}
    format, web = options["format"], options["web"]
    beside = [name for name in BESIDE if options[name]]
    if web is not None:
        told = [*(name for name, known in others.items() if known), *beside]
        if wrong := [*told, *(["format"] if format != DEFAULTS["format"] else [])]:
            raise TutelageError(
                f"--web makes a page of the file that is exported already; leave out --{wrong[0]}, "
                "or export first, and give --web the file"
            )
        return format, [], Path(web)
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
    return format, beside, None
