from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["probabilities"])],
        "g",
        [value("images", TensorProto.UINT8, ["N", "H", "W", 3])],
        [value("probabilities", TensorProto.UINT8, ["N", "H", "W", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "foreign.onnx"))
    return tmp_path / "foreign.onnx"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Mean of the red and the green channel as "probabilities", with our metadata."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2], keepdims=0),
        helper.make_node("Slice", ["m", "zero", "two", "one"], ["probabilities"]),
        helper.make_node("ReduceMax", ["m"], ["energy"], axes=[1], keepdims=0),
    ]
    numbers = {"zero": 0, "two": 2, "one": 1}
    graph = helper.make_graph(
        nodes,
        "g",
        [value("images", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            value(name, TensorProto.FLOAT, ["N", *rest])
            for name, *rest in (("probabilities", 2), ("energy",))
        ],
        [helper.make_tensor(k, TensorProto.INT64, [1], [v]) for k, v in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    props = {"classes": '["r", "g"]', "temperature": "1.5", "input_size": "8", "canvas": "9"}
    props |= dict.fromkeys(("unknown_threshold", "decision_threshold"), "null")
    helper.set_model_props(model, {f"tutelage.{k}": v for k, v in props.items()})
    onnx.save(model, str(tmp_path / "tiny.onnx"))
    return tmp_path / "tiny.onnx"


def test_order_is_kept_over_mixed_shapes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.deploy.runtime.BATCH", 2)
    shapes = [(4, 5), (3, 3), (4, 5), (5, 4), (4, 5), (3, 3)]
    images = [np.full((h, w, 3), i, dtype=np.uint8) for i, (h, w) in enumerate(shapes)]
    result = OnnxModel(tiny).probabilities(images)
    np.testing.assert_array_equal(result, np.arange(6.0)[:, None].repeat(2, axis=1))
    assert result.dtype == np.float32


def test_large_images_make_smaller_batches(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = OnnxModel(tiny)
    seen = []

    class Session:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(len(feed["images"]))
            return [np.zeros((len(feed["images"]), 2), dtype=np.float32)]

    monkeypatch.setattr(model, "_session", Session())
    monkeypatch.setattr("tutelage.deploy.runtime.BATCH_PIXELS", 50)
    model.probabilities([np.zeros((4, 5, 3), dtype=np.uint8)] * 5)
    model.probabilities([np.zeros((9, 9, 3), dtype=np.uint8)] * 2)
    assert seen == [2, 2, 1, 1, 1]


def test_no_images(tiny: Path) -> None:
    assert OnnxModel(tiny).probabilities([]).shape == (0, 2)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((0, 4, 3), dtype=np.uint8),
    ],
)
def test_what_is_no_image_is_refused(tiny: Path, image: np.ndarray) -> None:
    with pytest.raises(TutelageError, match=r"image 1 is .*expected uint8 \(H, W, 3\)"):
        OnnxModel(tiny).probabilities([np.zeros((4, 4, 3), dtype=np.uint8), image])


def test_foreign_models_and_other_files_are_refused(foreign: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="not one of tutelage"):
        OnnxModel(foreign)
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(TutelageError, match="not a readable ONNX model"):
        OnnxModel(tmp_path / "x.onnx")
    with pytest.raises(TutelageError, match="no exported model"):
        OnnxModel(tmp_path / "absent.onnx")


def changed(tiny: Path, **metadata: str) -> Path:
    """The same file with other metadata."""
    model = onnx.load(str(tiny))
    known = {entry.key: entry.value for entry in model.metadata_props}
    given = {f"tutelage.{name}": value for name, value in metadata.items()}
    helper.set_model_props(model, {**known, **given})
    onnx.save(model, str(tiny))
    return tiny


@pytest.mark.parametrize(
    "metadata",
    [
        {"classes": "3"},
        {"classes": '"ab"'},
        {"classes": "[1, 2]"},
        {"classes": "[]"},
        {"classes": '["a", "a"]'},
        {"classes": "[" * 100_000},
        {"temperature": "warm"},
        {"input_size": "big"},
        {"unknown_threshold": '"x"'},
        {"unknown_threshold": "[]"},
        {"decision_threshold": "0.3"},
        {"decision_threshold": '["nobody", 0.3]'},
        {"decision_threshold": '["r", 1.3]'},
    ],
)
def test_metadata_of_wrong_types_is_refused(tiny: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(TutelageError, match="not one of tutelage"):
        OnnxModel(changed(tiny, **metadata))


def test_a_model_without_energies_is_refused(tiny: Path) -> None:
    model = onnx.load(str(tiny))
    del model.graph.output[1]
    onnx.save(model, str(tiny))
    with pytest.raises(TutelageError, match=r"gives \['probabilities'\]; expected"):
        OnnxModel(tiny)


def test_answers_of_another_number_of_classes_are_refused(tiny: Path) -> None:
    opened = OnnxModel(changed(tiny, classes='["a", "b", "c"]'))
    with pytest.raises(TutelageError, match=r"probabilities \(1, 2\), expected .*\(1, 3\)"):
        opened.probabilities([np.zeros((4, 5, 3), dtype=np.uint8)])


def test_answers_that_are_no_numbers_are_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = OnnxModel(tiny)

    class Session:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full((1, 2), np.nan, dtype=np.float32)]

    monkeypatch.setattr(opened, "_session", Session())
    with pytest.raises(TutelageError, match="expected finite values"):
        opened.probabilities([np.zeros((4, 5, 3), dtype=np.uint8)])


@pytest.mark.parametrize("place", ["../secret.bin", "ABSOLUTE", "link.bin"])
def test_weights_outside_of_the_folder_are_not_read(tmp_path: Path, place: str) -> None:
    (tmp_path / "secret.bin").write_bytes(b"0123456789abcdef")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to("../secret.bin")
    weights = onnx.TensorProto(name="w", data_type=TensorProto.UINT8, dims=[16])
    weights.data_location = TensorProto.EXTERNAL
    where = place if place != "ABSOLUTE" else str(tmp_path / "secret.bin")
    weights.external_data.add(key="location", value=where)
    value = helper.make_tensor_value_info("probabilities", TensorProto.UINT8, [16])
    node = helper.make_node("Identity", ["w"], ["probabilities"])
    graph = helper.make_graph([node], "g", [], [value], [weights])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(TutelageError, match="not a readable ONNX model"):
        OnnxModel(folder / "m.onnx")


def test_operators_of_strangers_are_refused(tmp_path: Path) -> None:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", "H", "W", 3])
    value = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])
    node = helper.make_node("Run", ["images"], ["probabilities"], domain="evil")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
    graph = helper.make_graph([node], "g", [images], [value])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(TutelageError, match="not a readable ONNX model"):
        OnnxModel(tmp_path / "m.onnx")
