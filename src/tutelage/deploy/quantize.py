"""An exported model in 8-bit numbers, where that makes it faster and does no harm."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from tutelage.deploy.latency import Latency, latencies, onnx_call
from tutelage.deploy.onnx import compare_answers, estimated_loss
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError, need
from tutelage.system.files import write_atomically


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
