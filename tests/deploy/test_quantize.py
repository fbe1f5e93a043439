import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from deployed import IMAGES, picture, small_model

from tutelage.deploy import quantize
from tutelage.deploy.bench import Latency
from tutelage.deploy.graph import TorchModel
from tutelage.deploy.onnx import export_onnx
from tutelage.deploy.quantize import quantize_onnx, write_int8
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError

CLASSES = ["a", "b", "c"]


PICTURES = [picture(60, 50, seed) for seed in range(24)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that calls about half of the pictures unknown."""
    path = tmp_path_factory.mktemp("onnx") / "student.onnx"
    model = small_model(CLASSES, temperature=1.25, decision_threshold=("b", 0.3))
    _, energies = TorchModel(model).answers(PICTURES)
    threshold = float(np.median(energies))
    model.spec = dataclasses.replace(model.spec, unknown_threshold=threshold)
    export_onnx(model, path)
    return path


@pytest.fixture(scope="module")
def rounded(exported: Path) -> Path:
    path = exported.with_name("int8.onnx")
    write_int8(exported, path, PICTURES)
    return path


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Milliseconds at the fifth percentile that fp32 and int8 will be said to take."""
    told = [2.0, 1.0]

    def latencies(calls: list, *, runs: int) -> list[Latency]:
        for call in calls:
            call()
        return [Latency(100.0 - ms, ms, runs) for ms in told]

    monkeypatch.setattr(quantize, "latencies", latencies)
    return told


def test_the_trunk_is_in_8_bits_and_all_around_it_in_float(rounded: Path) -> None:
    model = onnx.load(str(rounded))
    weights = {t.name: t.data_type for t in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    stem, *convs = (node for node in model.graph.node if node.op_type == "Conv")
    (head,) = (node for node in model.graph.node if node.op_type == "Gemm")
    assert len(convs) > 5
    for conv in convs:
        assert weights[made_by[conv.input[1]].input[0]] == onnx.TensorProto.INT8
    for node in (stem, head):
        assert weights[node.input[1]] == onnx.TensorProto.FLOAT
    resampling = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(resampling) == 2
    for node in (stem, *resampling):
        assert all(made_by[name].op_type != "DequantizeLinear" for name in node.input[:1])
    assert [opset.domain for opset in model.opset_import] == [""]  # onnxruntime 1.15 minds others


def test_what_rounding_shifts_is_taken_back(exported: Path, rounded: Path) -> None:
    exact, ours = OnnxModel(exported), OnnxModel(rounded)
    after, before = (quantize._logits(model, PICTURES) for model in (ours, exact))
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=1e-4)
    assert ours.unknown_threshold != exact.unknown_threshold
    counts = [(m.answers(PICTURES)[1] > m.unknown_threshold).sum() for m in (exact, ours)]
    assert counts == [12, 12]
    sure = [model.probabilities(PICTURES).max(axis=1).mean() for model in (ours, exact)]
    assert sure[0] == pytest.approx(sure[1], abs=0.01)
    assert ours.temperature == pytest.approx(1.25, rel=0.1)
    fitted = {"tutelage.temperature", "tutelage.unknown_threshold"}
    assert {k for k, v in exact.metadata.items() if ours.metadata[k] != v} <= fitted


@pytest.mark.parametrize("temperature", [1.0, 1.25])
def test_the_temperature_is_fitted_anew_in_graph_and_metadata(
    temperature: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "int8.onnx"
    export_onnx(small_model(CLASSES, temperature=temperature), path)
    seen = []
    for factor in (1.0, 2.0):
        monkeypatch.setattr(quantize, "fit_temperature", lambda logits, targets, f=factor: f)
        write_int8(path, out, PICTURES[:3])
        assert OnnxModel(out).temperature == factor * temperature
        seen.append(np.log(OnnxModel(out).probabilities(PICTURES)))
    first, second = (logs - logs.mean(axis=1, keepdims=True) for logs in seen)
    np.testing.assert_allclose(second, first / 2, atol=1e-3)


def test_int8_is_written_when_faster(exported: Path, tmp_path: Path, timings: list[float]) -> None:
    path = tmp_path / "int8.onnx"
    result = quantize_onnx(exported, path, PICTURES)
    assert (result["kept"], result["path"]) == ("int8", str(path))
    assert result["int8_bytes"] == path.stat().st_size
    assert result["fp32_bytes"] == exported.stat().st_size
    assert result["top1_agreement"] >= 0.9
    assert 0 < result["max_difference"] < 0.2
    for image in IMAGES:
        probabilities, energy = OnnxModel(path).answers([image])
        assert (probabilities.shape, energy.shape) == ((1, 3), (1,))
    assert result["reason"] == (
        "int8 takes 1.0 ms an image, fp32 2.0 ms on this machine; the same answer on "
        "{top1_agreement:.1%} of 24 images, and {unknown_flips} of them unknown to only one of the "
        "two; estimated loss of accuracy {points:.1f} points, allowed 1.0"
    ).format(**result, points=100 * result["loss"])


def test_answers_are_compared_as_people_get_them() -> None:
    def opened(probabilities: list[float], energies: list[float], threshold: float | None) -> Any:
        two = np.array([[1 - p, p] for p in probabilities])
        return SimpleNamespace(
            classes=("fine", "broken"),
            decision_threshold=("broken", 0.3),
            unknown_threshold=threshold,
            answers=lambda images: (two, np.array(energies)),
        )

    exact = opened([0.1, 0.29, 0.6, 0.4], [1.0, 2.0, 3.0, 4.0], 2.5)
    ours = opened([0.1, 0.31, 0.6, 0.6], [2.0, 3.6, 4.0, 3.4], 3.5)
    found = quantize._compared(exact, ours, PICTURES[:4])
    assert found["top1_agreement"] == 0.75  # 0.31 calls it broken; 0.4 did so already
    assert found["unknown_flips"] == 2
    assert found["loss"] == pytest.approx((0.6 - 0.4) / 4)
    exact.unknown_threshold = None
    assert quantize._compared(exact, ours, PICTURES[:4])["unknown_flips"] is None


@pytest.mark.parametrize(("told", "most"), [([1.0, 2.0], 0.01), ([2.0, 1.0], -1e-9)])
def test_fp32_is_kept_when_int8_is_slower_or_changes_too_much(
    exported: Path, tmp_path: Path, timings: list[float], told: list[float], most: float
) -> None:
    timings[:] = told
    out = tmp_path / "int8.onnx"
    result = quantize_onnx(exported, out, IMAGES[:4], IMAGES, max_loss=most)
    assert (result["kept"], result["path"]) == ("fp32", str(exported))
    assert result["reason"].endswith("fp32 is kept")
    assert not out.exists()


def test_int8_needs_images(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="calibrate"):
        quantize_onnx(exported, tmp_path / "int8.onnx", [])
