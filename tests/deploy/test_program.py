import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from deployed import IMAGES, picture, small_model

from tutelage.deploy import program
from tutelage.deploy.graph import Deployed
from tutelage.deploy.onnx import parity
from tutelage.deploy.program import export_torch, probabilities
from tutelage.models.classifier import Classifier
from tutelage.models.spec import ModelSpec
from tutelage.system.errors import TutelageError


@pytest.fixture(scope="module")
def model() -> Classifier:
    return small_model(["a", "b", "c"], temperature=1.25)


@pytest.fixture(scope="module")
def exported(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "deep" / "student.pt2"
    export_torch(model, path)
    return path


def test_images_of_every_shape_and_batches_give_the_models_answers(
    model: Classifier, exported: Path
) -> None:
    module, deployed = torch.export.load(exported).module(), Deployed(model)
    batches = [image[None] for image in IMAGES]
    batches.append(np.stack([picture(30, 50, seed) for seed in range(3)]))
    for batch in map(torch.tensor, batches):
        found, energy = module(batch)
        expected = deployed(batch)
        torch.testing.assert_close(found, expected.probabilities, atol=5e-3, rtol=0)
        torch.testing.assert_close(energy, expected.energy, atol=3e-2, rtol=0)


def test_parity_is_checked_and_a_wrong_file_refused(model: Classifier, exported: Path) -> None:
    result = parity(model, exported, IMAGES, lambda images: probabilities(exported, images))
    assert result.n == len(IMAGES)
    assert result.mean_difference <= result.max_difference < 0.02
    hot = copy.deepcopy(model)
    hot.spec = dataclasses.replace(model.spec, temperature=9.0)
    with pytest.raises(TutelageError, match="differs from torch"):
        parity(hot, exported, IMAGES, lambda images: probabilities(exported, images))


def test_the_file_says_what_model_it_is(model: Classifier, exported: Path) -> None:
    extra = {program.SPEC: ""}
    torch.export.load(exported, extra_files=extra)
    assert ModelSpec.from_json(extra[program.SPEC]) == model.spec


def test_what_cannot_be_exported_is_named_and_leaves_no_file(
    model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(TutelageError, match=r"lite0 cannot be exported .*no such.*--format onnx"):
        export_torch(model, tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []
