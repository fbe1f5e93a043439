import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from answering import write_model
from watching import seen, write_pictures

from tutelage import api
from tutelage.data.open import open_data
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_parquet
from tutelage.watch.look import Seen
from tutelage.watch.reference import (
    MOST,
    Reference,
    add_int8_reference,
    load_reference,
    make_reference,
    save_reference,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return OnnxModel(write_model(tmp_path_factory.mktemp("model") / "m.onnx", threshold=0.5))


def of_model(images: Seen, labels: np.ndarray, classes: tuple[str, ...] = ("r", "g")) -> Reference:
    images["predicted"] %= 2
    return Reference(images, np.arange(len(labels)), labels, "test images", False, classes)


def assert_equal(one: Reference, other: Reference) -> None:
    for field in dataclasses.fields(Reference):
        was, now = (getattr(reference, field.name) for reference in (one, other))
        np.testing.assert_array_equal(was, now)


def test_a_reference_is_made_saved_and_loaded(model: OnnxModel, tmp_path: Path) -> None:
    catalog = open_data(write_pictures(tmp_path / "data", 24))[0]
    (tmp_path / "data" / "r" / "000.png").write_bytes(b"")
    rows, labels = np.arange(2, 24)[::-1], np.arange(22)
    made = make_reference(model, catalog, rows, labels, "test images", learned=True)
    lost = catalog.names.index("r/000.png")
    assert lost in rows
    assert made.rows.tolist() == [row for row in rows if row != lost]
    assert made.labels.tolist() == [23 - row for row in made.rows]
    save_reference(made, model, tmp_path / "reference.npz")
    again = load_reference(tmp_path / "reference.npz", model)
    assert_equal(again, made)
    assert (again.images, again.learned, again.classes) == ("test images", True, ("r", "g"))


def test_it_is_small(model: OnnxModel, tmp_path: Path) -> None:
    save_reference(of_model(*seen(MOST)), model, tmp_path / "reference.npz")
    assert (tmp_path / "reference.npz").stat().st_size < 300_000


def test_of_many_pictures_some_are_drawn(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.watch.reference.MOST", 5)
    catalog, rows = open_data(write_pictures(tmp_path, 12))[0], np.arange(12)
    made = make_reference(model, catalog, rows, rows, "test images", learned=False)
    assert len(made.seen) == len(set(made.labels)) == 5
    assert made.labels.tolist() == sorted(made.labels)


def test_one_that_is_missing_damaged_or_of_another_model_is_refused(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reference.npz"
    with pytest.raises(TutelageError, match=r"there is no .*--reference DATA"):
        load_reference(path, model)
    path.write_bytes(b"PK")
    with pytest.raises(TutelageError, match=r"is damaged: .*--reference DATA"):
        load_reference(path, model)
    whole = of_model(*seen(30))
    wild = whole.seen.copy()
    wild["energy"][3] = np.inf
    for part, words in (
        ({"seen": whole.seen[:7]}, "its parts do not fit together"),
        ({"rows": whole.rows[:3]}, "its parts do not fit together"),
        ({"seen": whole.seen["energy"]}, "its parts do not fit together"),
        ({"seen": wild}, "its numbers are those of no image"),
        ({"classes": ("r",)}, "its numbers are those of no image"),
    ):
        save_reference(dataclasses.replace(whole, **part), model, path)
        with pytest.raises(TutelageError, match=f"is damaged: {words}"):
            load_reference(path, model)
    save_reference(dataclasses.replace(whole, classes=("r", "h")), model, path)
    with pytest.raises(TutelageError, match="belongs to another model"):
        load_reference(path, model)
    save_reference(whole, model, path)
    right = model.look  # of the same model, with coarser numbers
    monkeypatch.setattr(model, "look", lambda given: (*right(given)[:2], right(given)[2] + 0.05))
    with pytest.raises(TutelageError, match=r"belongs to another model .*int8"):
        load_reference(path, model)


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


def added(folder: Path) -> dict[str, str | None]:
    """What is entered for the int8 file."""
    int8 = {"path": str(folder / "model.int8.onnx")}
    add_int8_reference(folder, {"path": str(folder / "model.onnx"), "int8": int8})
    return int8


def test_the_same_images_are_seen_by_int8(folder: Path, tmp_path: Path) -> None:
    path = folder / "model.int8.reference.npz"
    told = added(folder)
    assert (told["reference"], told["without_reference"]) == (str(path), None)
    exact, rounded = OnnxModel(folder / "model.onnx"), OnnxModel(folder / "model.int8.onnx")
    known, made = load_reference(folder / "reference.npz", exact), load_reference(path, rounded)
    assert_equal(dataclasses.replace(made, seen=known.seen), known)
    np.testing.assert_array_equal(made.seen["pixels"], known.seen["pixels"])
    np.testing.assert_allclose(made.seen["energy"], known.seen["energy"] * 255 / 290, rtol=1e-5)
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
    assert added(folder)["without_reference"] is None


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
    told = added(folder)
    assert not (folder / "model.int8.reference.npz").exists()
    assert told["reference"] is None
    assert re.search(words, told["without_reference"] or "")


def test_pictures_that_changed_prevent_it(folder: Path, tmp_path: Path) -> None:
    greens = tmp_path / "data" / "g"
    shutil.copy(greens / "003.png", greens / "013.png")
    assert "have changed since it was made" in (added(folder)["without_reference"] or "")
