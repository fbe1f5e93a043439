import dataclasses
from pathlib import Path

import numpy as np
import pytest
from answering import write_model
from watching import seen, write_pictures

from tutelage.data.open import open_data
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.watch.look import Seen
from tutelage.watch.reference import (
    MOST,
    Reference,
    load_reference,
    make_reference,
    save_reference,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return OnnxModel(write_model(tmp_path_factory.mktemp("model") / "m.onnx", threshold=0.5))


def of_model(images: Seen, labels: np.ndarray, classes: tuple[str, ...] = ("r", "g")) -> Reference:
    return Reference(images, np.arange(len(labels)), labels, "test images", False, classes)


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
    for field in dataclasses.fields(made.seen):
        was, now = (getattr(one.seen, field.name) for one in (made, again))
        np.testing.assert_array_equal(was, now)
        assert was.dtype == now.dtype
    assert (again.images, again.learned, again.classes) == ("test images", True, ("r", "g"))
    np.testing.assert_array_equal(again.labels, made.labels)
    np.testing.assert_array_equal(again.rows, made.rows)


def test_it_is_small(model: OnnxModel, tmp_path: Path) -> None:
    reference = of_model(*seen(MOST))
    save_reference(reference, model, tmp_path / "reference.npz")
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
    for part, words in (
        ({"seen": short}, r"energy are float32 \(7,\)"),
        ({"rows": labels[:3]}, "rows"),
    ):
        save_reference(dataclasses.replace(of_model(images, labels), **part), model, path)
        with pytest.raises(TutelageError, match=f"is damaged: {words}"):
            load_reference(path, model)
    other = of_model(images, labels, ("r", "h"))
    save_reference(other, model, path)
    with pytest.raises(TutelageError, match="belongs to another model"):
        load_reference(path, model)


def test_one_of_the_same_model_with_coarser_numbers_is_refused(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reference.npz"
    save_reference(of_model(*seen(30)), model, path)
    right = model.look
    monkeypatch.setattr(model, "look", lambda given: (*right(given)[:2], right(given)[2] + 0.05))
    with pytest.raises(TutelageError, match=r"belongs to another model .*int8"):
        load_reference(path, model)
