import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from deployed import IMAGES, picture, small_model
from PIL import Image
from shown import DOCS

from tutelage.deploy.description import write_description
from tutelage.deploy.golden import golden_folder, write_golden
from tutelage.deploy.graph import Deployed
from tutelage.deploy.onnx import export_onnx
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.classifier import Classifier
from tutelage.system.errors import TutelageError


@pytest.fixture(scope="module")
def model() -> Classifier:
    return small_model(["a", "b", "c"], temperature=1.25, decision_threshold=("b", 0.3))


@pytest.fixture(scope="module")
def exported(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "model.onnx"
    export_onnx(model, path)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def test_golden_images_come_with_all_that_a_port_makes_of_them(
    model: Classifier, exported: Path
) -> None:
    folder = write_golden(model, exported, [*IMAGES, *IMAGES])
    assert folder == exported.parent / "golden" == golden_folder(exported)
    told = json.loads((folder / "golden.json").read_text())
    assert (told["model"], told["tolerance"], len(told["images"])) == ("model.onnx", 0.02, 10)
    opened, deployed = OnnxModel(exported), Deployed(model)
    named = {"golden.json"}
    for row in told["images"]:
        image, canvas = pixels(folder / row["image"]), pixels(folder / row["canvas"])
        view = np.fromfile(folder / row["view"], dtype="<f4").reshape(1, 3, 40, 40)
        height, width = image.shape[:2]
        expected = deployed.view(torch.tensor(canvas)[None], torch.tensor([width / height]))
        np.testing.assert_array_equal(view, expected)
        resized = Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(canvas, np.asarray(resized))
        probabilities, energy = opened.answers([image])
        np.testing.assert_allclose(row["probabilities"], probabilities[0], atol=1e-6)
        assert row["energy"] == pytest.approx(float(energy[0]), abs=1e-5)
        assert (row["label"] == "b") == (row["probabilities"][1] >= 0.3)
        named |= {row["image"], row["canvas"], row["view"]}
    assert named == {path.name for path in folder.iterdir()}
    assert {"b"} < {row["label"] for row in told["images"]}


def test_the_documented_preprocessing_makes_the_golden_canvas_and_view(
    model: Classifier, exported: Path
) -> None:
    page = (DOCS / "deployment.md").read_text("utf-8")
    (snippet,) = re.findall(r"```\n(import numpy\n.*?)```", page, re.S)
    described = write_description(exported, model.spec, 1)
    folder = write_golden(model, exported, IMAGES)
    for row in json.loads((folder / "golden.json").read_text())["images"]:
        names = {
            "pixels": pixels(folder / row["image"]),
            "description": json.loads(described.read_text()),
        }
        exec(snippet, names)
        assert np.abs(names["squashed"] - pixels(folder / row["canvas"])).max() <= 1
        view = np.fromfile(folder / row["view"], dtype="<f4").reshape(1, 3, 40, 40)
        np.testing.assert_allclose(names["view"], view, atol=0.004)


def test_images_that_are_alike_and_large_become_small_and_of_several_shapes(
    model: Classifier, exported: Path
) -> None:
    folder = write_golden(model, exported, [picture(900, 900, seed) for seed in range(3)])
    rows = json.loads((folder / "golden.json").read_text())["images"]
    shapes = [pixels(folder / row["image"]).shape for row in rows]
    assert shapes == [(640, 640, 3), (640, 427, 3), (427, 640, 3)]


def test_the_folder_of_another_model_and_of_nobody_stay_as_they_are(
    model: Classifier, exported: Path, tmp_path: Path
) -> None:
    write_golden(model, exported, IMAGES[:1])
    other = exported.with_name("other.onnx")
    with pytest.raises(TutelageError, match=r"golden is that of model\.onnx; export other\.onnx"):
        write_golden(model, other, IMAGES[:1])
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "notes.txt").write_text("mine")
    with pytest.raises(TutelageError, match="golden is of no exported model; "):
        golden_folder(tmp_path / "model.onnx")
