"""Which files answer for a pool, and what travels of them."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from answering import write_model

from tutelage.deploy import find
from tutelage.deploy.find import find_model
from tutelage.deploy.label_model import ModelFiles, files_of, packed
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import MissingExtra

IMAGE = np.full((4, 6, 3), (200, 40, 90), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with an exported file."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_text("{}")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"weights")
    write_model(tmp_path / "m" / "model.onnx")
    return tmp_path / "m"


def without_torch(module: str, extra: str) -> None:
    raise MissingExtra(f"no {module}")


def test_a_model_folder_needs_torch_only_where_nothing_is_exported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.deploy.label_model.need", without_torch)
    monkeypatch.setattr(find, "need", without_torch)
    files = files_of(find_model(folder))
    assert isinstance(files.open(), OnnxModel)
    assert files == files_of(find_model(folder / "model.onnx"))
    (folder / "model.onnx").unlink()
    with pytest.raises(MissingExtra, match=r"has no exported \.onnx file: no torch"):
        files_of(find_model(folder)).open()


def test_with_torch_a_model_folder_is_its_weights(folder: Path) -> None:
    pytest.importorskip("torch")
    files = files_of(find_model(folder))
    assert not files.exported
    assert files.paths == (folder / "model.json", folder / "model.safetensors")
    exported = files_of(find_model(folder / "model.onnx"))
    assert exported.exported
    assert files.digest() != exported.digest()


def test_the_digest_is_that_of_every_byte(folder: Path) -> None:
    files = ModelFiles((folder / "model.json", folder / "model.safetensors"))
    before = files.digest()
    for path in files.paths:
        path.write_bytes(path.read_bytes() + b" ")
        assert files.digest() != before
        before = files.digest()


def test_what_travels_needs_no_file_and_leaves_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = files_of(find_model(folder / "model.onnx"))
    here = exported.open()
    travelled = pickle.loads(pickle.dumps(packed(exported, "cpu")))
    (folder / "model.onnx").unlink()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    there = travelled.open()
    assert list((tmp_path / "temporary").iterdir()) == []
    for mine, theirs in zip(
        here.finish(here.prepare([IMAGE])), there.finish(there.prepare([IMAGE])), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)  # type: ignore[arg-type]


def test_a_model_folder_travels_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    from deployed import small_model

    from tutelage.models.folder import save_model

    save_model(small_model(["a", "b"], unknown_threshold=-1.0), tmp_path / "m")
    files = files_of(find_model(tmp_path / "m"))
    here, there = files.open(), packed(files, "cpu").open()
    assert there.classes == here.classes == ("a", "b")
    for mine, theirs in zip(
        here.finish(here.prepare([IMAGE])), there.finish(there.prepare([IMAGE])), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)  # type: ignore[arg-type]
