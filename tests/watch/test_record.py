import io
import threading
from pathlib import Path

import numpy as np
import pytest
from answering import write_model
from PIL import Image
from starlette.testclient import TestClient
from watching import write_pictures

from tutelage import api
from tutelage.deploy import serve
from tutelage.deploy.images import find_images
from tutelage.deploy.runtime import OnnxModel
from tutelage.deploy.uploads import Limits
from tutelage.system import web
from tutelage.system.errors import TutelageError
from tutelage.system.files import append, locked
from tutelage.watch.look import ROW, look
from tutelage.watch.record import RecordingModel, read_record


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("record")
    write_model(root / "m.onnx", threshold=0.25)
    write_pictures(root / "images", 24)
    return root


def served(place: Path, folder: Path) -> RecordingModel:
    """A server has answered all the images, and one that cannot be read."""
    model = RecordingModel(place / "m.onnx", folder)
    asked = TestClient(serve.make_app(model, "m.onnx", Limits()))
    for number, path in enumerate(sorted((place / "images").rglob("*.png"))):
        reject = {"reject": "true"} if number % 2 else {}
        assert asked.post("/predict", content=path.read_bytes(), params=reject).status_code == 200
    broken = [("images", ("broken.png", b"no image"))]
    assert asked.post("/predict", files=broken).status_code == 422
    return model


def test_what_a_server_has_seen_is_what_watch_sees(place: Path, tmp_path: Path) -> None:
    model = served(place, tmp_path / "seen")
    (file,) = (tmp_path / "seen").iterdir()
    assert file.stat().st_size == 24 * ROW.itemsize == 24 * 164
    found = read_record([tmp_path / "seen"], model)
    expected, *_ = look(model, find_images(place / "images"))
    np.testing.assert_array_equal(found, expected)
    options = {"reference": place / "images", "out": tmp_path / "out"}
    for given in (tmp_path / "seen", [str(file)]):
        result = api.watch(place / "m.onnx", given, **options)
        assert (result["images"], result["alarms"], result["to_label"]) == (24, [], None)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            *("watch.html", "watch.json")
        ]
        assert "Images to label first" not in (tmp_path / "out" / "watch.html").read_text("utf-8")
        options["out"] = None


def test_a_torn_end_is_left_out_and_what_is_damaged_or_foreign_is_refused(
    place: Path, tmp_path: Path
) -> None:
    model = served(place, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    assert len(read_record([tmp_path], model)) == 23
    file.write_bytes(b"\xff" * len(whole))
    with pytest.raises(TutelageError, match="is damaged; delete it"):
        read_record([tmp_path], model)
    file.rename(tmp_path / "0-2026-01-01.seen")
    with pytest.raises(TutelageError, match="was written by another model than"):
        read_record([tmp_path], model)
    (tmp_path / "0-2026-01-01.seen").rename(file)
    file.write_bytes(whole[: 5 * ROW.itemsize])
    with pytest.raises(TutelageError, match="5 images are too few"):
        api.watch(place / "m.onnx", tmp_path, reference=place / "images")


def test_rows_behind_a_torn_one_are_whole(place: Path, tmp_path: Path) -> None:
    served(place, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:250])  # a kill, in the second row
    model = RecordingModel(place / "m.onnx", tmp_path)
    image = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    model.probabilities([image])
    assert file.read_bytes()[: ROW.itemsize] == whole[: ROW.itemsize]
    first = np.frombuffer(whole, ROW, 1)["predicted"]
    assert read_record([tmp_path], model)["predicted"].tolist() == [*first, 0]


@pytest.mark.parametrize("predicted", [-1, 2, 939538432])
def test_a_class_that_the_model_does_not_have_is_damage(
    place: Path, tmp_path: Path, predicted: int
) -> None:
    model = served(place, tmp_path)
    (file,) = tmp_path.iterdir()
    rows = np.frombuffer(file.read_bytes(), ROW).copy()
    rows["predicted"][3] = predicted
    file.write_bytes(rows.tobytes())
    with pytest.raises(TutelageError, match="is damaged; delete it"):
        read_record([tmp_path], model)


def test_a_full_disk_stops_no_answer_and_is_said_once(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = RecordingModel(place / "m.onnx", tmp_path / "seen")
    (tmp_path / "seen").rmdir()
    image = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    for _ in range(2):
        assert model.probabilities([image]).argmax() == 0
    assert capsys.readouterr().err.count("cannot be written: No such file") == 1
    assert model.probabilities([]).shape == (0, 2)


def test_the_command_serves_with_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "png")

    def ask(app: object, listening: object) -> None:
        listening.close()  # type: ignore[attr-defined]
        answer = TestClient(app).post("/predict", content=content.getvalue())  # type: ignore[arg-type]
        assert answer.status_code == 200

    monkeypatch.setattr(web, "run_app", ask)
    api.serve(place / "m.onnx", port=0, watch=tmp_path / "seen", quiet=True)
    assert len(read_record([tmp_path / "seen"], OnnxModel(place / "m.onnx"))) == 1


def test_a_server_waits_while_another_is_in_the_middle_of_a_row(tmp_path: Path) -> None:
    file, halves = tmp_path / "rows", (b"a" * 100, b"a" * 64)
    with file.open("ab", buffering=0) as other:  # as another process that writes has it
        assert locked(other)
        other.write(halves[0])
        writing = threading.Thread(target=append, args=(file, b"b" * 164, ROW.itemsize))
        writing.start()
        writing.join(0.3)
        other.write(halves[1])
    writing.join(10)
    assert file.read_bytes() == b"a" * 164 + b"b" * 164
