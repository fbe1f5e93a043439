"""What a model costs: the figures are those of its file and of runs that were made."""

import json
import shutil
from pathlib import Path

import pytest
from answering import write_model

from tutelage import cli
from tutelage.deploy.bench import bench_model
from tutelage.deploy.find import exported_files
from tutelage.system.errors import TutelageError


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
    ("word", "now"), [("augment", "python benchmarks/augment.py"), ("model", "bench MODEL")]
)
def test_what_bench_was_before_says_where_it_went(
    word: str,
    now: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", word, "--images", "photos"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"tutelage: bench {word} ")
    assert f"is now {now}" in error
    assert error.count("\n") == 1
    write_model(tmp_path / word)
    assert cli.main(["bench", word, "--runs", "1", "--json"]) == 0  # a model of that name


def test_larger_images_take_longer(tmp_path: Path) -> None:
    model = write_model(tmp_path / "a.onnx")
    small, large = (bench_model([model], size=s, runs=10)["models"][0] for s in (8, 1000))
    assert large["batches"]["1"]["latency_ms_p05"] > 3 * small["batches"]["1"]["latency_ms_p05"], (
        "a million pixels against sixty-four"
    )


def test_a_run_folder_stands_for_its_models(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "teacher").mkdir(parents=True)
    (run / "student").mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(TutelageError, match="is unfinished"):
        exported_files([run])
    student = write_model(run / "student.onnx")
    teacher = shutil.copy(student, run / "teacher" / "model.onnx")
    assert exported_files([run, student]) == [Path(teacher), student, student]
    int8 = shutil.copy(student, run / "student" / "model.int8.onnx")
    assert exported_files([run]) == [Path(teacher), student, Path(int8)]
    (run / "student.onnx").unlink()
    assert exported_files([run])[0] == Path(teacher)


def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="is no exported model"):
        exported_files([tmp_path / "none.onnx"])
    model = write_model(tmp_path / "a.onnx")
    with pytest.raises(TutelageError, match="each must be at least 1"):
        bench_model([model], threads=0)
    with pytest.raises(TutelageError, match="no model"):
        bench_model([])
