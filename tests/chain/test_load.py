"""The teachers that a command is given."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("timm")

import silent_checks
import timm
import torch

from tutelage.chain.load import given_teachers
from tutelage.config import make_config
from tutelage.models.classifier import Classifier
from tutelage.models.folder import save_model
from tutelage.models.zoo import create, cut, join
from tutelage.system.errors import TutelageError

PAIR = "test_efficientnet,test_resnet"


def test_distill_takes_several_teachers_in_the_order_given(finished: Path, tmp_path: Path) -> None:
    names = [str(finished / name) for name in ("teacher", "student")]

    def given(*folders: str) -> list[Any]:
        config = make_config("distill", {"teacher": ",".join(folders)})
        return given_teachers(config)

    cuts = [[teacher.spec.cut for teacher in given(*order)] for order in (names, names[::-1])]
    assert cuts[0] == cuts[1][::-1]
    assert cuts[0][0] is None
    with pytest.raises(TutelageError, match="'nowhere' is no model folder"):
        given(names[0], "nowhere")
    other = tmp_path / "other"
    shutil.copytree(names[0], other)
    text = (other / "model.json").read_text().replace("disc", "ring")
    (other / "model.json").write_text(text)
    with pytest.raises(TutelageError, match=r"first teacher knows disc, .*other knows ring"):
        given(names[0], str(other))


# --- several trunks as one


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Loads the trunks of a run with such settings."""
    opened = []

    def load(**settings: Any) -> Classifier:
        opened.append(
            silent_checks.prepared(tmp_path, monkeypatch, f"run{len(opened)}", **settings)
        )
        return opened[-1].base

    yield load
    for run in opened:
        run.close()


def test_several_names_are_one_frozen_teacher_with_all_middle_stages(loaded: Any) -> None:
    base = loaded(teacher=PAIR)
    assert base.spec.architecture == "test_efficientnet+test_resnet"
    assert base.is_frozen
    assert (base.spec.input_size, base.spec.canvas) == (32, 32)
    assert base.spec.classes == ("ant", "bee")
    for member in base.spec.members:
        assert member.mean == timm.get_pretrained_cfg(member.architecture).mean
        assert member.levels
    assert not loaded(teacher=PAIR, features="last").spec.has_levels


def test_a_model_folder_may_be_among_them(loaded: Any, tmp_path: Path) -> None:
    options = {"canvas": 48, "input_size": 48, "weights": "none"}
    small = cut(create("test_resnet", ["x", "y", "z"], **options), 2, neck=8)
    both = join([small, create("test_convnext", ["x", "y", "z"], **options)])
    for name, model in (("small", small), ("both", both)):
        save_model(model, tmp_path / name)
    base = loaded(teacher=f"{tmp_path / 'small'},{tmp_path / 'both'}", weights=None)
    names = ["test_resnet", "test_resnet", "test_convnext"]
    assert [member.architecture for member in base.spec.members] == names
    assert [member.cut for member in base.spec.members] == [2, 2, None]
    saved, found = both.state_dict(), base.state_dict()
    for name, value in saved.items():
        if name.startswith("trunk.members."):
            number = int(name.split(".")[2])
            ours = found[name.replace(f".{number}.", f".{number + 1}.", 1)]
            assert (ours == value).all(), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": PAIR, "weights": "w.safetensors"}, "--teacher names 2; leave --weights out"),
        ({"teacher": "test_efficientnet,test_resnett"}, "did you mean .*test_resnet"),
        (
            {"teacher": "xcit_nano_12_p16_224,xcit_nano_12_p16_384", "input_size": None},
            "xcit_nano_12_p16_224 224, xcit_nano_12_p16_384 384 pixels.*one with --input-size",
        ),
    ],
)
def test_trunks_that_cannot_look_together_are_refused(
    settings: dict[str, Any], message: str, loaded: Any
) -> None:
    with pytest.raises(TutelageError, match=message):
        loaded(**settings)


def test_all_look_at_the_size_of_the_one_that_takes_no_other(loaded: Any) -> None:
    base = loaded(teacher="test_efficientnet,levit_128s", input_size=None)
    size = timm.get_pretrained_cfg("levit_128s").input_size[-1]
    assert size != timm.get_pretrained_cfg("test_efficientnet").input_size[-1]
    assert base.spec.input_size == size
    assert base(torch.rand(1, 3, size, size)).shape == (1, 2)


def test_several_look_at_a_size_that_each_of_them_takes(loaded: Any) -> None:
    base = loaded(teacher="test_efficientnet,vit_tiny_patch16_384", input_size=None)
    size = base.spec.input_size
    assert size == loaded(teacher="test_efficientnet", input_size=None).spec.input_size
    assert size % 16 == 0  # the second's patch
    assert base(torch.rand(1, 3, size, size)).shape == (1, 2)
