"""Export to ONNX with the preprocessing inside, and a check that it agrees with torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage._version import __version__
from tutelage.deploy.graph import Answers, Deployed
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.models.forward import OPSET, trace
from tutelage.system.embedded import STUDENT
from tutelage.system.errors import TutelageError, need
from tutelage.system.files import write_atomically

# The allowed difference of a probability between torch behind Pillow and the exported model. Their
# resizes differ by a grey level in a few pixels. That moved a probability by 5e-7 in the median of
# 240 photos, and by 0.007 at most (1,000 classes, lite0).
TOLERANCE = 0.02
MEAN_TOLERANCE = 1e-3
EXAMPLE = torch.zeros(2, 37, 53, 3, dtype=torch.uint8)  # images to trace with


@dataclass(frozen=True)
class Parity:
    """Agreement of an exported model with torch on n images."""

    top1_agreement: float  # fraction of the images with the same answer
    max_difference: float  # largest difference of a probability
    mean_difference: float  # mean over the images of each image's largest difference
    n: int


def export_onnx(model: Classifier, path: Path | str) -> None:
    """Write ``Deployed(model)`` as ONNX, with the metadata that ``OnnxModel`` reads.

    uint8 ``images`` (N, H, W, 3) -> ``probabilities`` (N, K), ``energy`` (N,), ``features``
    (N, D). N, H and W are dynamic. The file appears whole or not at all.
    """
    write_graph(Deployed(model), "images", EXAMPLE, Answers._fields, Path(path))


def write_graph(
    net: Any, name: str, example: Tensor, outputs: Sequence[str], path: Path, opset: int = OPSET
) -> None:
    """Write a module of one input as ONNX; its ``spec`` is that of the model in it.

    The first three axes of an input "images" are dynamic; any other has the example's shape.
    """
    onnx = need("onnx", "train")
    dynamic: dict[str, dict[int, str]] = {}
    if name == "images":
        dynamic = {name: {0: "N", 1: "H", 2: "W"}, **{output: {0: "N"} for output in outputs}}
    try:
        content = trace(net, example, [name], list(outputs), dynamic, opset)
        graph = onnx.load_from_string(content)
        onnx.checker.check_model(graph, full_check=True)
    except OSError:
        raise  # the disk fails, not the architecture
    except Exception as error:  # exporter and checker raise exceptions of many kinds
        raise TutelageError(
            f"{net.spec.architecture} cannot be exported to ONNX: {error}; "
            f"choose another student, for example one cut from {STUDENT}"
        ) from error
    onnx.helper.set_model_props(graph, _metadata(net))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, graph.SerializeToString())


def parity(
    model: Classifier,
    path: Path | str,
    images: Sequence[np.ndarray],
    exported: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None,
) -> Parity:
    """Compare the exported file ``path`` with torch on uint8 images (H, W, 3) of any sizes.

    ``exported`` gives the file's probabilities (N, K) of images; None runs the file as ONNX. It is
    an error if a probability differs by more than ``TOLERANCE``, or by more than ``MEAN_TOLERANCE``
    on average over the images, or if a top-1 answer differs although the two likeliest classes were
    more than ``TOLERANCE`` apart.
    """
    if not images:
        raise TutelageError("parity needs at least one image")
    deployed = Deployed(model)
    answers = [deployed(torch.tensor(image)[None]) for image in images]
    ours = np.concatenate([answer.probabilities.numpy() for answer in answers])
    theirs = (exported or OnnxModel(path).probabilities)(images)
    return agreement(path, ours, theirs)


def agreement(
    path: Path | str, ours: np.ndarray, theirs: np.ndarray, tolerance: float = TOLERANCE
) -> Parity:
    """Compare probabilities of torch, ``ours`` (N, K), and of the exported file, ``theirs``.

    It is an error if they differ too much, as ``parity`` says, with this tolerance.
    """
    result, same = compare_answers(ours, theirs)
    ordered = np.sort(ours, axis=1)
    tie = ordered[:, -1] - ordered[:, -2] <= tolerance if ours.shape[1] > 1 else same
    near = result.max_difference <= tolerance and result.mean_difference <= MEAN_TOLERANCE
    if not near or not (same | tie).all():
        raise TutelageError(
            f"the exported model {path} differs from torch: probabilities by up to "
            f"{result.max_difference:.2g} (allowed {tolerance:g}) and "
            f"{result.mean_difference:.2g} on average ({MEAN_TOLERANCE:g}), "
            f"top-1 equal on {result.top1_agreement:.1%} of {result.n} images; "
            "export it again from this model, and if that does not help, another --student "
            "or another onnxruntime version may be needed"
        )
    return result


def _metadata(net: Any) -> dict[str, str]:
    spec = net.spec
    values = {
        "version": __version__,
        "classes": json.dumps(spec.classes, ensure_ascii=False),
        "temperature": repr(spec.temperature),
        "unknown_threshold": json.dumps(spec.unknown_threshold),
        "decision_threshold": json.dumps(spec.decision_threshold, ensure_ascii=False),
        "input_size": spec.input_size,
        "canvas": spec.canvas,
        "crop_pct": spec.crop_pct,
        "architecture": spec.architecture,
        "cut": json.dumps(spec.cut),
        "parameters": count_parameters(net),
    }
    return {f"tutelage.{name}": str(value) for name, value in values.items()}


def compare_answers(ours: np.ndarray, theirs: np.ndarray) -> tuple[Parity, np.ndarray]:
    """Agreement of two arrays (N, K) of probabilities, and which images (N,) have equal answers."""
    same = ours.argmax(axis=1) == theirs.argmax(axis=1)
    each = np.abs(ours - theirs).max(axis=1)
    return Parity(float(same.mean()), float(each.max()), float(each.mean()), len(ours)), same


def estimated_loss(before: np.ndarray, after: np.ndarray) -> float:
    """The accuracy that the answers of ``after`` (N, K) lose, if ``before`` (N, K) is calibrated.

    The probability that ``before`` gives to its own answer, less the one that it gives to the
    answer of ``after``, on average over the N images.
    """
    rows = np.arange(len(before))
    return float((before.max(axis=1) - before[rows, after.argmax(axis=1)]).mean())
