"""Whole commands on disks that are full, fail or are slow: what is lost, and what is said."""

from __future__ import annotations

import csv
import errno
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("timm")

import disk as disks
from commands import Served
from disk import Faults
from shapes import FINISHED, SETTINGS, STUDENT_STEPS, as_options, contents, read_metrics, read_stage

pytestmark = pytest.mark.skipif(disks.why_not() is not None, reason=str(disks.why_not()))

FULL, FAILS = errno.ENOSPC, errno.EIO
MEND = {FULL: "No space left on device; free some space there", FAILS: "Input/output error"}
# In the order in which a run comes by: path, call, errno, and the file that the message names.
WALK = [
    ("*/run", "mkdir", FULL, "run"),
    ("*/run/.config.json.*", "create", FULL, "run/config.json"),
    ("*/.building-*/pixels.npy", "write", FULL, "cache/stores"),
    ("*/cache/stores/????????????????????????????????", "rename", FAILS, "cache/stores"),
    ("*/run/.skipped.csv.*", "write", FULL, "run/skipped.csv"),
    ("*/run/.split.parquet.*", "write", FULL, "run/split.parquet"),
    ("*/tmp/*/model.onnx", "create", FULL, "model.onnx"),
    ("*/cache/.speed.json.*", "sync", FAILS, "cache/speed.json"),
    ("*/stages/.probe.partial/.beliefs.npz.*", "write", FULL, "probe.partial/beliefs.npz"),
    ("*/stages/transfer", "rename", FAILS, "stages/.transfer.partial"),
    ("*/stages/.self-train-1.partial/*", "space", FULL, "partial/model.safetensors"),
    ("*/stages/.student.partial", "mkdir", FULL, "stages/.student.partial"),
    ("*/run/.metrics.json.*", "write", FULL, "run/metrics.json"),
    ("*/run/.report.html.*", "sync", FAILS, "run/report.html"),
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Faults:
    return Faults(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands' own cache and temporary files."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "tmp").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(disk: Faults, place: Path) -> Iterator[Served]:
    places = {"TUTELAGE_CACHE": str(place / "cache"), "TMPDIR": str(place / "tmp")}
    environment = disk.environment | places
    with Served(place / "stderr", environment, student_steps=STUDENT_STEPS) as started:
        yield started


@pytest.fixture
def commands(server: Served, disk: Faults, place: Path) -> Iterator[Served]:
    """Each test decodes its images itself, and nothing fails after it."""
    shutil.rmtree(place / "cache" / "stores", ignore_errors=True)
    yield server
    disk.clear()


def test_a_run_whose_every_kind_of_write_failed_once_ends_as_an_undisturbed_one(
    finished: Path,
    photos: Path,
    own_cache: Path,
    tmp_path: Path,
    disk: Faults,
    place: Path,
    commands: Served,
) -> None:
    run = tmp_path / "run"
    words = ["run", str(photos), "--out", str(run), "--quiet", *as_options(FINISHED)]
    for pattern, call, error, named in WALK:
        before = contents(run / "stages")
        if call == "space":
            disk.set(pattern, space=5000)
        else:
            disk.set(pattern, call, error=error)
        assert commands.run(words) == 2, (pattern, commands.log.read_text())
        assert disk.failed, pattern
        said = commands.log.read_text()
        assert said.startswith("tutelage run: "), said
        assert said.count("\n") == 1, said
        assert named in said, said
        assert MEND[error] in said, said
        way = "TUTELAGE_CACHE" if named.startswith("cache") else "--out"
        assert ("TMPDIR" if named == "model.onnx" else way) in said, said
        after = contents(run / "stages")
        assert {name: after[name] for name in before if ".partial" not in name} == {
            name: content for name, content in before.items() if ".partial" not in name
        }, pattern
        assert not [p for p in run.glob(".*") if "partial" not in p.name], pattern
        if named == "cache/speed.json":  # measured anew, it would be another plan
            shutil.copy(own_cache / "speed.json", place / named)
    disk.clear()
    assert commands.run(words) == 0, commands.log.read_text()
    assert commands.log.read_text() == ""
    assert read_metrics(run) == read_metrics(finished)
    ours, theirs = contents(run), contents(finished)
    assert ours.keys() == theirs.keys()
    for name in ours:
        if name.endswith((".safetensors", ".parquet", ".npz", "model.json", "skipped.csv")):
            assert ours[name] == theirs[name], name
    for stage in sorted(path.name for path in (finished / "stages").iterdir()):
        assert read_stage(run, stage) == read_stage(finished, stage)


def test_images_that_the_disk_does_not_give_are_listed_and_the_run_goes_on(
    photos: Path, tmp_path: Path, disk: Faults, commands: Served
) -> None:
    run = tmp_path / "run"
    settings = {**SETTINGS, "labels_per_class": 4}
    del settings["student"], settings["rounds"]
    disk.set("*/unlabeled/0[0-2].*", "read", error=FAILS)
    words = ["transfer", str(photos), "--out", str(run), *as_options(settings)]
    assert commands.run(words) == 0, commands.log.read_text()
    assert "3 images could not be read" in commands.log.read_text()
    with (run / "skipped.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [
        "unlabeled/00.png", "unlabeled/01.jpg", "unlabeled/02.png",
    ]  # fmt: skip
    assert {row["reason"] for row in rows} == {"the file cannot be read: Input/output error"}


def test_predictions_on_a_slow_disk_and_on_a_full_one(
    finished: Path, photos: Path, tmp_path: Path, disk: Faults, commands: Served
) -> None:
    model, folder = str(finished / "student.onnx"), str(photos / "test" / "disc")
    quick, slow, full = (tmp_path / f"{name}.csv" for name in ("quick", "slow", "full"))
    assert commands.run(["predict", model, folder, "--out", str(quick)]) == 0
    disk.set("*/test/disc/*", "read", first=disks.EVER, delay=0.1)
    assert commands.run(["predict", model, folder, "--out", str(slow)]) == 0
    assert disk.seen >= 6
    assert slow.read_bytes() == quick.read_bytes()
    disk.set(str(tmp_path / ".full.csv.*"), space=100)
    assert commands.run(["predict", model, folder, "--out", str(full)]) == 2
    assert commands.log.read_text() == (
        f"tutelage predict: {full}: No space left on device; free some space there, or choose "
        "another --out\n"
    )
    assert not [path.name for path in tmp_path.iterdir() if "full" in path.name]


def test_exports_to_a_full_disk(
    finished: Path, tmp_path: Path, disk: Faults, commands: Served
) -> None:
    for words, out in (
        (["export", str(finished / "student")], "model.onnx"),
        (["export", str(finished / "student"), "--format", "torch"], "model.pt2"),
        (["export", str(finished / "student"), "--format", "hub"], "hub"),
        (["export", str(finished / "teacher"), "--format", "timm"], "timm"),
    ):
        path = tmp_path / out
        disk.set(str(tmp_path / f".{out}.*"), "write")
        assert commands.run([*words, "--out", str(path)]) == 2
        assert disk.failed, out
        assert commands.log.read_text() == (
            f"tutelage export: {path}: No space left on device; free some space there, or choose "
            "another --out\n"
        )
        assert not [p.name for p in tmp_path.iterdir() if out in p.name]


def test_the_library_fails_what_it_is_told_to(tmp_path: Path, disk: Faults) -> None:
    told = shlex.quote(str(tmp_path / "told"))
    other = shlex.quote(str(tmp_path / "other"))
    environment = {**os.environ, **disk.environment}

    def succeeds(command: str) -> bool:
        return (
            subprocess.run(
                ["sh", "-c", command], env=environment, stderr=subprocess.DEVNULL
            ).returncode
            == 0
        )

    disk.set(str(tmp_path / "told"), "write", first=1, times=1)
    assert succeeds(f"echo a > {told}")
    assert not succeeds(f"echo b > {told}")
    assert disk.victim == str(tmp_path / "told")
    assert succeeds(f"echo c > {told}")
    assert (disk.seen, disk.failed) == (3, 1)
    disk.set(str(tmp_path / "told"), space=3)
    assert succeeds(f"echo y > {told}")
    assert not succeeds(f"echo z > {told}")
    assert (tmp_path / "told").read_text() == "z"  # the part that fitted in
    assert succeeds(f"echo zz > {other}")
    disk.clear()
