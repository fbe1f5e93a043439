"""What timm loads answers as the model does, and what timm cannot build is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("timm")

import timm
import tiny
import torch
from torch import nn

from tutelage import api
from tutelage.deploy import hub
from tutelage.deploy.runtime import OnnxModel
from tutelage.models import zoo
from tutelage.models.classifier import Classifier
from tutelage.system.errors import TutelageError
from tutelage.watch.reference import load_reference

CLASSES = ("ant", "bee", "wasp")


def model(architecture: str = "test_efficientnet", temperature: float = 1.7) -> Classifier:
    torch.manual_seed(0)
    made = zoo.create(architecture, CLASSES, canvas=40, input_size=48, weights="none").eval()
    nn.init.normal_(made.head.weight)
    nn.init.normal_(made.head.bias)
    made.spec = dataclasses.replace(made.spec, temperature=temperature, crop_pct=0.9)
    return made


def pictures(count: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [tiny.smooth_image(60 + 8 * i, 80, rng) for i in range(count)]


@pytest.mark.parametrize("architecture", ["test_efficientnet", "test_resnet", "test_vit"])
def test_timm_loads_the_calibrated_model(architecture: str, tmp_path: Path) -> None:
    ours = model(architecture)
    told = hub.export_timm(ours, tmp_path / "out", pictures(), tmp_path)
    assert told["n"] == 6
    assert told["max_logit_difference"] < 1e-4
    assert (
        told["mean_difference"] <= told["max_difference"] < 0.3
    )  # a random head makes much of little
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    views = torch.rand(3, 3, 48, 48)
    with torch.no_grad():
        found = theirs((views - ours.mean) / ours.std).softmax(dim=-1)
        expected = (ours(views) / 1.7).softmax(dim=-1)
        plain = ours(views).softmax(dim=-1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_timm_s_config_and_the_card_say_how_the_model_is_used(tmp_path: Path) -> None:
    ours, out = model(), tmp_path / "out"
    hub.export_timm(ours, out, pictures(), tmp_path)
    config = json.loads((out / "config.json").read_text())
    assert config["architecture"] == "test_efficientnet"
    assert (config["num_classes"], config["label_names"]) == (3, list(CLASSES))
    assert config["num_features"] == ours.trunk.num_features
    assert "license" not in config["pretrained_cfg"]
    theirs = timm.create_model(f"local-dir:{out}", pretrained=True)
    data = timm.data.resolve_data_config({}, model=theirs)
    assert data["input_size"] == (3, 48, 48)
    assert (tuple(data["mean"]), tuple(data["std"])) == (ours.spec.mean, ours.spec.std)
    assert (data["crop_pct"], data["crop_mode"]) == (0.9, "center")
    assert data["interpolation"] == "bilinear"
    head, body = (out / "README.md").read_text().split("---\n")[1:]
    assert head.splitlines()[:2] == ["library_name: timm", "pipeline_tag: image-classification"]
    assert "license" not in head
    assert "ant, bee, wasp" in body
    assert "timm.create_model(" in body
    with pytest.raises(TutelageError, match="is an export for timm; give the model"):
        api.predict(out, [np.zeros((4, 4, 3), np.uint8)])


def test_models_that_timm_cannot_build_are_refused(tmp_path: Path) -> None:
    whole = model()
    levelled = zoo.with_levels(whole)
    assert levelled.spec.levels
    for made, why in (
        (zoo.cut(whole, 2), "it is cut after 2 stages"),
        (levelled, "its head also looks at middle stages"),
        (zoo.join([whole, whole]), "it has 2 trunks"),
    ):
        with pytest.raises(TutelageError, match=f"{why}. Export it with --format onnx or"):
            hub.export_timm(made, tmp_path / "out", pictures(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_answers_otherwise_in_timm_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model()
    logits = Classifier.logits
    monkeypatch.setattr(Classifier, "logits", lambda self, f: 1.01 * logits(self, f))
    with pytest.raises(TutelageError, match="its logits differ from timm's by"):
        hub.export_timm(made, tmp_path / "out", pictures(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    for name in ("empty", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "notes").touch()
    (tmp_path / "file").touch()
    for name in ("mine", "file"):
        with pytest.raises(TutelageError, match="there already and not empty; choose another"):
            hub.export_timm(model(), tmp_path / name, pictures(), tmp_path)
    hub.export_timm(model(), tmp_path / "empty", pictures(), tmp_path)
    assert (tmp_path / "empty" / "config.json").is_file()


@pytest.mark.usefixtures("own_cache")
def test_the_hub_s_folder_is_a_model_folder(finished: Path, photos: Path, tmp_path: Path) -> None:
    told = api.export(finished / "student", tmp_path / "out", format="hub")
    assert told["top1_agreement"] == 1
    assert told["images"] == "training images"
    names = {file.name for file in (tmp_path / "out").iterdir()}
    reference = "reference.npz"
    assert names == {"README.md", "model.json", "model.onnx", "model.safetensors", reference}
    load_reference(tmp_path / "out" / reference, OnnxModel(tmp_path / "out" / "model.onnx"))
    rows, _ = api.predict(tmp_path / "out", [photos / "test"])
    assert rows == api.predict(finished / "student", [photos / "test"])[0]
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.count("\n---\n") == 1
    assert "library_name: tutelage" in card
    assert "`tutelage watch FOLDER new_photos/`" in card
    assert "Accuracy of this model on 18 test images of its run" in card
    assert "figures are those of the student" in card
    assert "\n### What it is for\n" in card
    with pytest.raises(TutelageError, match="leave out --format hub or --int8"):
        api.export(finished / "student", tmp_path / "int8", format="hub", int8=True)
    with pytest.raises(TutelageError, match="format is 'tflite', expected one of onnx"):
        api.export(finished / "student", tmp_path / "other", format="tflite")
