import json
import os
from pathlib import Path
from typing import Any

import pytest
from shapes import write_shapes

from tutelage.config import make_config
from tutelage.data.finished import look, note_finished, note_images, state_of
from tutelage.data.open import read_catalog
from tutelage.data.runfolder import RunFolder, request_of
from tutelage.system.errors import TutelageError

RESULT = {"final": {"test": {"accuracy": 0.5}}}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_shapes(tmp_path / "photos", train=2, pool=2, test=1)


@pytest.fixture
def run(photos: Path, tmp_path: Path) -> Path:
    """A run folder as it is in the end, without its models."""
    folder = RunFolder(tmp_path / "run")
    folder.claim(request_of("run", "photos", make_config("run", {"seed": 3}).to_dict()))
    note_images(folder, state_of("run", "photos", read_catalog(photos)))
    folder.write_json("metrics.json", RESULT)
    for name in ("report.html", "MODEL_CARD.md", "student.onnx"):
        (folder.path / name).write_text("whole")
    note_finished(folder, ["student.onnx"])
    folder.unlock()
    return folder.path


def looked(run: Path | str, data: str = "photos", **settings: Any) -> dict[str, Any] | None:
    config = make_config("run", {"seed": 3, **settings})
    path, known = look("run", data, run, config, read_catalog(data), quiet=True)
    assert path == Path(run)
    return known


def state(run: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}


def test_the_same_command_finds_the_finished_run_and_changes_no_file(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(run)
    config = make_config("run", {"seed": 3})
    found = look("run", "photos", run, config, read_catalog("photos"), quiet=False)
    assert found == (run, RESULT)
    assert capsys.readouterr() == ("", f"already finished: report {run / 'report.html'}\n")
    assert state(run) == before


def test_quiet_says_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert looked(run) == RESULT
    assert capsys.readouterr() == ("", "")


def test_the_same_folder_by_another_path_is_the_same_run(run: Path, photos: Path) -> None:
    (photos.parent / "link").symlink_to(photos)
    for data in ("./photos", "photos/", str(photos), "link", "run/../photos"):
        assert looked(run, data) == RESULT, data


def test_a_copy_of_the_images_is_another_run(run: Path, photos: Path) -> None:
    write_shapes(photos.parent / "copy", train=2, pool=2, test=1)
    with pytest.raises(TutelageError, match=r"holds another run: .*photos.*copy"):
        looked(run, "copy")


@pytest.mark.parametrize(
    "change",
    [
        lambda photos: (photos / "unlabeled" / "00.png").unlink(),
        lambda photos: (photos / "unlabeled" / "00.png").rename(photos / "unlabeled" / "x.png"),
        lambda photos: (photos / "train/disc/disc0.png").rename(photos / "train/square/d.png"),
        lambda photos: os.utime(photos / "unlabeled" / "00.png", ns=(0, 0)),
        lambda photos: (photos / "unlabeled" / "00.png").write_bytes(b"more"),
    ],
)
def test_where_images_changed_the_run_itself_looks(run: Path, photos: Path, change: Any) -> None:
    assert looked(run) == RESULT
    change(photos)
    assert looked(run) is None


@pytest.mark.parametrize("name", ["metrics.json", "report.html", "MODEL_CARD.md", "student.onnx"])
def test_where_a_file_is_gone_the_run_itself_writes_it(run: Path, name: str) -> None:
    (run / name).unlink()
    assert looked(run) is None


def test_where_the_end_was_not_noted_the_run_itself_looks(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["finished"]
    (run / "config.json").write_text(json.dumps(config))
    assert looked(run) is None


def test_other_settings_are_refused(run: Path) -> None:
    with pytest.raises(TutelageError, match=r"holds another run: .*seed"):
        looked(run, seed=4)


def test_without_out_the_finished_run_is_found(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, catalog = make_config("run", {}), read_catalog("photos")
    assert look("run", "photos", None, config, catalog, quiet=True) == (Path("runs/1"), None)
    folder = RunFolder(Path("runs/1"))
    folder.claim(request_of("run", "photos", config.to_dict()))
    note_images(folder, state_of("run", "photos", catalog))
    folder.write_json("metrics.json", RESULT)
    for name in ("report.html", "MODEL_CARD.md"):
        (folder.path / name).write_text("whole")
    note_finished(folder, [])
    folder.unlock()
    assert look("run", str(photos), None, config, catalog, quiet=True) == (folder.path, RESULT)


def test_several_processes_decide_alike_and_so_look_themselves(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert looked(run) is None


def test_without_out_changed_images_get_a_new_number(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config("run", {})

    def place() -> Path:
        return look("run", "photos", None, config, read_catalog("photos"), quiet=True)[0]

    assert place() == Path("runs/1")
    folder = RunFolder(Path("runs/1"))
    folder.claim(request_of("run", "photos", config.to_dict()))
    assert place() == Path("runs/1")  # cut off before the images were looked at
    note_images(folder, state_of("run", "photos", read_catalog(photos)))
    folder.unlock()
    assert place() == Path("runs/1")
    next((photos / "unlabeled").iterdir()).unlink()
    assert place() == Path("runs/2")
