import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tutelage.errors import TutelageError
from tutelage.models.classifier import Classifier
from tutelage.models.folder import load_model, model_folders, save_model
from tutelage.models.zoo import create, cut, with_levels


def whole() -> Classifier:
    model = create("test_efficientnet", ["a", "b"], canvas=64, input_size=48, weights="none")
    model(torch.rand(4, 3, 48, 48))  # in training mode: moves the statistics off their defaults
    model.spec = dataclasses.replace(model.spec, temperature=1.3, thresholds=(0.7, 0.9))
    return model


def student() -> Classifier:
    return cut(whole(), 3, neck=20)


def skipping() -> Classifier:
    model = create("mobilenetv3_small_050", ["a", "b"], canvas=64, input_size=48, weights="none")
    return cut(model, 4, neck=20, skipped=["blocks.3.1"])


def levelled() -> Classifier:
    return with_levels(whole())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(whole(), tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("make", [whole, student, skipping, levelled])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_round_trip_is_bitwise(make, layout: torch.memory_format, tmp_path: Path) -> None:
    model = make().to(memory_format=layout).eval()
    save_model(model, tmp_path / "deep" / "m")
    read = load_model(tmp_path / "deep" / "m")
    assert read.spec == model.spec
    assert not read.training
    expected = model.state_dict()
    assert read.state_dict().keys() == expected.keys()
    for name, tensor in read.state_dict().items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name
    x = torch.rand(2, 3, 48, 48)
    assert torch.equal(read.to(memory_format=layout)(x), model(x))


def test_folder_holds_two_files_and_saving_again_replaces_them(folder: Path) -> None:
    model = whole()
    model.spec = dataclasses.replace(model.spec, temperature=9.0)
    save_model(model, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]
    assert load_model(folder).spec.temperature == 9.0


def test_interrupted_save_keeps_the_old_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_model(whole(), folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def change(folder: Path, edit) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("head.bias"), r"1 missing: head\.bias"),
        (lambda t: t.update(alien=torch.zeros(2)), "1 not of this model: alien"),
        (
            lambda t: t.update({"head.weight": torch.zeros(3, 256)}),
            r"wrong shape: head\.weight \(3, 256\) instead of \(2, 256\)",
        ),
        (lambda t: [t.pop(n) for n in sorted(t)[:9]], r"9 missing: .*, \.\.\."),
    ],
)
def test_wrong_tensors_are_refused(folder: Path, edit, message: str) -> None:
    change(folder, edit)
    with pytest.raises(TutelageError, match=message):
        load_model(folder)


def test_unknown_format_is_refused(folder: Path) -> None:
    spec = folder / "model.json"
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "format": 2}))
    with pytest.raises(TutelageError, match=r"model\.json: .*format 2.*reads format 1"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_incomplete_folder_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(TutelageError, match=f"not a model folder: it has no {name}"):
        load_model(folder)


def test_pickle_under_the_right_name_is_refused(folder: Path) -> None:
    torch.save({}, folder / "model.safetensors")
    with pytest.raises(TutelageError, match="not a readable safetensors"):
        load_model(folder)


def test_folders_are_separated_by_commas_unless_one_is_called_so(tmp_path: Path) -> None:
    assert model_folders("a/teacher") == ["a/teacher"]
    assert model_folders("a/teacher, b,c") == ["a/teacher", "b", "c"]
    assert model_folders(",") == [","]
    odd = tmp_path / "a,b"
    save_model(whole(), odd)
    assert model_folders(str(odd)) == [str(odd)]
