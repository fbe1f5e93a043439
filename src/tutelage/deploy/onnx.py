"""Export to ONNX with the preprocessing inside, a check that it agrees with torch, and int8."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tutelage._version import __version__
from tutelage.deploy.graph import Answers, Deployed
from tutelage.deploy.latency import Latency, latencies, onnx_call
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.models.forward import OPSET, trace
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


@dataclass(frozen=True)
class Quantized:
    """What int8 brought, judged on images that it was not calibrated on if there were any."""

    kept: Literal["int8", "fp32"]  # the format to use
    path: Path  # its file
    reason: str  # why it is kept, for people
    fp32: Latency
    int8: Latency
    fp32_bytes: int  # size of the file
    int8_bytes: int
    top1_agreement: float  # fraction of the images with an unchanged answer
    max_difference: float  # largest change of a probability on the images
    loss: float  # of accuracy on the images, by ``estimated_loss``


def export_onnx(model: Classifier, path: Path | str) -> None:
    """Write ``Deployed(model)`` as ONNX, with the metadata that ``OnnxModel`` reads.

    uint8 ``images`` (N, H, W, 3) -> ``probabilities`` (N, K), ``energy`` (N,). N, H and W are
    dynamic. The file appears whole or not at all.

    Raises:
        MissingExtra: the package onnx is not installed.
        TutelageError: the architecture cannot be exported.
    """
    write_graph(Deployed(model), "images", EXAMPLE, Answers._fields, Path(path))


def write_graph(
    net: Any, name: str, example: Tensor, outputs: Sequence[str], path: Path, opset: int = OPSET
) -> None:
    """Write a module of one input as ONNX, as ``export_onnx`` does, which says what it raises.

    Args:
        net: the module; its ``spec`` is that of the model in it.
        name: of the input. The first three axes of "images" are dynamic; any other input has the
            shape of the example.
        example: an input.
        outputs: the names of the outputs.
        path: the file.
        opset: the version of ONNX's operators.
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
            "choose another student, for example one cut from tf_efficientnet_lite0"
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

    ``exported`` gives the file's probabilities (N, K) of images; None runs the file as ONNX.

    Raises:
        TutelageError: a probability differs by more than ``TOLERANCE``, or by more than
            ``MEAN_TOLERANCE`` on average over the images, or a top-1 answer differs although the
            two likeliest classes were more than ``TOLERANCE`` apart.
    """
    if not images:
        raise TutelageError("parity needs at least one image")
    deployed = Deployed(model)
    answers = [deployed(torch.tensor(image)[None]) for image in images]
    ours = np.concatenate([answer.probabilities.numpy() for answer in answers])
    theirs = (exported or OnnxModel(path).probabilities)(images)
    return agreement(path, "torch", ours, theirs)


def agreement(
    path: Path | str,
    reference: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    tolerance: float = TOLERANCE,
    mean_tolerance: float = MEAN_TOLERANCE,
) -> Parity:
    """Compare the probabilities ``theirs`` (N, K) of an exported file with those of a reference.

    Raises:
        TutelageError: as ``parity`` has it, with these tolerances.
    """
    result, same = compare_answers(ours, theirs)
    ordered = np.sort(ours, axis=1)
    tie = ordered[:, -1] - ordered[:, -2] <= tolerance if ours.shape[1] > 1 else same
    near = result.max_difference <= tolerance and result.mean_difference <= mean_tolerance
    if not near or not (same | tie).all():
        raise TutelageError(
            f"the exported model {path} differs from {reference}: probabilities by up to "
            f"{result.max_difference:.2g} (allowed {tolerance:g}) and "
            f"{result.mean_difference:.2g} on average ({mean_tolerance:g}), "
            f"top-1 equal on {result.top1_agreement:.1%} of {result.n} images; "
            "export it again from this model, and if that does not help, another --student "
            "or another onnxruntime version may be needed"
        )
    return result


def quantize_onnx(
    path: Path | str,
    out: Path | str,
    calibration_images: Sequence[np.ndarray],
    test_images: Sequence[np.ndarray] = (),
    *,
    max_loss: float = 0.01,
) -> Quantized:
    """Quantise the network (not the preprocessing) of an exported model, if that does no harm.

    Static QDQ with unsigned activations and per-channel signed weights (Jacob et al. 2018). The
    int8 model is kept, and written to ``out``, if it is faster (one image, one thread, in turns
    with the float model) and loses no more than ``max_loss`` of the accuracy. That needs no labels:
    ``estimated_loss`` says what the changed answers cost. The images are uint8 (H, W, 3) each; a
    hundred unlabelled ones are enough to calibrate on. Without test images the model is judged on
    the calibration images.

    Raises:
        TutelageError: there are no images, or ``path`` is no exported model.
    """
    if not calibration_images:
        raise TutelageError("int8 needs images to calibrate on, at least about 100")
    path, out = Path(path), Path(out)
    judged = test_images or calibration_images
    before = OnnxModel(path).probabilities(judged)
    with tempfile.TemporaryDirectory() as folder:
        int8_file = Path(folder) / "int8.onnx"
        _quantize(path, int8_file, calibration_images)
        after = OnnxModel(int8_file).probabilities(judged)
        compared, _ = compare_answers(before, after)
        fp32, int8 = latencies([onnx_call(path), onnx_call(int8_file)])
        loss = estimated_loss(before, after)
        accepted = int8.p50_ms < fp32.p50_ms and loss <= max_loss
        int8_bytes = int8_file.stat().st_size
        if accepted:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, int8_file.read_bytes())
    reason = (
        f"int8 takes {int8.p50_ms:.1f} ms an image, fp32 {fp32.p50_ms:.1f} ms on this machine; "
        f"estimated loss of accuracy {100 * loss:.1f} points, allowed {100 * max_loss:.1f}"
    )
    return Quantized(
        kept="int8" if accepted else "fp32",
        path=out if accepted else path,
        reason=reason if accepted else f"{reason}: fp32 is kept",
        fp32=fp32,
        int8=int8,
        fp32_bytes=path.stat().st_size,
        int8_bytes=int8_bytes,
        top1_agreement=compared.top1_agreement,
        max_difference=compared.max_difference,
        loss=loss,
    )


def estimated_loss(before: np.ndarray, after: np.ndarray) -> float:
    """The accuracy that the answers of ``after`` (N, K) lose, if ``before`` (N, K) is calibrated.

    The probability that ``before`` gives to its own answer, less the one that it gives to the
    answer of ``after``, on average over the N images.
    """
    rows = np.arange(len(before))
    return float((before.max(axis=1) - before[rows, after.argmax(axis=1)]).mean())


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


def _quantize(path: Path, out: Path, images: Sequence[np.ndarray]) -> None:
    onnx = need("onnx", "train")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_name("prepared.onnx")
    feeds = ({"images": image[None]} for image in images)
    calibration: Any = SimpleNamespace(get_next=lambda: next(feeds, None))
    with _quiet():
        # Symbolic shapes are not needed for convolutions, and fail on the preprocessing.
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        nodes = onnx.load(str(prepared)).graph.node
        quantize_static(
            str(prepared),
            str(out),
            calibration,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # Named, since the default takes shape arithmetic too.
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "Clip", "GlobalAveragePool"],
            nodes_to_exclude=[n.name for n in nodes if not n.name.startswith("/model/")],
        )
    model = onnx.load(str(out))
    onnx.helper.set_model_props(model, OnnxModel(path).metadata)
    _shorten(model.graph)
    onnx.save(model, str(out))


def _shorten(graph: Any) -> None:
    """Give inner tensors short names: their long names are a tenth of a small int8 model."""
    kept = {value.name for value in (*graph.input, *graph.output)}
    short: dict[str, str] = {"": ""}

    def number(name: str) -> str:
        return short.setdefault(name, name if name in kept else f"{len(short):x}")

    for tensor in graph.initializer:
        tensor.name = number(tensor.name)
    for node in graph.node:
        node.name = ""
        node.input[:] = [number(name) for name in node.input]
        node.output[:] = [number(name) for name in node.output]
    del graph.value_info[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the root logger, where the quantiser gives advice."""
    logger = logging.getLogger()
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled
