import json
import time
from pathlib import Path

import numpy as np
import pytest
from answering import write_model

from tutelage import cli
from tutelage.deploy import bench as latency
from tutelage.deploy.bench import bench_model, describe, latencies
from tutelage.system.errors import TutelageError


def test_calls_take_turns_and_known_times_have_their_median_and_fifth_percentile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, order = [0.0], []
    waits = iter([0.5, 0.5, 0.001, 0.002, 0.003, 0.004, 0.005])
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(latency, "WARMUP", 2)

    def slow() -> None:
        order.append("a")
        now[0] += next(waits)

    result, free = latencies([slow, lambda: order.append("b")], runs=5)
    assert result.p50_ms == pytest.approx(3.0)
    assert result.p05_ms == pytest.approx(1.2)
    assert (result.runs, free.p50_ms) == (5, 0)
    assert "".join(order) == "aabb" + "ab" * 5


def test_every_model_is_measured_at_both_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [write_model(tmp_path / name) for name in ("a.onnx", "b.onnx")]
    assert cli.main(["bench", *map(str, models), "--runs", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in result["models"]] == [str(path) for path in models]
    for row, path in zip(result["models"], models, strict=True):
        assert row["bytes"] == path.stat().st_size
        assert (row["parameters"], row["input_size"], row["image"]) == (7, 8, 8)
        for found in row["batches"].values():
            assert 0 < found["latency_ms_p05"] <= found["latency_ms_p50"]
            assert found["memory_bytes"] is None or found["memory_bytes"] >= 0
        assert set(row["batches"]) == {"1", "32"}
    assert cli.main(["bench", str(models[0]), "--runs", "1", "--size", "300"]) == 0
    assert "a.onnx" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "said"), [(310_400, "310 kB"), (999_400, "999 kB"), (4_840_000, "4.8 MB")]
)
def test_small_sizes_are_not_rounded_to_nothing(count: int, said: str, tmp_path: Path) -> None:
    batch = {"latency_ms_p50": 1.0, "latency_ms_p05": 0.9, "memory_bytes": count}
    model = {"path": "very/" * 9 + "m.onnx", "bytes": count, "batches": {"1": batch, "32": batch}}
    row = describe({"threads": 1, "runs": 5, "models": [model]}).splitlines()[-1]
    assert row.count(said) == 2
    assert row.split()[0] == "...ry/very/very/very/very/m.onnx"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks the kernel of Linux")
def test_larger_images_take_longer_and_their_memory_is_not_hidden_by_that_of_this_process(
    tmp_path: Path,
) -> None:
    held = np.ones(300_000_000, dtype=np.uint8)  # a child inherits its ru_maxrss
    assert held[-1]
    model = write_model(tmp_path / "a.onnx")
    small, large = (bench_model([model], size=s, runs=5)["models"][0]["batches"] for s in (8, 1000))
    assert large["1"]["latency_ms_p05"] > 3 * small["1"]["latency_ms_p05"], (
        "a million pixels, or 64"
    )
    # 32 images of a million pixels are 96 MB, and floats of them four times that.
    assert large["32"]["memory_bytes"] > 50e6


def test_what_it_refuses(tmp_path: Path) -> None:
    model = write_model(tmp_path / "a.onnx")
    with pytest.raises(TutelageError, match="each must be at least 1"):
        bench_model([model], threads=0)
    with pytest.raises(TutelageError, match="no model"):
        bench_model([])
