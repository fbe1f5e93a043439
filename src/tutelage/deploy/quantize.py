"""An exported model in 8-bit numbers, calibrated anew; used where it is faster and does no harm."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tutelage.deploy.answers import decide
from tutelage.deploy.bench import latencies, onnx_call
from tutelage.deploy.onnx import estimated_loss
from tutelage.deploy.portable import write_description
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.classifier import count_parameters
from tutelage.stats.calibrate import fit_temperature, softmax
from tutelage.stats.metrics import Floats
from tutelage.stats.unknown import energy, match_threshold
from tutelage.system.errors import TutelageError, need
from tutelage.system.files import write_atomically

# Named, since the quantiser's default takes shape arithmetic too.
QUANTIZED = ["Conv", "Gemm", "MatMul", "Add", "Clip", "GlobalAveragePool"]
# That set the ranges of the activations. With 256 outliers widened them, and the logits were 5% to
# 9% further from the float model's (digits, ants and bees).
RANGE_IMAGES = 128
TIMED_RUNS = 100


def export_int8(
    model: Any,
    exact: Path,
    path: Path,
    calibration_images: Sequence[np.ndarray],
    test_images: Sequence[np.ndarray],
    max_loss: float,
) -> dict[str, Any]:
    """Quantise as ``quantize_onnx`` does, and describe the file if it is kept; how they compare."""
    result = quantize_onnx(exact, path, calibration_images, test_images, max_loss=max_loss)
    if result["kept"] == "int8":
        known = OnnxModel(path)
        fitted = {name: getattr(known, name) for name in ("temperature", "unknown_threshold")}
        described = write_description(path, replace(model.spec, **fitted), count_parameters(model))
        result["description"] = str(described)
    return result


def quantize_onnx(
    path: Path,
    out: Path,
    calibration_images: Sequence[np.ndarray],
    test_images: Sequence[np.ndarray] = (),
    *,
    max_loss: float = 0.01,
) -> dict[str, Any]:
    """Quantise an exported model with ``write_int8``, if that does no harm.

    The int8 model is kept, and written to ``out``, if it is faster (one image, one thread, in turns
    with the float model, each at its fifth percentile, which other work on the machine hardly
    moves) and loses no more than ``max_loss`` of the accuracy. That needs no labels:
    ``estimated_loss`` says what the changed answers cost. The images are uint8 (H, W, 3) each; a
    hundred unlabelled ones are enough to calibrate on. Without test images the model is judged on
    the calibration images.

    Returns what is "kept", int8 or fp32, its "path", the "reason" for people, latencies and bytes
    of both, and what ``_compared`` says.
    """
    judged = test_images or calibration_images
    with tempfile.TemporaryDirectory() as folder:
        int8_file = Path(folder) / "int8.onnx"
        write_int8(path, int8_file, calibration_images)
        compared = _compared(OnnxModel(path), OnnxModel(int8_file), judged)
        fp32, int8 = latencies([onnx_call(path), onnx_call(int8_file)], runs=TIMED_RUNS)
        accepted = int8.p05_ms < fp32.p05_ms and compared["loss"] <= max_loss
        int8_bytes = int8_file.stat().st_size
        if accepted:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, int8_file.read_bytes())
    same = f"the same answer on {compared['top1_agreement']:.1%} of {compared['n']} images"
    if compared["unknown_flips"] is not None:
        same += f", and {compared['unknown_flips']} of them unknown to only one of the two"
    reason = (
        f"int8 takes {int8.p05_ms:.1f} ms an image, fp32 {fp32.p05_ms:.1f} ms on this machine; "
        f"{same}; estimated loss of accuracy {100 * compared['loss']:.1f} points, "
        f"allowed {100 * max_loss:.1f}"
    )
    return {
        "kept": "int8" if accepted else "fp32",
        "path": str(out if accepted else path),
        "reason": reason if accepted else f"{reason}: fp32 is kept",
        "fp32": asdict(fp32),
        "int8": asdict(int8),
        "fp32_bytes": path.stat().st_size,
        "int8_bytes": int8_bytes,
        **compared,
    }


def write_int8(path: Path, out: Path, images: Sequence[np.ndarray]) -> None:
    """Write the exported model ``path`` with its trunk in 8-bit numbers, and calibrate that anew.

    Static QDQ with unsigned activations and per-channel signed weights (Jacob et al. 2018,
    arXiv:1712.05877). The preprocessing, the first convolution and the head stay in float: so the
    pixels are not limited to what the images showed, and the logits take any value. The rounding
    shifts the mean of each logit. The head's bias takes that back (Nagel et al. 2019,
    arXiv:1906.04721, section 4.2, here of the last layer only). Then temperature and threshold for
    unknown images are matched to the float model's on the same images (N of uint8 (H, W, 3)).
    """
    if not images:
        raise TutelageError("int8 needs images to calibrate on, at least about 100")
    onnx = need("onnx", "train")
    exact = OnnxModel(path)
    _quantize(path, out, images[:RANGE_IMAGES])
    model = onnx.load(str(out))
    onnx.helper.set_model_props(model, exact.metadata)
    onnx.save(model, str(out))
    rounded = OnnxModel(out)
    ours, theirs = _logits(rounded, images), _logits(exact, images)
    shift = (theirs - ours).mean(axis=0)
    ours += shift
    # What is fitted is a factor, since the prior of the fit is around 1.
    temperature = exact.temperature * fit_temperature(
        ours / exact.temperature, softmax(theirs, exact.temperature)
    )
    threshold = exact.unknown_threshold
    if threshold is not None:
        threshold = match_threshold(energy(ours), energy(theirs), threshold)
    _recalibrate(model.graph, shift, temperature)
    _shorten(model.graph)
    values = {"temperature": repr(temperature), "unknown_threshold": json.dumps(threshold)}
    known = {f"tutelage.{name}": value for name, value in values.items()}
    onnx.helper.set_model_props(model, {**exact.metadata, **known})
    onnx.save(model, str(out))


def _compared(exact: OnnxModel, rounded: OnnxModel, images: Sequence[np.ndarray]) -> dict[str, Any]:
    """How the answers for some images differ.

    "top1_agreement" is the fraction with an unchanged answer, "max_difference" the largest change
    of a probability, "loss" is of accuracy, by ``estimated_loss``, and "unknown_flips" counts the
    images that only one of the two calls unknown; None: one of them cannot.
    """
    (before, energies), (after, moved) = exact.answers(images), rounded.answers(images)
    answers = [decide(p, exact.classes, exact.decision_threshold) for p in (before, after)]
    flips = None
    if exact.unknown_threshold is not None and rounded.unknown_threshold is not None:
        unknown = energies > exact.unknown_threshold
        flips = int((unknown != (moved > rounded.unknown_threshold)).sum())
    return {
        "n": len(images),
        "top1_agreement": float((answers[0] == answers[1]).mean()),
        "max_difference": float(np.abs(before - after).max()),
        "loss": estimated_loss(before, after),
        "unknown_flips": flips,
    }


def _logits(model: OnnxModel, images: Sequence[np.ndarray]) -> Floats:
    """Logits (N, K), from the answers: these are ``softmax(logits / T)`` and ``-logsumexp``."""
    probabilities, energies = model.answers(images)
    least = np.finfo(np.float32).tiny  # what a probability is at least before it becomes zero
    scaled = model.temperature * np.log(np.clip(probabilities.astype(np.float64), least, None))
    return np.asarray(scaled + (energy(scaled) - energies)[:, None])


def _quantize(path: Path, out: Path, images: Sequence[np.ndarray]) -> None:
    onnx = need("onnx", "train")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    graph = onnx.load(str(path)).graph
    feeds = ({"images": image[None]} for image in images)
    calibration: Any = SimpleNamespace(get_next=lambda: next(feeds, None))
    logger = logging.getLogger()  # where the quantiser gives advice
    disabled, logger.disabled = logger.disabled, True
    try:
        quantize_static(
            str(path),
            str(out),
            calibration,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=_kept_in_float(graph),
        )
    finally:
        logger.disabled = disabled


def _kept_in_float(graph: Any) -> list[str]:
    """Names of the nodes of the preprocessing, of the first convolution, and of the head."""
    around = [node.name for node in graph.node if not node.name.startswith("/model/")]
    first = [node.name for node in graph.node if node.op_type == "Conv"][:1]
    return [*around, *first, _head(graph).name]


def _head(graph: Any) -> Any:
    """The node that makes the logits: that of which the energy is computed."""
    made_by = {name: node for node in graph.node for name in node.output}
    log_sum = made_by[made_by["energy"].input[0]]
    return made_by[log_sum.input[0]]


def _recalibrate(graph: Any, shift: Floats, temperature: float) -> None:
    """Add ``shift`` (K,) to the logits, and divide them by ``temperature`` from now on."""
    onnx = need("onnx", "train")
    head = _head(graph)
    bias = next(tensor for tensor in graph.initializer if tensor.name == head.input[2])
    moved = onnx.numpy_helper.to_array(bias) + shift.astype(np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(moved, bias.name))
    divided = next(n for n in graph.node if n.op_type == "Div" and n.input[0] == head.output[0])
    divisor = onnx.numpy_helper.from_array(np.float32(temperature), "temperature")
    graph.initializer.append(divisor)
    divided.input[1] = divisor.name


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
