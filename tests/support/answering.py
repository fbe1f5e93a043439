"""An exported model whose answers can be worked out by hand. No torch."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from onnx import helper, parser

GRAPH = """
<ir_version: 8, opset_import: ["": 17]>
g (uint8[N, H, W, 3] images) => (float[N, 2] probabilities, float[N] energy, float[N, 3] features)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3},
 float[1] most = {MOST}>
{
    x = Cast <to = 1> (images)
    m = ReduceMean <axes = [1, 2], keepdims = 0> (x)
    features = Div(m, most)
    probabilities = Slice(features, zero, two, one)
    blue = Slice(features, two, three, one)
    energy = Squeeze(blue, one)
}
"""


def write_model(path: Path, *, threshold: float | None = None, most: float = 255.0) -> Path:
    """Mean of the red and of the green channel, over ``most``, as probabilities of "r" and "g".

    Its energy is the mean of the blue channel, over ``most``; ``threshold`` is the one of
    "unknown". Its features are all three means.
    """
    model = parser.parse_model(GRAPH.replace("MOST", repr(float(most))))
    about = {"classes": ["r", "g"], "temperature": 1.0, "unknown_threshold": threshold,
             "decision_threshold": None, "input_size": 8, "canvas": 8, "parameters": 7}  # fmt: skip
    helper.set_model_props(model, {f"tutelage.{k}": json.dumps(v) for k, v in about.items()})
    onnx.save(model, str(path))
    return path
