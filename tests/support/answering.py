"""An exported model whose answers can be worked out by hand. No torch."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def write_model(path: Path, *, threshold: float | None = None, most: float = 255.0) -> Path:
    """Mean of the red and of the green channel, over ``most``, as probabilities of "r" and "g".

    Its energy is the mean of the blue channel, over ``most``; ``threshold`` is the one of
    "unknown". Its features are all three means.
    """
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2], keepdims=0),
        helper.make_node("Div", ["m", "most"], ["s"]),
        helper.make_node("Slice", ["s", "zero", "two", "one"], ["probabilities"]),
        helper.make_node("Slice", ["s", "two", "three", "one"], ["blue"]),
        helper.make_node("Squeeze", ["blue", "one"], ["energy"]),
        helper.make_node("Identity", ["s"], ["features"]),
    ]
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3}
    graph = helper.make_graph(
        nodes,
        "g",
        [value("images", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            value("probabilities", TensorProto.FLOAT, ["N", 2]),
            value("energy", TensorProto.FLOAT, ["N"]),
            value("features", TensorProto.FLOAT, ["N", 3]),
        ],
        [
            *(helper.make_tensor(k, TensorProto.INT64, [1], [v]) for k, v in numbers.items()),
            helper.make_tensor("most", TensorProto.FLOAT, [1], [most]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    props = {
        "classes": '["r", "g"]',
        "temperature": "1.0",
        "unknown_threshold": "null" if threshold is None else repr(threshold),
        "decision_threshold": "null",
        "input_size": "8",
        "canvas": "8",
        "parameters": "7",
    }
    helper.set_model_props(model, {f"tutelage.{k}": v for k, v in props.items()})
    onnx.save(model, str(path))
    return path
