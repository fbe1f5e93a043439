import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from answering import write_model
from onnx import TensorProto, helper

from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError

IMAGE = np.zeros((4, 5, 3), dtype=np.uint8)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Means of the red and the green channel as "probabilities"."""
    return write_model(tmp_path / "tiny.onnx", most=1.0)


def written(path: Path, nodes: list, **more: list) -> Path:
    """A model of other nodes and opsets, for images like ours."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        more.get("inputs", [value("images", TensorProto.UINT8, ["N", "H", "W", 3])]),
        [value("probabilities", TensorProto.UINT8, None)],
        more.get("weights", []),
    )
    opsets = [helper.make_opsetid("", 17), *more.get("opsets", [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


class Session:
    """What answers in the place of onnxruntime's; it counts the images of each call."""

    def __init__(self, answer: float) -> None:
        self.answer, self.seen = answer, []

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.seen.append(len(feed["images"]))
        return [np.full((len(feed["images"]), 2), self.answer, dtype=np.float32)]


def test_order_is_kept_over_mixed_shapes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.deploy.runtime.BATCH", 2)
    shapes = [(4, 5), (3, 3), (4, 5), (5, 4), (4, 5), (3, 3)]
    images = [np.full((h, w, 3), i, dtype=np.uint8) for i, (h, w) in enumerate(shapes)]
    result = OnnxModel(tiny).probabilities(images)
    np.testing.assert_array_equal(result, np.arange(6.0)[:, None].repeat(2, axis=1))
    assert result.dtype == np.float32
    assert OnnxModel(tiny).probabilities([]).shape == (0, 2)


def test_large_images_make_smaller_batches(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, session = OnnxModel(tiny), Session(0.5)
    monkeypatch.setattr(model, "_session", session)
    monkeypatch.setattr("tutelage.deploy.runtime.BATCH_PIXELS", 50)
    model.probabilities([IMAGE] * 5)
    model.probabilities([np.zeros((9, 9, 3), dtype=np.uint8)] * 2)
    assert session.seen == [2, 2, 1, 1, 1]


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
        OnnxModel(tiny).probabilities([IMAGE, image])


def changed(tiny: Path, **metadata: str) -> Path:
    """The same file with other metadata."""
    model = onnx.load(str(tiny))
    known = {entry.key: entry.value for entry in model.metadata_props}
    given = {f"tutelage.{name}": value for name, value in metadata.items()}
    helper.set_model_props(model, {**known, **given})
    onnx.save(model, str(tiny))
    return tiny


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("classes", text) for text in ("3", '"ab"', "[1, 2]", "[]", '["a", "a"]')),
        ("classes", "[" * 100_000),
        ("temperature", "warm"),
        ("input_size", "big"),
        *(("unknown_threshold", text) for text in ('"x"', "[]")),
        *(("decision_threshold", text) for text in ("0.3", '["nobody", 0.3]', '["r", 1.3]')),
    ],
    ids=lambda text: text[:12],
)
def test_metadata_of_wrong_types_is_refused(tiny: Path, name: str, value: str) -> None:
    with pytest.raises(TutelageError, match="not one of tutelage"):
        OnnxModel(changed(tiny, **{name: value}))


def test_models_without_energies_and_answers_that_are_none_are_refused(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = OnnxModel(tiny)
    monkeypatch.setattr(opened, "_session", Session(np.nan))
    with pytest.raises(TutelageError, match="expected finite values"):
        opened.probabilities([IMAGE])
    opened = OnnxModel(changed(tiny, classes=json.dumps(["a", "b", "c"])))
    with pytest.raises(TutelageError, match=r"probabilities \(1, 2\), expected .*\(1, 3\)"):
        opened.probabilities([IMAGE])
    model = onnx.load(str(tiny))
    del model.graph.output[1]
    onnx.save(model, str(tiny))
    with pytest.raises(TutelageError, match=r"gives \['features', 'probabilities'\]; expected"):
        OnnxModel(tiny)


@pytest.mark.parametrize("kind", ["foreign", "text", "absent", "evil"])
def test_other_files_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    said = {"foreign": "not one of tutelage", "absent": "no exported model"}
    if kind == "text":
        path.write_bytes(b"not a model")
    elif kind == "foreign":
        written(path, [helper.make_node("Identity", ["images"], ["probabilities"])])
    elif kind == "evil":  # operators of strangers
        node = helper.make_node("Run", ["images"], ["probabilities"], domain="evil")
        written(path, [node], opsets=[helper.make_opsetid("evil", 1)])
    with pytest.raises(TutelageError, match=said.get(kind, "not a readable ONNX model")):
        OnnxModel(path)


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
    node = helper.make_node("Identity", ["w"], ["probabilities"])
    path = written(folder / "m.onnx", [node], inputs=[], weights=[weights])
    with pytest.raises(TutelageError, match="not a readable ONNX model"):
        OnnxModel(path)
