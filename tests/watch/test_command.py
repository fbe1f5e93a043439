import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answering import write_model
from watching import write_pictures

from tutelage import api
from tutelage.cli import main
from tutelage.data.open import open_data, read_catalog
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.watch.reference import make_reference, save_reference


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its reference, a folder like it, and one of other images."""
    root = tmp_path_factory.mktemp("watch")
    path = write_model(root / "m.onnx", threshold=0.25)
    catalog = open_data(write_pictures(root / "reference", 80, seed=1))[0]
    labels = np.array([int(name.startswith("g/")) for name in catalog.names])
    model, rows = OnnxModel(path), np.arange(80)
    made = make_reference(model, catalog, rows, labels, "test images", learned=False)
    save_reference(made, model, root / "reference.npz")
    write_pictures(root / "same", 40)
    write_pictures(root / "other", 40, blue=120)
    return root


def test_a_look_at_other_images_raises_an_alarm_and_says_what_to_label(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    words = ["watch", str(place / "m.onnx"), str(place / "other"), str(tmp_path / "broken.png")]
    out = tmp_path / "look"
    assert main([*words, "--out", str(out), "--budget", "7"]) == 3
    said = capsys.readouterr()
    assert "Alarm: the 40 images differ from the reference in" in said.out
    assert re.search(
        "  red against blue: [0-9.]+ before, [^ ]+ now \\(the light or the white", said.out
    )
    assert f"page: {out / 'watch.html'}" in said.out
    assert "broken.png: the file is empty" in said.err
    assert sorted(path.name for path in out.iterdir()) == [
        *("to_label.csv", "watch.html", "watch.json")
    ]
    result = json.loads((out / "watch.json").read_text())
    assert "unknown" in result["alarms"]
    assert result["images"] == 40
    assert list(result["skipped"].values()) == ["the file is empty"]
    with (out / "to_label.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 0 < len(rows) <= 7
    catalog = read_catalog(out / "to_label.csv")  # as suggest and run read it
    assert len(catalog) == len(rows)
    assert set(catalog.labels) == {-1}
    assert catalog.source.read(0)


def test_a_look_at_the_same_kind_of_images_raises_none_and_writes_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(place.iterdir())
    words = ["watch", str(place / "m.onnx"), str(place / "same")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("No alarm: no difference was found between the 40 images and the ref")
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["alarms"] == []
    assert (result["page"], result["to_label"]) == (None, None)
    assert sorted(place.iterdir()) == before


def test_the_reference_can_be_given(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "m.onnx", tmp_path)
    model = tmp_path / "m.onnx"
    with pytest.raises(TutelageError, match=r"there is no .*reference.npz"):
        api.watch(model, place / "same")
    found = api.watch(model, place / "same", reference=place / "reference")
    assert found["alarms"] == []
    assert found["reference"]["n"] == 80
    assert found["accuracy"]["labels"] == 80
    shutil.copytree(place / "reference", tmp_path / "data" / "train")
    write_pictures(tmp_path / "data" / "test", 30, seed=2)
    found = api.watch(model, place / "same", reference=tmp_path / "data")
    assert found["reference"]["images"] == f"test images of {tmp_path / 'data'}"
    assert found["reference"]["n"] == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"false_alarms": 0.0}, "--false-alarms is 0; expected a rate"),
        ({"budget": 0}, "--budget is 0"),
        ({"images": "one"}, "1 image is too few"),
        ({"images": "empty"}, "none of the 25 images can be read"),
        ({"out": "full"}, "exists; choose a new folder for each look"),
    ],
)
def test_what_it_refuses(
    place: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    for i in range(25):
        (tmp_path / "empty").mkdir(exist_ok=True)
        (tmp_path / "empty" / f"{i}.png").write_bytes(b"")
    write_pictures(tmp_path / "one", 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "watch.json").write_text("{}")
    given = {name: tmp_path / v if isinstance(v, str) else v for name, v in options.items()}
    images = given.pop("images", place / "same")
    with pytest.raises(TutelageError, match=message):
        api.watch(place / "m.onnx", images, **given)
