"""What lies beside an exported file for other runtimes."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from deployed import IMAGES, SIZES, picture, small_model
from PIL import Image
from shown import DOCS

from tutelage._version import __version__
from tutelage.deploy.graph import Deployed
from tutelage.deploy.onnx import export_onnx, parity
from tutelage.deploy.portable import (
    canvas_and_view,
    export_portable,
    export_view,
    golden_folder,
    squash_by_matrices,
    view_parity,
    write_description,
    write_golden,
)
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.classifier import Classifier
from tutelage.models.zoo import create, join, with_levels
from tutelage.system.errors import TutelageError

STRETCHED = [(20, 600), (600, 20), (700, 500)]  # to less and to more pixels at once; to fewer


@pytest.fixture(scope="module")
def model() -> Classifier:
    known = {"unknown_threshold": -0.5, "decision_threshold": ("b", 0.3)}
    return small_model(["a", "b", "c"], temperature=1.25, **known)


@pytest.fixture(scope="module")
def files(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the usual file, the portable one and the view's."""
    folder = tmp_path_factory.mktemp("forms") / "deep"
    export_onnx(model, folder / "usual.onnx")
    export_portable(model, folder / "portable.onnx")
    export_view(model, folder / "view.onnx")
    return folder


TIES = [(32, 32), (28, 28), (8, 8)]  # to 48 pixels: every tenth sum lies between two grey levels


