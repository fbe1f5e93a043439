from pathlib import Path

import onnx
import pytest
from deployed import IMAGES, picture, small_model

from tutelage.deploy import quantize
from tutelage.deploy.latency import Latency
from tutelage.deploy.onnx import export_onnx
from tutelage.deploy.quantize import quantize_onnx
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError

CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "student.onnx"
    model = small_model(
        CLASSES, temperature=1.25, unknown_threshold=-0.5, decision_threshold=("b", 0.3)
    )
    export_onnx(model, path)
    return path


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Milliseconds that fp32 and int8 will be said to take."""
    told = [2.0, 1.0]

    def latencies(calls: list) -> list[Latency]:
        for call in calls:
            call()
        return [Latency(ms, ms, 1) for ms in told]

    monkeypatch.setattr(quantize, "latencies", latencies)
    return told


def test_int8_is_written_when_faster(exported: Path, tmp_path: Path, timings: list[float]) -> None:
    images = [picture(60, 50, seed) for seed in range(24)]
    result = quantize_onnx(exported, tmp_path / "int8.onnx", images)
    assert (result.kept, result.path) == ("int8", tmp_path / "int8.onnx")
    assert result.int8_bytes == result.path.stat().st_size
    assert result.fp32_bytes == exported.stat().st_size
    assert result.top1_agreement >= 0.9
    assert 0 < result.max_difference < 0.2
    assert OnnxModel(result.path).metadata == OnnxModel(exported).metadata
    graph = onnx.load(str(result.path)).graph
    weights = {t.name: t for t in graph.initializer}
    for conv in (n for n in graph.node if n.op_type == "Conv"):
        source = next(n for n in graph.node if conv.input[1] in n.output)
        assert weights[source.input[0]].data_type == onnx.TensorProto.INT8
    resampling = [n for n in graph.node if n.op_type == "MatMul"]
    exact = {o for n in graph.node if n.op_type != "DequantizeLinear" for o in n.output}
    assert len(resampling) == 2
    assert all(name in exact for n in resampling for name in n.input)
    for image in IMAGES:
        probabilities, energy = OnnxModel(result.path).answers([image])
        assert (probabilities.shape, energy.shape) == ((1, 3), (1,))


def test_fp32_is_kept_when_int8_is_slower(
    exported: Path, tmp_path: Path, timings: list[float]
) -> None:
    timings[:] = [1.0, 2.0]
    result = quantize_onnx(exported, tmp_path / "int8.onnx", IMAGES[:3])
    assert (result.kept, result.path) == ("fp32", exported)
    assert "fp32 is kept" in result.reason
    assert not (tmp_path / "int8.onnx").exists()


def test_fp32_is_kept_when_int8_changes_too_much(
    exported: Path, tmp_path: Path, timings: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = quantize_onnx(exported, tmp_path / "int8.onnx", IMAGES[:4], IMAGES, max_loss=-1e-9)
    assert result.kept == "fp32"
    assert not (tmp_path / "int8.onnx").exists()
    assert result.reason.endswith("fp32 is kept")


def test_int8_needs_images(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="calibrate"):
        quantize_onnx(exported, tmp_path / "int8.onnx", [])
