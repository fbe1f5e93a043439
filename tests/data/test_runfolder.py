import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from catalogs import put
from locked import is_locked
from shapes import SETTINGS, as_options, contents, write_shapes

from tutelage.config import make_config
from tutelage.data import runfolder
from tutelage.data.open import read_catalog
from tutelage.data.runfolder import (
    FINISHED,
    IMAGES,
    RunFolder,
    catalog_of,
    command_line,
    has_data,
    look,
    request_of,
    results_folder,
    state_of,
)
from tutelage.system.errors import TutelageError
from tutelage.system.files import replacing, sweep, write_atomically

REQUEST: dict[str, Any] = {
    "command": "run",
    "data": "photos",
    "settings": {"data": {"seed": 0, "minutes": None}, "distill": {"alpha": 0.7}},
}


def changed(seed: int) -> dict[str, Any]:
    return {**REQUEST, "settings": {"data": {"seed": seed, "minutes": None}}}


def test_a_new_folder_is_claimed_and_the_same_request_continues_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "run")
    assert folder.claim(REQUEST) is False
    assert folder.read_json("config.json") == {"request": REQUEST}
    assert folder.claim(REQUEST) is True
    assert folder.stages == folder.path / "stages"
    assert folder.events == folder.path / "events.jsonl"


def test_what_a_kill_left_of_other_files_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".config.json.4711").write_text('{"req')  # the very first
    folder = RunFolder(tmp_path)
    assert folder.claim(REQUEST) is False
    (tmp_path / ".config.json.4711").unlink()
    (tmp_path / "teacher").mkdir()
    for name in ("a.json", "teacher/model.safetensors", ".mine"):
        write_atomically(tmp_path / name, "whole")
    half = [tmp_path / ".a.json.x_y12345.partial", tmp_path / "teacher" / ".b.c.12345678.partial"]
    for path in half:
        path.write_text("ha")
    assert folder.claim(REQUEST)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        ".mine", "a.json", "config.json", "events.jsonl", "model.safetensors",
    ]  # fmt: skip


