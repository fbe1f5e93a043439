import dataclasses
from pathlib import Path

import numpy as np
import pytest
from answering import write_model
from watching import seen, write_pictures

from tutelage.deploy.find import FoundModel
from tutelage.deploy.images import find_images
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.watch.reference import (
    MOST,
    Reference,
    load_reference,
    make_reference,
    reference_file,
    save_reference,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return OnnxModel(write_model(tmp_path_factory.mktemp("model") / "m.onnx", threshold=0.5))


def test_a_reference_is_made_saved_and_loaded(model: OnnxModel, tmp_path: Path) -> None:
    pictures = find_images(write_pictures(tmp_path / "data", 24))
    (tmp_path / "data" / "r" / "000.png").write_bytes(b"")
    labels = np.arange(24)
    made = make_reference(model, pictures, labels, "test images", learned=True)
    lost = [picture.name for picture in pictures].index(str(tmp_path / "data" / "r" / "000.png"))
    assert made.labels.tolist() == [i for i in range(24) if i != lost]
    save_reference(made, model, tmp_path / "reference.npz")
    again = load_reference(tmp_path / "reference.npz", model)
    for field in dataclasses.fields(made.seen):
        was, now = (getattr(one.seen, field.name) for one in (made, again))
        np.testing.assert_array_equal(was, now)
        assert was.dtype == now.dtype
    assert (again.images, again.learned, again.classes) == ("test images", True, ("r", "g"))
    np.testing.assert_array_equal(again.labels, made.labels)


def test_it_is_small(model: OnnxModel, tmp_path: Path) -> None:
    images, labels = seen(MOST)
    reference = Reference(images, labels, "test images", False, model.classes)
    save_reference(reference, model, tmp_path / "reference.npz")
    assert (tmp_path / "reference.npz").stat().st_size < 300_000


def test_of_many_pictures_some_are_drawn(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.watch.reference.MOST", 5)
    pictures = find_images(write_pictures(tmp_path, 12))
    made = make_reference(model, pictures, np.arange(12), "test images", learned=False)
    assert len(made.seen) == len(set(made.labels)) == 5
    assert made.labels.tolist() == sorted(made.labels)


def test_one_that_is_missing_damaged_or_of_another_model_is_refused(
    model: OnnxModel, tmp_path: Path
) -> None:
    path = tmp_path / "reference.npz"
    with pytest.raises(TutelageError, match=r"there is no .*--reference DATA"):
        load_reference(path, model)
    path.write_bytes(b"PK")
    with pytest.raises(TutelageError, match=r"is damaged: .*--reference DATA"):
        load_reference(path, model)
    images, labels = seen(30)
    short = dataclasses.replace(images, energy=images.energy[:7])
    save_reference(Reference(short, labels, "test images", False, model.classes), model, path)
    with pytest.raises(TutelageError, match=r"is damaged: energy are float32 \(7,\)"):
        load_reference(path, model)
    other = Reference(images, labels, "test images", False, ("r", "h"))
    save_reference(other, model, path)
    with pytest.raises(TutelageError, match="belongs to another model"):
        load_reference(path, model)


def test_one_of_the_same_model_with_coarser_numbers_is_refused(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = seen(30)
    path = tmp_path / "reference.npz"
    save_reference(Reference(images, labels, "test images", False, model.classes), model, path)
    right = model.look
    monkeypatch.setattr(model, "look", lambda given: (*right(given)[:2], right(given)[2] + 0.05))
    with pytest.raises(TutelageError, match=r"belongs to another model .*int8"):
        load_reference(path, model)


def test_where_it_lies(tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    (run / "student").mkdir(parents=True)
    inside = run / "student" / "reference.npz"
    student = run / "student.onnx"
    assert reference_file(FoundModel(run, student, run / "student")) == inside
    assert reference_file(FoundModel(student, student, None)) == inside
    copied = model / "student.onnx"
    assert reference_file(FoundModel(copied, copied, None)) == model / "reference.npz"
    whole = FoundModel(model, model / "model.onnx", model)
    assert reference_file(whole) == model / "reference.npz"