@pytest.mark.parametrize("size", [*SIZES, *STRETCHED, *TIES])
def test_matrices_squash_as_pillow_does_pass_by_pass(size: tuple[int, int]) -> None:
    image = picture(*size)
    narrow = Image.fromarray(image).resize((48, size[0]), Image.Resampling.BILINEAR)
    expected = np.asarray(narrow.resize((48, 48), Image.Resampling.BILINEAR)).astype(int)
    found = squash_by_matrices(torch.tensor(image)[None], 48)[0].permute(1, 2, 0).numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_the_portable_file_gives_the_usual_answers(model: Classifier, files: Path) -> None:
    images = [*IMAGES, *(picture(*size) for size in STRETCHED)]
    usual, same = OnnxModel(files / "usual.onnx"), OnnxModel(files / "portable.onnx")
    assert same.metadata == usual.metadata
    for ours, theirs in zip(same.answers(images), usual.answers(images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
        assert np.ptp(theirs, axis=0).max() > 0.01  # the images do differ
    batch = [picture(30, 50, seed) for seed in range(3)]
    alone = np.concatenate([same.probabilities([image]) for image in batch])
    np.testing.assert_allclose(same.probabilities(batch), alone, atol=1e-6)
    result = parity(model, files / "portable.onnx", images)
    assert (result.n, result.top1_agreement) == (len(images), 1.0)


def test_the_portable_graph_has_what_old_runtimes_know(files: Path) -> None:
    read = onnx.shape_inference.infer_shapes(onnx.load(str(files / "portable.onnx")))
    assert [(opset.domain, opset.version) for opset in read.opset_import] == [("", 13)]
    # OpenVINO skips the antialiasing of one, and takes the other over the whole batch.
    assert not {"Resize", "ReduceLogSumExp"} & {node.op_type for node in read.graph.node}
    uint8 = onnx.TensorProto.UINT8
    (images,) = read.graph.input
    assert images.type.tensor_type.elem_type == uint8
    assert not [v.name for v in read.graph.value_info if v.type.tensor_type.elem_type == uint8]
    # The cast alone reads the pixels; the two others read their number.
    readers = {node.op_type for node in read.graph.node if images.name in node.input}
    assert readers == {"Cast", "Shape"}


def test_the_view_file_takes_what_training_saw(model: Classifier, files: Path) -> None:
    read = onnx.load(str(files / "view.onnx"))
    assert [(opset.domain, opset.version) for opset in read.opset_import] == [("", 10)]
    session = onnxruntime.InferenceSession(files / "view.onnx")
    told = [(i.name, i.type, i.shape) for i in (*session.get_inputs(), *session.get_outputs())]
    assert told == [
        ("view", "tensor(float)", [1, 3, 40, 40]),
        ("probabilities", "tensor(float)", [1, 3]),
        ("energy", "tensor(float)", [1]),
    ]
    for image in IMAGES:
        expected = Deployed(model)(torch.tensor(image)[None])[:2]
        _, view = canvas_and_view(Deployed(model), image)
        assert 0 <= view.min() <= view.max() <= 1
        found = session.run(["probabilities", "energy"], {"view": view.numpy()})
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert view_parity(model, files / "view.onnx", IMAGES).max_difference < 1e-5
    with pytest.raises(TutelageError, match="expected uint8 images"):
        OnnxModel(files / "view.onnx")


@pytest.mark.parametrize("trunks", [("test_efficientnet", "test_resnet"), ("test_vit",)])
def test_several_trunks_and_transformers_are_exported_in_both_forms(
    trunks: tuple[str, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    options = {"canvas": 48, "input_size": 48, "weights": "none"}
    created = [create(name, ["a", "b"], **options) for name in trunks]
    model = (with_levels(join(created)) if len(created) > 1 else created[0]).eval()
    torch.nn.init.normal_(model.head.weight)
    export_portable(model, tmp_path / "portable.onnx")
    export_view(model, tmp_path / "view.onnx")
    assert parity(model, tmp_path / "portable.onnx", IMAGES).n
    assert view_parity(model, tmp_path / "view.onnx", IMAGES).n


def test_a_view_file_that_answers_otherwise_is_refused(files: Path) -> None:
    hot = small_model(["a", "b", "c"], temperature=1.3)
    with pytest.raises(TutelageError, match=r"view\.onnx differs from torch: .*allowed 0\.001\)"):
        view_parity(hot, files / "view.onnx", IMAGES)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def test_golden_images_come_with_all_that_a_port_makes_of_them(
    model: Classifier, files: Path
) -> None:
    exported = files / "usual.onnx"
    folder = write_golden(model, exported, [*IMAGES, *IMAGES])
    assert folder == files / "golden" == golden_folder(exported)
    told = json.loads((folder / "golden.json").read_text())
    assert (told["model"], told["tolerance"], len(told["images"])) == ("usual.onnx", 0.02, 10)
    opened, deployed = OnnxModel(exported), Deployed(model)
    named = {"golden.json"}
    for row in told["images"]:
        image, canvas = pixels(folder / row["image"]), pixels(folder / row["canvas"])
        view = np.fromfile(folder / row["view"], dtype="<f4").reshape(1, 3, 40, 40)
        height, width = image.shape[:2]
        expected = deployed.view(torch.tensor(canvas)[None], torch.tensor([width / height]))
        np.testing.assert_array_equal(view, expected)
        resized = Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(canvas, np.asarray(resized))
        probabilities, energy = opened.answers([image])
        np.testing.assert_allclose(row["probabilities"], probabilities[0], atol=1e-6)
        assert row["energy"] == pytest.approx(float(energy[0]), abs=1e-5)
        assert (row["label"] == "b") == (row["probabilities"][1] >= 0.3)
        named |= {row["image"], row["canvas"], row["view"]}
    assert named == {path.name for path in folder.iterdir()}
    assert {"b"} < {row["label"] for row in told["images"]}


def test_the_documented_preprocessing_makes_the_golden_canvas_and_view(
    model: Classifier, files: Path
) -> None:
    page = (DOCS / "deployment.md").read_text("utf-8")
    (snippet,) = re.findall(r"```\n(import numpy\n.*?)```", page, re.S)
    described = write_description(files / "usual.onnx", model.spec, 1)
    folder = write_golden(model, files / "usual.onnx", IMAGES)
    for row in json.loads((folder / "golden.json").read_text())["images"]:
        names = {
            "pixels": pixels(folder / row["image"]),
            "description": json.loads(described.read_text()),
        }
        exec(snippet, names)
        assert np.abs(names["squashed"] - pixels(folder / row["canvas"])).max() <= 1
        view = np.fromfile(folder / row["view"], dtype="<f4").reshape(1, 3, 40, 40)
        np.testing.assert_allclose(names["view"], view, atol=0.004)


def test_images_that_are_alike_and_large_become_small_and_of_several_shapes(
    model: Classifier, files: Path
) -> None:
    large = [picture(900, 900, seed) for seed in range(3)]
    folder = write_golden(model, files / "usual.onnx", large)
    rows = json.loads((folder / "golden.json").read_text())["images"]
    shapes = [pixels(folder / row["image"]).shape for row in rows]
    assert shapes == [(640, 640, 3), (640, 427, 3), (427, 640, 3)]


def test_the_folder_of_another_model_and_of_nobody_stay_as_they_are(
    model: Classifier, files: Path, tmp_path: Path
) -> None:
    write_golden(model, files / "usual.onnx", IMAGES[:1])
    with pytest.raises(TutelageError, match=r"golden is that of usual\.onnx; export other\.onnx"):
        write_golden(model, files / "other.onnx", IMAGES[:1])
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "notes.txt").write_text("mine")
    with pytest.raises(TutelageError, match="golden is of no exported model; "):
        golden_folder(tmp_path / "model.onnx")


def test_the_description_holds_what_a_port_needs(tmp_path: Path) -> None:
    thresholds = {"unknown_threshold": -0.5, "decision_threshold": ("bee", 0.3)}
    spec = small_model(["蜂", "bee"], temperature=1.25, **thresholds).spec
    view = tmp_path / "elsewhere" / "a.b.view.onnx"
    path = write_description(tmp_path / "a.b.onnx", spec, 700, view=view)
    assert path == tmp_path / "a.b.onnx.json"
    text = path.read_text("utf-8")
    assert "蜂" in text
    assert json.loads(text) == {
        "format": 1,
        "tutelage": __version__,
        "architecture": "tf_efficientnet_lite0",
        "parameters": 700,
        "classes": ["蜂", "bee"],
        "files": {"onnx": "a.b.onnx", "portable": None, "view": "a.b.view.onnx"},
        "canvas": 48,
        "input_size": 40,
        "crop_pct": spec.crop_pct,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "temperature": 1.25,
        "unknown_threshold": -0.5,
        "decision_threshold": ["bee", 0.3],
    }
    plain = write_description(tmp_path / "m.onnx", small_model(["a", "b"]).spec, 1)
    fields = json.loads(plain.read_text("utf-8"))
    assert fields["unknown_threshold"] is fields["decision_threshold"] is None
