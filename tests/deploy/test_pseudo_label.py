"""Which model labels a pool, and where the pool lies."""

from pathlib import Path

import pytest
from answering import write_model
from PIL import Image

from tutelage import api
from tutelage.deploy import pseudo_label
from tutelage.deploy.find import find_model
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import MissingExtra, TutelageError

pytest.importorskip("pyarrow")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    (tmp_path / "pool").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "pool" / "a.png")
    return tmp_path / "pool"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with an exported file."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_text("{}")
    write_model(tmp_path / "m" / "model.onnx")
    return tmp_path / "m"


def without_torch(module: str, extra: str) -> None:
    raise MissingExtra(f"no {module}")


def test_one_path_is_not_read_letter_by_letter(pool: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx")
    for number, images in enumerate((str(pool), pool, [pool])):
        summary = api.pseudo_label(model, images, tmp_path / f"out{number}", quiet=True)
        assert summary is not None
        assert summary["accepted"] == 1


def test_a_model_folder_needs_torch_only_where_nothing_is_exported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.deploy.pseudo_label.need", without_torch)
    monkeypatch.setattr("tutelage.deploy.find.need", without_torch)
    engine, digest = pseudo_label._opened(find_model(folder))
    assert isinstance(engine, OnnxModel)
    assert digest == pseudo_label._opened(find_model(folder / "model.onnx"))[1]
    (folder / "model.onnx").unlink()
    with pytest.raises(MissingExtra, match=r"has no exported \.onnx file: no torch"):
        pseudo_label._opened(find_model(folder))


def test_with_torch_a_model_folder_is_its_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("tutelage.deploy.pseudo_label.open_folder", lambda *given: given)
    engine, digest = pseudo_label._opened(find_model(folder))
    assert engine[0] == folder  # type: ignore[index]
    assert digest != pseudo_label._opened(find_model(folder / "model.onnx"))[1]


def test_the_model_is_looked_for_first(tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="there is no model absent"):
        api.pseudo_label("absent", "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
