import dataclasses
import errno
import json
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tutelage.models.classifier import Classifier
from tutelage.models.folder import load_model, model_folders, save_model
from tutelage.models.zoo import create, cut, join, with_levels
from tutelage.system.errors import TutelageError


def whole() -> Classifier:
    model = create("test_efficientnet", ["a", "b"], canvas=64, input_size=48, weights="none")
    model(torch.rand(4, 3, 48, 48))  # in training mode: moves the statistics off their defaults
    model.spec = dataclasses.replace(model.spec, temperature=1.3)
    return model


def student() -> Classifier:
    return cut(whole(), 3, neck=20)


def skipping() -> Classifier:
    model = create("mobilenetv3_small_050", ["a", "b"], canvas=64, input_size=48, weights="none")
    return cut(model, 4, neck=20, skipped=["blocks.3.1"])


def levelled() -> Classifier:
    return with_levels(whole())


def joint() -> Classifier:
    other = create("test_resnet", ["a", "b"], canvas=64, input_size=48, weights="none")
    return join([levelled(), cut(other, 2, neck=8), student()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(whole(), tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("make", [whole, student, skipping, levelled, joint])
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
        raise OSError(errno.ENOSPC, "no space left")

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
        (lambda t: t.pop("head.bias"), r'Missing key\(s\) in state_dict: "head\.bias"'),
        (lambda t: t.update(alien=torch.zeros(2)), r'Unexpected key\(s\) in state_dict: "alien"'),
        (lambda t: t.update({"head.weight": torch.zeros(3, 256)}),
         r"size mismatch for head\.weight: .*\[3, 256\].*\[2, 256\]"),
        (lambda t: t["head.weight"][0].fill_(float("nan")), "not finite: head.weight"),
        (lambda t: t["head.bias"].fill_(float("inf")), "not finite: head.bias"),
        (lambda t: t.update({"head.bias": torch.zeros(2).int()}), "wrong type .*: head.bias"),
        (lambda t: t.update({"head.bias": torch.zeros(2) * 1j}), "wrong type .*: head.bias"),
    ],
)  # fmt: skip
def test_tensors_that_no_model_can_work_with_are_refused(folder: Path, edit, message: str) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    with pytest.raises(TutelageError, match=f"weights do not fit .*{message}"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_incomplete_folder_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(TutelageError, match=f"not a model folder: it has no {name}"):
        load_model(folder)


def test_folders_are_separated_by_commas_unless_one_is_called_so(tmp_path: Path) -> None:
    assert model_folders("a/teacher") == ["a/teacher"]
    assert model_folders("a/teacher, b,c") == ["a/teacher", "b", "c"]
    assert model_folders(",") == [","]
    odd = tmp_path / "a,b"
    save_model(whole(), odd)
    assert model_folders(str(odd)) == [str(odd)]


class Planted:
    """What a pickle runs when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda value, p: p.write_bytes(pickle.dumps(value))])
def test_no_pickle_is_run(folder: Path, tmp_path: Path, write) -> None:
    planted = tmp_path / "planted"
    with (tmp_path / "code.pth").open("wb") as file:
        pickle.dump(Planted(planted), file)
    for path in (folder / "model.safetensors", tmp_path / "weights.pth"):
        path.unlink(missing_ok=True)
        write(Planted(planted), path)
    with pytest.raises(TutelageError, match="pickled checkpoints are not read"):
        load_model(folder)
    options = {"canvas": 64, "input_size": 48}
    with pytest.raises(TutelageError, match="pickled checkpoints are not read"):
        create("test_efficientnet", ["a"], weights=tmp_path / "weights.pth", **options)
    with pytest.raises(TutelageError, match="timm knows no model"):
        create(str(tmp_path / "weights.pth"), ["a"], **options)
    assert not planted.exists()
    pickle.loads((tmp_path / "code.pth").read_bytes()).close()
    assert planted.exists()  # the trap works


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        *(({"architecture": name}, "timm knows no model")
          for name in ("hf-hub:timm/resnet18", "local-dir:/tmp", "../resnet18", "", "os")),
        ({"format": 2}, r"model\.json: .*format 2.*reads format 1"),
        ({"cut": None, "levels": [9]}, "cannot be built as described"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_told(folder: Path, changed: dict, message: str) -> None:
    spec = folder / "model.json"
    spec.write_text(json.dumps({**json.loads(spec.read_text()), **changed}))
    with pytest.raises(TutelageError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    "content",
    [struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 4) + b"[[[[", b"", b"\0" * 8,
     struct.pack("<Q", 62) + b'{"x":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,4]}}'],
)  # fmt: skip
def test_a_hostile_header_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(TutelageError, match="not a readable safetensors file"):
        load_model(folder)


@pytest.mark.parametrize("content", ["[" * 100_000, "null", "3", '{"format": 1}'])
def test_a_description_that_is_none_is_refused(folder: Path, content: str) -> None:
    (folder / "model.json").write_text(content)
    with pytest.raises(TutelageError, match=r"model\.json: "):
        load_model(folder)
