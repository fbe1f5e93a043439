import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deployed import IMAGES, picture, small_model

from tutelage._version import __version__
from tutelage.deploy import onnx as deploy
from tutelage.deploy.graph import Deployed, TorchModel
from tutelage.deploy.onnx import export_onnx, parity
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.classifier import Classifier
from tutelage.models.zoo import create, join, with_levels
from tutelage.system.errors import TutelageError

CLASSES = ["Ameise", 'bee "x", <y>', "蜂"]
NAMES = ("test_efficientnet", "test_resnet")


@pytest.fixture(scope="module")
def model() -> Classifier:
    return small_model(
        CLASSES, temperature=1.25, unknown_threshold=-0.5, decision_threshold=(CLASSES[1], 0.3)
    )


@pytest.fixture(scope="module")
def exported(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "deep" / "student.onnx"
    export_onnx(model, path)
    return path


def test_graph_equals_torch(model: Classifier, exported: Path) -> None:
    opened, deployed, beside = OnnxModel(exported), Deployed(model), TorchModel(model)
    assert opened.classes == beside.classes == tuple(CLASSES)
    for image in IMAGES:
        expected, energy, features = deployed(torch.tensor(image)[None])
        found, their_energy, their_features = opened.look([image])
        assert (found.shape, their_energy.shape) == ((1, 3), (1,))
        np.testing.assert_allclose(found, expected, atol=1e-3)
        np.testing.assert_allclose(their_energy, energy, atol=1e-2)
        np.testing.assert_allclose(their_features, features, atol=1e-2)
        np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-5)
        for ours, theirs in zip(opened.answers([image]), (found, their_energy), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(opened.probabilities([image]), found)
        for ours, theirs in zip(beside.answers([image]), (found, their_energy), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-2)


@pytest.mark.parametrize("names", [NAMES[:1], NAMES])
def test_trunks_and_middle_stages_that_a_head_looks_at_are_exported(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    options = {"canvas": 48, "input_size": 40, "weights": "none"}
    model = with_levels(join([create(name, CLASSES, **options) for name in names])).eval()
    torch.nn.init.normal_(model.head.weight)
    export_onnx(model, tmp_path / "model.onnx")
    assert OnnxModel(tmp_path / "model.onnx").metadata["tutelage.architecture"] == "+".join(names)
    found = OnnxModel(tmp_path / "model.onnx").probabilities(IMAGES)
    expected = [Deployed(model)(torch.tensor(image)[None])[0][0] for image in IMAGES]
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=1e-3)
    assert np.ptp(found, axis=0).max() > 0.01


def test_batches_equal_single_images_and_keep_the_order(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.deploy.runtime.BATCH", 2)
    images = [IMAGES[i] for i in (1, 0, 1, 2, 0, 5, 1)]
    images[2] = picture(80, 120, seed=99)
    model = OnnxModel(exported)
    together = model.probabilities(images)
    alone = np.concatenate([model.probabilities([image]) for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert np.ptp(together, axis=0).max() > 0.01  # the images do differ
    _, energies = model.answers(images)
    alone = np.concatenate([model.answers([image])[1] for image in images])
    np.testing.assert_allclose(energies, alone, atol=1e-5)
    assert np.ptp(energies) > 0.01


def test_parity_refuses_another_model(model: Classifier, exported: Path) -> None:
    result = parity(model, exported, IMAGES)
    assert (result.n, result.top1_agreement) == (len(IMAGES), 1.0)
    assert result.max_difference < 1e-3
    other = copy.copy(model)
    other.spec = dataclasses.replace(model.spec, temperature=2.0)
    with pytest.raises(TutelageError, match="differs from torch"):
        parity(other, exported, IMAGES)
    with pytest.raises(TutelageError, match="at least one image"):
        parity(model, exported, [])


def test_a_tie_is_forgiven_and_a_changed_answer_within_the_tolerance_is_not() -> None:
    ours = np.array([[0.4001, 0.3999, 0.2]], dtype=np.float32)
    assert deploy.agreement("m.onnx", ours, ours[:, [1, 0, 2]]).top1_agreement == 0.0
    before, after = (np.array([[p, 1 - p]], dtype=np.float32) for p in (0.5104, 0.4999))
    with pytest.raises(TutelageError, match=r"top-1 equal on 0\.0% of 1 images"):
        deploy.agreement("m.onnx", before, after)


def test_metadata(model: Classifier, exported: Path) -> None:
    read = {p.key: p.value for p in onnx.load(str(exported)).metadata_props}
    assert json.loads(read["tutelage.classes"]) == CLASSES
    assert read["tutelage.version"] == __version__
    assert float(read["tutelage.temperature"]) == 1.25
    opened = OnnxModel(exported)
    assert (opened.temperature, opened.input_size) == (1.25, 40)
    assert opened.unknown_threshold == TorchModel(model).unknown_threshold == -0.5
    assert opened.decision_threshold == TorchModel(model).decision_threshold == (CLASSES[1], 0.3)
    assert opened.metadata == read
    assert int(read["tutelage.parameters"]) == sum(p.numel() for p in model.parameters())


def test_sizes_are_dynamic_and_the_graph_is_one_file(exported: Path) -> None:
    graph = onnx.load(str(exported)).graph
    (images,), (probabilities, energy, features) = graph.input, graph.output
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = images.type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", "H", "W", 3]
    # Programs read the first output; what is new comes after it.
    names = [output.name for output in (probabilities, energy, features)]
    assert names == ["probabilities", "energy", "features"]
    shapes = [
        [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
        for output in (energy, features)
    ]
    assert shapes == [["N"], ["N", 16]]
    assert [p.name for p in exported.parent.iterdir()] == [exported.name]


def test_export_works_for_a_model_in_training_and_leaves_it_there(tmp_path: Path) -> None:
    training = small_model(CLASSES).train()
    export_onnx(training, tmp_path / "m.onnx")
    assert training.training
    assert parity(training.eval(), tmp_path / "m.onnx", IMAGES[:2]).n == 2


def test_failed_export_leaves_the_old_file(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")

    def broken(*args: object) -> bytes:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(deploy, "trace", broken)
    with pytest.raises(TutelageError, match=r"cannot be exported.*no such operator"):
        export_onnx(model, path)
    assert path.read_bytes() == b"old"


WITHOUT_TORCH = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "onnx", "pyarrow", "safetensors"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocker())
import numpy as np
from tutelage.deploy.runtime import OnnxModel
from tutelage.deploy.bench import onnx_latency
model = OnnxModel(sys.argv[1])
probabilities = model.probabilities([np.load(sys.argv[2])])
onnx_latency(sys.argv[1])
assert "torch" not in sys.modules
np.save(sys.argv[3], probabilities)
"""


def test_runs_where_torch_cannot_be_imported(exported: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", IMAGES[1])
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, exported]
    subprocess.run(
        [*command, tmp_path / "image.npy", tmp_path / "p.npy"],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    expected = OnnxModel(exported).probabilities([IMAGES[1]])
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), expected)


def test_the_loss_is_what_changed_answers_cost() -> None:
    before = np.array([[0.6, 0.4], [0.9, 0.1], [0.3, 0.7]])
    after = np.array([[0.4, 0.6], [0.8, 0.2], [0.3, 0.7]])
    assert deploy.estimated_loss(before, after) == pytest.approx(0.2 / 3)
    assert deploy.estimated_loss(before, before) == 0.0
