"""A model that is opened once."""

from pathlib import Path

import numpy as np
import pytest
from answering import write_model
from PIL import Image

import tutelage
from tutelage.data.decode import UnreadableImage
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError

RED = np.full((4, 5, 3), (255, 0, 0), dtype=np.uint8)
GREEN = np.full((4, 5, 3), (0, 255, 0), dtype=np.uint8)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tutelage.Model:
    for folder in ("r", "g"):
        (tmp_path / "data" / "test" / folder).mkdir(parents=True)
    Image.fromarray(RED).save(tmp_path / "data" / "test" / "r" / "red.png")
    Image.fromarray(GREEN).save(tmp_path / "data" / "test" / "g" / "green.png")
    monkeypatch.chdir(tmp_path / "data" / "test")
    return tutelage.load(write_model(tmp_path / "m.onnx", threshold=0.5))


def test_one_image_has_one_answer_and_several_have_a_list(model: tutelage.Model) -> None:
    assert model.classes == ("r", "g")
    assert repr(model) == f"<tutelage.Model {model.path}: 2 classes>"
    one = model.predict("r/red.png")
    assert (one.image, one.label, one.confidence) == ("r/red.png", "r", 1.0)
    for image in (Path("g/green.png"), GREEN, Image.fromarray(GREEN)):
        assert model.predict(image).label == "g"
    for images in (["g/green.png", RED], np.stack([GREEN, RED]), ["*/*.png"], iter([GREEN, RED])):
        assert [row.label for row in model.predict(images)] == ["g", "r"]
    assert model.predict([RED])[0].label == "r"
    assert model.predict([]) == []


def test_the_file_is_opened_once(model: tutelage.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxModel, "__init__", lambda *_: pytest.fail("opened again"))
    assert [model.predict(RED).label for _ in range(3)] == ["r", "r", "r"]


def test_it_rejects_takes_a_threshold_and_evaluates(model: tutelage.Model) -> None:
    white = np.full((4, 5, 3), 255, dtype=np.uint8)
    assert model.predict(white, reject=True).label == "unknown"
    assert [row.rejected for row in model.predict([white, RED], reject=True)] == [True, False]
    assert model.predict(white).label == "r"
    assert model.predict(RED, threshold="g=0").label == "g"
    figures = model.evaluate("..")
    assert (figures["split"], figures["n"], figures["accuracy"]) == ("test", 2, 1.0)


def test_what_it_refuses(model: tutelage.Model, tmp_path: Path) -> None:
    for several in ("..", "*/*.png"):
        with pytest.raises(TutelageError, match=r"stands for 2 images; write predict\(\["):
            model.predict(several)
    Path("torn.png").write_bytes(b"\x89PNG")
    Path("page.png").write_text("<html>")
    with pytest.raises(UnreadableImage, match=r"^page\.png: the file is not a JPEG.*damaged$"):
        model.predict("page.png")
    said = r"^2 of 3 images cannot be read and have no answer \(first: torn\.png: "
    with pytest.warns(UserWarning, match=said):
        (answer,) = model.predict([RED, "torn.png", "page.png"])
    assert answer.label == "r"
    plain = tutelage.load(write_model(tmp_path / "plain.onnx"))
    with pytest.raises(TutelageError, match=r"plain\.onnx has no threshold for unknown images"):
        plain.predict(RED, reject=True)
    with pytest.raises(TutelageError, match="there is no model absent"):
        tutelage.load("absent")


def test_the_model_and_the_images_are_looked_for_before_anything_is_opened(
    model: tutelage.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxModel, "__init__", lambda *_: pytest.fail("opened"))
    with pytest.raises(TutelageError, match="no such image or folder: absent"):
        tutelage.predict(model.path, "absent")
    with pytest.raises(TutelageError, match="there is no model absent"):
        tutelage.predict("absent", "r")
