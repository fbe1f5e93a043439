"""An int8 file is compared with what it sees itself of the images of the float reference."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from answering import write_model
from watching import write_pictures

from tutelage import api
from tutelage.data.open import open_data
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_parquet
from tutelage.watch.int8 import add_reference, write_int8_reference
from tutelage.watch.reference import load_reference, make_reference, save_reference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model folder of a run, with a float model, another model for int8, and a reference."""
    folder = tmp_path / "run" / "student"
    folder.mkdir(parents=True)
    request = {"command": "run", "data": str(tmp_path / "data"), "settings": {"table": {}}}
    (tmp_path / "run" / "config.json").write_text(json.dumps({"request": request}))
    exact = OnnxModel(write_model(folder / "model.onnx", threshold=0.5))
    write_model(folder / "model.int8.onnx", threshold=0.45, most=290.0)
    catalog = open_data(write_pictures(tmp_path / "data", 30, seed=1))[0]
    catalog = catalog.select(np.delete(np.arange(30), 2))  # --decisions left this image out
    write_parquet(tmp_path / "run" / "split.parquet", {"image": [*catalog.names]})
    rows = np.arange(28, 4, -1)
    made = make_reference(exact, catalog, rows, rows % 2, "test images", learned=False)
    save_reference(made, exact, folder / "reference.npz")
    return folder


def test_the_same_images_are_seen_by_int8(folder: Path, tmp_path: Path) -> None:
    path = write_int8_reference(folder, folder / "model.onnx", folder / "model.int8.onnx")
    assert path == folder / "model.int8.reference.npz"
    exact, rounded = OnnxModel(folder / "model.onnx"), OnnxModel(folder / "model.int8.onnx")
    known, made = load_reference(folder / "reference.npz", exact), load_reference(path, rounded)
    for name in ("rows", "labels", "images", "learned", "classes"):
        np.testing.assert_array_equal(getattr(made, name), getattr(known, name))
    np.testing.assert_array_equal(made.seen.pixels, known.seen.pixels)
    np.testing.assert_allclose(made.seen.energy, known.seen.energy * 255 / 290, rtol=1e-5)
    same = write_pictures(tmp_path / "same", 30)
    assert api.watch(folder / "model.int8.onnx", same)["alarms"] == []
    assert api.watch(folder / "model.onnx", same)["alarms"] == []
    path.unlink()
    with pytest.raises(TutelageError, match=r"reference\.npz belongs to another model .*float"):
        api.watch(folder / "model.int8.onnx", same)


def test_images_that_came_or_went_besides_do_not_prevent_it(folder: Path, tmp_path: Path) -> None:
    greens = tmp_path / "data" / "g"
    for new in ("000.png", "002.png"):
        shutil.copy(greens / "003.png", greens / new)
    (greens / "001.png").unlink()
    write_int8_reference(folder, folder / "model.onnx", folder / "model.int8.onnx")


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        ("run/student/reference.npz", "student has no reference.npz"),
        ("run/config.json", "student lies in no run folder whose images can be read again"),
        ("data/r/028.png", "the images of the run .* have changed since it was made"),
        ("data/g/013.png", "the images of the run .* have changed since it was made"),
        ("run/split.parquet", r"split\.parquet is not a readable Parquet file"),
    ],
)
def test_what_prevents_it_is_told(folder: Path, tmp_path: Path, spoiled: str, words: str) -> None:
    (tmp_path / spoiled).unlink()
    int8 = str(folder / "model.int8.onnx")
    result = {"path": str(folder / "model.onnx"), "int8": {"path": int8}}
    add_reference(folder, result)
    assert not (folder / "model.int8.reference.npz").exists()
    told = result["int8"]
    assert told["reference"] is None
    assert re.search(words, told["without_reference"])