def test_a_kill_leaves_a_name_that_is_swept(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as partial:
        partial.write_text("half")
        other = "1" if partial.stem.endswith("0") else "0"
        kept = shutil.copy(partial, tmp_path / f"{partial.name[:-9]}{other}.partial")
    sweep(tmp_path)
    assert not Path(kept).exists()
    assert (tmp_path / "a.json").read_text() == "half"


def test_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(TutelageError, match="holds no tutelage run; choose another --out"):
        RunFolder(tmp_path).claim(REQUEST)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(TutelageError, match=r"is a file.* folder"):
        RunFolder(tmp_path / "thesis.tex").claim(REQUEST)


@pytest.mark.parametrize(
    ("request_", "difference"),
    [({**REQUEST, "data": "other"}, "its data is 'photos', this command's is 'other'"),
     ({**REQUEST, "settings": {**REQUEST["settings"], "data": {"seed": 1, "minutes": None}}},
      "it was made with --seed 0, this command has --seed 1"),
     ({**REQUEST, "command": "demo"}, "its command is 'run', this command's is 'demo'")],
)  # fmt: skip
def test_another_run_is_refused_by_its_first_difference(
    tmp_path: Path, request_: dict[str, Any], difference: str
) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(REQUEST)
    with pytest.raises(TutelageError) as error:
        folder.claim(request_)
    assert difference in str(error.value)
    assert "choose another --out" in str(error.value)
    assert folder.read_json("config.json") == {"request": REQUEST}


def test_a_folder_that_another_process_works_in_is_refused(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = RunFolder(tmp_path / "run")
    folder.claim(REQUEST)
    folder.unlock()
    with folder.events.open("a") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        before = contents(tmp_path)
        with pytest.raises(TutelageError, match=r"another process works in .*run; wait for it"):
            RunFolder(tmp_path / "run").claim(REQUEST)
        assert contents(tmp_path) == before
    assert RunFolder(tmp_path / "run").claim(REQUEST)
    assert RunFolder(tmp_path / "run").claim(REQUEST)  # this process may claim it again
    with folder.events.open("a") as theirs, pytest.raises(BlockingIOError):
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
    RunFolder(tmp_path / "run").unlock()
    with folder.events.open("a") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("held", [False, True])
def test_a_refused_claim_leaves_the_lock_as_it_was(held: bool, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(REQUEST)
    if not held:
        folder.unlock()
    for content in (None, "{"):
        if content is not None:
            (folder.path / "config.json").write_text(content)
        with pytest.raises(TutelageError):
            RunFolder(tmp_path / "run").claim(changed(1))
        assert is_locked(folder.path) == held
    folder.unlock()


def test_a_released_folder_can_be_claimed_by_another_request(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(REQUEST)
    folder.release()
    assert not folder.path.exists()
    assert folder.claim(changed(1)) is False
    (folder.path / "notes.txt").write_text("mine")
    folder.release()
    assert [p.name for p in folder.path.iterdir()] == ["notes.txt"]


def test_a_folder_that_is_released_while_another_process_asks_for_it_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    ours.claim(REQUEST)
    held = dict(runfolder._LOCKED)
    runfolder._LOCKED.clear()  # as in another process
    lock = runfolder.lock

    def released(file: int, refusal: str) -> None:
        """What held the lock is gone between the opening of the file and its lock."""
        monkeypatch.setattr(runfolder, "lock", lock)
        mine = dict(runfolder._LOCKED)
        runfolder._LOCKED.update(held)
        ours.release()
        runfolder._LOCKED.clear()
        runfolder._LOCKED.update(mine)
        lock(file, refusal)

    monkeypatch.setattr(runfolder, "lock", released)
    assert theirs.claim(REQUEST) is False
    assert theirs.request()["command"] == REQUEST["command"]
    assert is_locked(theirs.path)
    theirs.unlock()


def test_pinned_parts_stay_beside_the_request_and_are_made_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(REQUEST)
    folder.pin("versions", {"torch": "2"})
    assert folder.read_json("config.json") == {"request": REQUEST, "versions": {"torch": "2"}}
    assert folder.claim(REQUEST) is True
    values = iter([{"size": 96}, {"size": 224}])
    for _ in range(2):
        assert folder.pinned("plan", lambda: next(values)) == {"size": 96}
    assert folder.pinned("notes", list) == folder.pinned("notes", lambda: ["late"]) == []


def test_the_data_of_a_run_is_opened_as_the_run_did(tmp_path: Path) -> None:
    for name in ("photos/a.png", "photos/b.png"):
        put(tmp_path / name)
    data = put(tmp_path / "x.csv", b"where,kind,label\na,ant,1\nb,bee,2\n")
    asked = {"image_column": "where", "label_column": "kind", "image_root": f"{tmp_path}/photos"}
    config = make_config("run", asked).to_dict()
    folder = RunFolder(tmp_path / "run")
    folder.claim({"command": "run", "data": str(data), "settings": config})
    assert catalog_of(folder.path).classes == ("ant", "bee")
    for damaged in (3, {"table": 3}, {"table": {"image": "a"}}):
        folder.write_json(
            "config.json",
            {"request": {"command": "run", "data": str(data), "settings": damaged}},
        )
        with pytest.raises(TutelageError, match="does not say how the data was read"):
            catalog_of(folder.path)
    folder.unlock()


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"3", b"\xff", b"[" * 100_000, b'{"request": 3}', b"{}",
     b'{"request": {"command": "run", "data": 5}}', b'{"request": {"data": "photos"}}'],
)  # fmt: skip
def test_a_hostile_config_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    for read in (has_data, catalog_of, lambda path: RunFolder(path).claim(REQUEST)):
        with pytest.raises(TutelageError, match=r"config\.json|holds another run"):
            read(tmp_path)


def test_the_reports_command_repeats_the_run() -> None:
    line = command_line(
        "self-train", "my photos", "out", {"labels_per_class": 4, "seed": 0, "limit": None}
    )
    assert line == "tutelage self-train 'my photos' --out out --labels-per-class 4 --seed 0"
    assert command_line("demo", "digits", "o", {}) == "tutelage demo --data digits --out o"
    words = as_options(SETTINGS)
    assert all(word in command_line("run", "d", "o", SETTINGS) for word in words)
    memory = command_line("run", "3 images in memory, 00ff", "o", {"seed": 1})
    assert memory == "tutelage.run(DATA, 'o', seed=1)  # DATA: 3 images in memory, 00ff"


# --- runs/N, where no folder is named


def test_a_refused_run_leaves_no_folder_and_frees_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(results_folder(None, "run", "photos", {}))
    folder.claim({"command": "run"})
    assert (tmp_path / "runs" / "1").is_dir()
    folder.release()
    assert not [*tmp_path.iterdir()]


def test_results_go_to_the_folder_of_the_same_request_or_to_a_new_number(tmp_path: Path) -> None:
    place = partial(results_folder, None, parent=tmp_path / "runs")
    assert place("run", "photos", {"a": 1}) == tmp_path / "runs" / "1"
    for number, command in ((1, "run"), (3, "transfer")):
        request = {"command": command, "data": "photos", "settings": {"a": 1}}
        RunFolder(tmp_path / "runs" / str(number)).claim(request)
        RunFolder(tmp_path / "runs" / str(number)).unlock()
    assert place("run", "photos", {"a": 1}) == tmp_path / "runs" / "1"
    assert place("run", "photos/", {"a": 1}) == tmp_path / "runs" / "1"
    assert place("transfer", "photos", {"a": 1}) == tmp_path / "runs" / "3"
    for other in (("run", "album", {"a": 1}), ("run", "photos", {"a": 2})):
        assert place(*other) == tmp_path / "runs" / "4"


def test_a_folder_that_is_named_is_taken_and_what_is_no_run_is_passed_over(tmp_path: Path) -> None:
    assert results_folder(tmp_path, "run", "photos", {}) == tmp_path
    for name in ("2", "mine", "7"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "7" / "config.json").write_text("{")
    found = results_folder(None, "run", "photos", {}, parent=tmp_path / "runs")
    assert found == tmp_path / "runs" / "8"


def test_several_processes_must_name_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TutelageError, match="name it: --out"):
        results_folder(None, "run", "photos", {})


# --- finished runs

RESULT = {"final": {"test": {"accuracy": 0.5}}}
WRITTEN = ["metrics.json", "report.html", "MODEL_CARD.md", "student.onnx"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_shapes(tmp_path / "photos", train=2, pool=2, test=1)


def finish(path: Path, photos: Path) -> Path:
    """Make a run folder as it is in the end, without its models."""
    folder = RunFolder(path)
    folder.claim(request_of("run", "photos", make_config("run", {"seed": 3}).to_dict()))
    folder.pin(IMAGES, state_of("run", "photos", read_catalog(photos)))
    for name in WRITTEN:
        (folder.path / name).write_text("whole")
    folder.write_json("metrics.json", RESULT)
    folder.pin(FINISHED, WRITTEN)
    folder.unlock()
    return path


@pytest.fixture
def run(photos: Path, tmp_path: Path) -> Path:
    return finish(tmp_path / "run", photos)


def looked(run: Path | None, data: str = "photos", quiet: bool = True, seed: int = 3) -> Any:
    """The content of metrics.json, where the run is finished; without ``run`` its place, too."""
    config = make_config("run", {"seed": seed})
    path, known = look("run", data, run, config, read_catalog(data), quiet=quiet)
    assert run in (None, path)
    return known if run else (path, known)


def test_the_same_command_finds_the_finished_run_and_changes_no_file(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}
    assert looked(run) == RESULT
    assert capsys.readouterr() == ("", "")
    assert looked(run, quiet=False) == RESULT
    assert capsys.readouterr() == ("", f"already finished: report {run / 'report.html'}\n")
    (photos.parent / "link").symlink_to(photos)
    for data in ("./photos", "photos/", str(photos), "link", "run/../photos"):
        assert looked(run, data) == RESULT, data
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir()}
    assert after == before


def test_a_copy_of_the_images_and_other_settings_are_another_run(run: Path, photos: Path) -> None:
    shutil.copytree(photos, photos.parent / "copy")
    with pytest.raises(TutelageError, match=r"holds another run: .*photos.*copy"):
        looked(run, "copy")
    with pytest.raises(TutelageError, match=r"holds another run: .*seed"):
        looked(run, seed=4)


@pytest.mark.parametrize(
    "change",
    [
        lambda run, pool: (pool / "00.png").unlink(),
        lambda run, pool: (pool / "00.png").rename(pool / "x.png"),
        lambda run, pool: (pool / "../train/disc/disc0.png").rename(pool / "../train/square/d.png"),
        lambda run, pool: os.utime(pool / "00.png", ns=(0, 0)),
        lambda run, pool: (pool / "00.png").write_bytes(b"more"),
        lambda run, pool: RunFolder(run).pin(FINISHED, None),
        *(lambda run, pool, name=name: (run / name).unlink() for name in WRITTEN),
    ],
)
def test_where_images_or_results_changed_the_run_itself_looks(
    run: Path, photos: Path, change: Any
) -> None:
    assert looked(run) == RESULT
    change(run, photos / "unlabeled")
    assert looked(run) is None


def test_several_processes_decide_alike_and_so_look_themselves(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert looked(run) is None


def test_without_out_the_finished_run_is_found_until_its_images_change(photos: Path) -> None:
    assert looked(None) == (Path("runs/1"), None)
    finish(Path("runs/1"), photos)
    assert looked(None, str(photos)) == (Path("runs/1"), RESULT)
    next((photos / "unlabeled").iterdir()).unlink()
    assert looked(None) == (Path("runs/2"), None)
    folder = RunFolder(Path("runs/2"))
    folder.claim(request_of("run", "photos", make_config("run", {"seed": 3}).to_dict()))
    folder.unlock()
    assert looked(None) == (Path("runs/2"), None), "cut off before the images were looked at"
