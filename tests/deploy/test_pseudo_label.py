"""Which model labels a pool, and where the pool lies."""

from pathlib import Path

import pytest
from answering import write_model
from PIL import Image

from tutelage import api
from tutelage.deploy import pseudo_label
from tutelage.deploy.find import find_model
from tutelage.deploy.label_shards import Share
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


@pytest.mark.parametrize("share", ["0/4", "5/4", "1", "1/4/2", "-1/4", "a/b", "1/0"])
def test_a_share_that_is_none_says_what_was_expected(
    share: str, pool: Path, tmp_path: Path
) -> None:
    with pytest.raises(TutelageError, match=rf"--share {share}: expected i/n, part i of n, such"):
        api.pseudo_label("absent", pool, tmp_path / "out", share=share)


def test_ranks_divide_a_share_further(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pseudo_label._share(None) == Share(1, 1)
    assert pseudo_label._share("2/3") == Share(2, 3)
    numbers = list(range(20))
    taken = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert pseudo_label._share(None) == Share(1 + rank, 2)
        for share in ("1/3", "2/3", "3/3"):
            taken += pseudo_label._share(share).taken(numbers)  # type: ignore[arg-type]
    assert sorted(taken) == numbers  # type: ignore[type-var]


def test_a_share_with_shards_that_cannot_be_read_says_so_before_the_others_end(
    pool: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "m.onnx")
    (tmp_path / "torn.tar").write_bytes(b"no tar" * 200)
    images = [tmp_path / "torn.tar", pool]
    with pytest.raises(TutelageError, match=r"1 of 2 shards could not be read .*torn\.tar"):
        api.pseudo_label(model, images, tmp_path / "out", share="1/2", quiet=True)
    assert not (tmp_path / "out" / "label.json").exists()
