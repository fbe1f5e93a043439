"""What a run folder leaves to review."""

import json
import shutil
from pathlib import Path

import pytest

from tutelage.review.items import next_run, open_run
from tutelage.system.errors import TutelageError


def test_it_says_the_next_command(reviewed: Path, photos: Path) -> None:
    items = open_run(reviewed)
    assert items.next_run == f"tutelage run {photos} --decisions {reviewed} --minutes 30"
    assert len(items) == 42


def test_the_next_command_reads_the_data_as_this_run_did(reviewed: Path, photos: Path) -> None:
    config = json.loads((reviewed / "config.json").read_text())
    config["request"]["settings"]["table"]["image_root"] = "all photos"
    (reviewed / "config.json").write_text(json.dumps(config))
    want = f"tutelage run {photos} --image-root 'all photos' --decisions {reviewed} --minutes 30"
    assert next_run(reviewed) == want


def test_test_images_are_not_there(reviewed: Path) -> None:
    items = open_run(reviewed)
    assert not [name for i in range(len(items)) if (name := items.name(i)).startswith("test/")]


def test_folders_without_a_review(reviewed: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="is no run folder"):
        open_run(tmp_path / "none")
    with pytest.raises(TutelageError, match=rf"; did you mean {reviewed}\?$"):
        open_run(reviewed.with_name(f"{reviewed.name}s"))
    for name in "1", "2":
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").touch()
    inside = f"give one of those in it: {tmp_path / 'runs/1'}, {tmp_path / 'runs/2'}"
    with pytest.raises(TutelageError, match=rf"is no run folder; {inside}$"):
        open_run(tmp_path / "runs")
    (reviewed / "review.json").unlink()
    with pytest.raises(TutelageError, match=r"has nothing to review: the run is unfinished"):
        open_run(reviewed)


def test_data_that_is_no_longer_there(reviewed: Path, photos: Path, tmp_path: Path) -> None:
    moved = tmp_path / "data"
    shutil.copytree(photos, moved)
    gone = next((moved / "unlabeled").iterdir())
    gone.unlink()
    config = json.loads((reviewed / "config.json").read_text())
    config["request"]["data"] = str(moved)
    (reviewed / "config.json").write_text(json.dumps(config))
    with pytest.raises(TutelageError, match=rf"1 image .* \(first: unlabeled/{gone.name}\)"):
        open_run(reviewed)


@pytest.mark.parametrize(
    ("name", "content"),
    [("review.json", "[]"), ("review.json", "{}"), ("review.json", "{"), ("review.parquet", "PAR1"),
     ("config.json", "[]"), ("config.json", '{"request": {}}')],
)  # fmt: skip
def test_damaged_files_are_named(reviewed: Path, name: str, content: str) -> None:
    (reviewed / name).write_text(content)
    with pytest.raises(TutelageError, match=name.partition(".")[0]):
        open_run(reviewed)


def test_decisions_that_the_run_was_made_with_still_hold(reviewed: Path) -> None:
    config = json.loads((reviewed / "config.json").read_text())
    config["request"]["settings"]["data"]["decisions"] = "chosen"
    (reviewed / "config.json").write_text(json.dumps(config))
    assert open_run(reviewed).next_run.endswith(f"--decisions chosen,{reviewed} --minutes 30")
