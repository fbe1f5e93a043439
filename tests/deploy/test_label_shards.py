"""Labelling a pool: the rows, restarts, several processes, sudden death."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pools
import pytest
from PIL import Image
from shapes import contents

from tutelage.data.decode import decode
from tutelage.data.shards import find_shards
from tutelage.deploy import label_shards, label_table
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.system.locks import Claims

parquet = pytest.importorskip("pyarrow.parquet")
LABELS = label_shards.LABELS


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_shards, "_POLL_S", 0.02)


def expected(files: dict[str, bytes], threshold: float = 0.5) -> list[tuple[Any, ...]]:
    """Name, label, confidence, accepted of each image, one at a time."""
    found = []
    for name, content in files.items():
        mean = decode(content).reshape(-1, 3).mean(axis=0)
        share = np.float32(mean.max() / mean.sum())
        found.append((name, pools.CLASSES[mean.argmax()], share, bool(share >= threshold)))
    return found


def brief(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(r["image"], r["label"], np.float32(r["confidence"]), r["accepted"]) for r in rows]


# --- rows


@pytest.mark.parametrize("kind", ["tar", "parquet", "folder"])
def test_every_image_has_its_label_in_its_place(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_table, "_ROWS", 10)  # several row groups
    files = pools.images(47)
    place = {
        "tar": lambda: pools.write_tar(tmp_path / "a.tar", files),
        "parquet": lambda: pools.write_parquet(tmp_path / "a.parquet", files, row_group_size=7),
        "folder": lambda: pools.write_folder(tmp_path / "a", files),
    }[kind]()
    summary = pools.label(tmp_path / "out", place)
    rows = pools.rows(tmp_path / "out")
    assert brief(rows) == expected(files)
    assert {row["shard"] for row in rows} == {find_shards([place])[0].name}
    accepted = sum(row["accepted"] for row in rows)
    assert 0 < accepted < 47
    assert all(r["reason"] == (None if r["accepted"] else "confidence below 0.5") for r in rows)
    assert all(row["energy"] is None and row["unknown"] is None for row in rows)
    assert summary is not None
    assert summary == json.loads((tmp_path / "out" / "label.json").read_text())
    assert [summary[key] for key in label_table.COUNTS] == [47, 47, accepted, 0, 0]
    assert summary["classes"] == {
        name: {
            "labelled": sum(row["label"] == name for row in rows),
            "accepted": sum(row["label"] == name and row["accepted"] for row in rows),
        }
        for name in pools.CLASSES
    }
    assert summary["failed"] == []


def test_the_footer_is_found_by_those_who_labelled_with_an_earlier_version(tmp_path: Path) -> None:
    pools.label(tmp_path / "out", pools.write_tar(tmp_path / "a.tar", pools.images(3)))
    (path,) = (tmp_path / "out" / LABELS).iterdir()
    footer = parquet.read_metadata(path).metadata[b"tutelage.label"]
    assert json.loads(footer) == label_table.about(path)


def test_what_looks_like_none_of_the_classes_is_not_accepted(tmp_path: Path) -> None:
    tar = pools.write_tar(tmp_path / "a.tar", pools.images(24))
    engine = pools.ByColour(unknown_threshold=-200.0)
    summary = pools.label(tmp_path / "out", tar, engine=engine, threshold=0.0)
    rows = pools.rows(tmp_path / "out")
    assert [row["unknown"] for row in rows] == [row["energy"] > -200 for row in rows]
    assert [row["accepted"] for row in rows] == [not row["unknown"] for row in rows]
    reasons = {row["unknown"]: row["reason"] for row in rows}
    assert reasons == {True: label_table.UNKNOWN, False: None}
    assert summary is not None
    assert summary["unknown"] == sum(row["unknown"] for row in rows)


def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path: Path) -> None:
    files = pools.images(9)
    files |= {"00003.png": b"", "00008.png": files["00008.png"][:40], "../up.png": b"x"}
    tar = pools.write_tar(tmp_path / "a.tar", files)
    summary = pools.label(tmp_path / "out", tar)
    rows = {row["image"]: row for row in pools.rows(tmp_path / "out")}
    assert list(rows) == list(files)
    bad = [name for name, row in rows.items() if row["label"] is None]
    assert bad == ["00003.png", "00008.png", "../up.png"]
    for name in bad:
        assert not rows[name]["accepted"]
        assert rows[name]["confidence"] is None
    assert [rows[name]["reason"] for name in bad] == [
        "the file is empty",
        rows["00008.png"]["reason"],
        "has .. in its name",
    ]
    assert "damaged" in rows["00008.png"]["reason"]
    good = [row for row in rows.values() if row["label"]]
    assert brief(good) == expected({row["image"]: files[row["image"]] for row in good})
    assert summary is not None
    assert (summary["images"], summary["labelled"], summary["skipped"]) == (10, 7, 3)


def test_large_images_are_run_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_shards, "BATCH_PIXELS", 100)  # two images of 8 x 8
    files = pools.images(11)
    engine = pools.ByColour()
    sizes = []
    whole = engine.prepare
    engine.prepare = lambda pixels: sizes.append(len(pixels)) or whole(pixels)  # type: ignore
    pools.label(
        tmp_path / "out", pools.write_tar(tmp_path / "a.tar", files), engine=engine, workers=1
    )
    assert sizes == [2, 2, 2, 2, 2, 1]
    assert brief(pools.rows(tmp_path / "out")) == expected(files)


def test_memory_does_not_grow_with_a_shard(tmp_path: Path) -> None:
    """However slow the writing is, only so many images are read ahead of it."""
    count, most = 0, 0
    lock = threading.Lock()
    engine = pools.ByColour()

    class Endless:
        name = "endless"

        def fingerprint(self) -> str:
            return "1"

        @contextmanager
        def opened(self, stop: threading.Event) -> Iterator[Iterator[Any]]:
            def read() -> bytes:
                nonlocal count, most
                with lock:
                    count += 1
                    most = max(most, count - engine.seen)
                return pools.png(1)

            yield ((str(number), read) for number in range(1500))

    shards: Any = [Endless()]
    pool = label_shards.Pool(shards, tmp_path, engine, "m", 0.5, Console(quiet=True))
    label_shards.label_shards(pool, workers=2)
    assert count == 1500
    assert engine.batch * 2 <= most <= engine.batch * (2 * label_shards._AHEAD + 2)


# --- again


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 3, 5)
    pools.label(tmp_path / "out", place)
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "out").rglob("*.parq*")
    }
    assert len(before) == 3
    engine = pools.ByColour()
    pools.write_tar(place / "pool-003.tar", pools.images(5, 50))
    summary = pools.label(tmp_path / "out", place, engine=engine)
    assert engine.seen == 5
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before
    assert summary is not None
    assert (summary["shards"], summary["images"]) == (4, 20)


def test_another_working_directory_is_the_same_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = pools.write_pool(tmp_path / "pool", 2, 5)
    pools.label(tmp_path / "out", place)
    engine = pools.ByColour()
    monkeypatch.chdir(place)
    pools.label(tmp_path / "out", "../pool/pool-{000..001}.tar", engine=engine)
    assert engine.seen == 0


def test_a_shard_that_has_changed_is_labelled_anew_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = pools.write_pool(tmp_path / "pool", 3, 5)
    pools.label(tmp_path / "out", place)
    pools.write_tar(place / "pool-001.tar", pools.images(7, 100))
    engine = pools.ByColour()
    summary = pools.label(tmp_path / "out", place, engine=engine, console=Console())
    assert "pool-001.tar has changed since it was labelled" in capsys.readouterr().err
    assert engine.seen == 7
    assert summary is not None
    assert summary["images"] == 17
    assert len(pools.rows(tmp_path / "out")) == 17


def test_a_damaged_file_of_labels_is_written_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = pools.write_pool(tmp_path / "pool", 2, 5)
    pools.label(tmp_path / "out", place)
    whole = contents(tmp_path / "out")
    torn = next((tmp_path / "out" / LABELS).glob("pool-001*"))
    torn.write_bytes(torn.read_bytes()[:100])
    pools.label(tmp_path / "out", place, console=Console())
    assert f"{torn} is damaged" in capsys.readouterr().err
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("changed", ["fingerprint", "threshold"])
def test_another_model_or_threshold_is_refused(changed: str, tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 2, 5)
    pools.label(tmp_path / "out", place)
    before = contents(tmp_path / "out")
    other: dict[str, Any] = {"fingerprint": "another"} if changed == "fingerprint" else {}
    with pytest.raises(TutelageError, match=r"made with another .*choose another --out"):
        pools.label(tmp_path / "out", place, **(other or {"threshold": 0.6}))
    assert contents(tmp_path / "out") == before


def test_labels_of_shards_that_left_the_pool_are_kept_and_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = pools.write_pool(tmp_path / "pool", 3, 5)
    pools.label(tmp_path / "out", place)
    (place / "pool-002.tar").unlink()
    summary = pools.label(tmp_path / "out", place, console=Console())
    assert "also holds the labels of 1 shards that are not in this pool" in capsys.readouterr().err
    assert summary is not None
    assert summary["images"] == 10
    assert len(list((tmp_path / "out" / LABELS).iterdir())) == 3


def test_a_shard_that_cannot_be_read_is_named_and_the_others_are_labelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = pools.write_pool(tmp_path / "pool", 3, 5)
    (place / "pool-001.tar").write_bytes(b"no tar" * 200)
    pools.write_parquet(place / "torn.parquet", pools.images(900), row_group_size=50)
    torn = (place / "torn.parquet").read_bytes()
    middle = len(torn) // 2
    (place / "torn.parquet").write_bytes(
        torn[: middle - 5000] + b"\xff" * 9000 + torn[middle + 4000 :]
    )
    summary = pools.label(tmp_path / "out", place, console=Console())
    assert summary is not None
    assert summary["images"] == 10
    assert [Path(f["shard"]).name for f in summary["failed"]] == ["pool-001.tar", "torn.parquet"]
    assert "not a readable tar" in summary["failed"][0]["reason"]
    assert "pool-001.tar is left out" in capsys.readouterr().err
    names = sorted(p.name for p in (tmp_path / "out" / LABELS).iterdir())
    assert [name.partition("-")[2][:3] for name in names] == ["000", "002"]  # nothing half-written
    pools.write_tar(place / "pool-001.tar", pools.images(5))
    (place / "torn.parquet").unlink()
    summary = pools.label(tmp_path / "out", place)
    assert summary is not None
    assert summary["failed"] == []
    assert summary["images"] == 15


def test_a_full_disk_is_told_and_what_is_finished_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = pools.write_pool(tmp_path / "pool", 3, 5)
    finish = label_table.LabelTable.finish

    def full(table: Any) -> None:
        if "pool-001" in table._facts["shard"]:
            raise OSError(28, "No space left on device")
        finish(table)

    with monkeypatch.context() as patch:
        patch.setattr(label_table.LabelTable, "finish", full)
        with pytest.raises(OSError, match=r"No space left.*pool-001.*\.parquet"):
            pools.label(tmp_path / "out", place)
    (done,) = (tmp_path / "out" / LABELS).iterdir()  # and no leftovers
    assert done.name.startswith("pool-000")
    engine = pools.ByColour()
    pools.label(tmp_path / "out", place, engine=engine)
    assert engine.seen == 10


# --- object stores


def test_remote_shards_give_the_same_rows(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    pools.write_tar(tmp_path / "a.tar", pools.images(9))
    pools.write_parquet(tmp_path / "b.parquet", pools.images(9, 20))
    pools.write_folder(tmp_path / "c", pools.images(9, 40))
    for path in tmp_path.rglob("*.*"):
        memory.pipe(f"/bucket/{path.relative_to(tmp_path)}", path.read_bytes())
    try:
        urls = [f"memory://bucket/{name}" for name in ("[ab].*", "c")]
        summary = pools.label(tmp_path / "far", *urls)
        pools.label(tmp_path / "near", *(tmp_path / n for n in ("a.tar", "b.parquet", "c")))
        assert brief(pools.rows(tmp_path / "far")) == brief(pools.rows(tmp_path / "near"))
        assert summary is not None
        assert summary["images"] == 27
        engine = pools.ByColour()
        pools.label(tmp_path / "far", *urls, engine=engine)
        assert engine.seen == 0
        memory.pipe("/bucket/a.tar", (tmp_path / "a.tar").read_bytes())  # stored anew
        pools.label(tmp_path / "far", *urls, engine=engine)
        assert engine.seen == 9
    finally:
        memory.rm("/bucket", recursive=True)


# --- several processes


def start(out: Path, *places: Path, seconds: float = 0.0, **environment: Any) -> Any:
    words = [sys.executable, str(Path(pools.__file__)), str(out), str(seconds)]
    return subprocess.Popen(
        [*words, str(out) + ".log", *map(str, places)],
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
    )


def log(out: Path) -> list[tuple[str, str]]:
    """(process, shard) in the order in which they were begun."""
    path = Path(str(out) + ".log")
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], Path(line.split()[1]).name) for line in lines]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def done(out: Path) -> list[str]:
    return [p.name for p in out.glob(f"{LABELS}/*.parquet")]


def test_processes_divide_the_shards_among_them(tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 12, 8)
    pools.label(tmp_path / "alone", place)
    out = tmp_path / "out"
    ranks: list[Any] = []
    with ExitStack() as stack:
        for rank in range(3):
            process = start(out, place, seconds=0.15, RANK=rank, WORLD_SIZE=3)
            stack.callback(process.kill)
            ranks.append(process)
        assert [rank.wait(60) for rank in ranks] == [0, 0, 0]
    begun = log(out)
    assert sorted(shard for _, shard in begun) == sorted(p.name for p in place.iterdir())
    assert len({process for process, _ in begun}) > 1
    assert contents(out) == contents(tmp_path / "alone")


def test_a_process_helps_with_the_shares_of_those_that_never_came(tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 7, 4)
    summary = pools.label(tmp_path / "out", place, rank=2, world=4)
    assert summary is not None
    assert summary["images"] == 28


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    """One process is killed in the middle of its shard; another, which waits for it, takes over."""
    place = pools.write_pool(tmp_path / "pool", 3, 40)
    out = tmp_path / "out"
    with start(out, place, seconds=30) as dying:
        until(lambda: len(log(out)) == 2)  # one shard is read ahead
        engine = pools.ByColour()
        found: list[Any] = []
        wait = lambda: found.append(pools.label(out, place, engine=engine))  # noqa: E731
        living = threading.Thread(target=wait)
        living.start()
        until(lambda: len(done(out)) == 1)  # who waits has finished its own
        assert engine.seen == 40
        assert living.is_alive()
        dying.kill()
        living.join(30)
    assert engine.seen == 120
    assert found[0]["images"] == 120


def test_without_locks_each_process_keeps_to_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.lockf", none)
    place = pools.write_pool(tmp_path / "pool", 5, 4)
    first = pools.label(tmp_path / "out", place, rank=0, world=2, console=Console())
    assert first is None
    said = capsys.readouterr().err
    assert "has no file locks" in said
    assert "2 shards are left to other processes" in said
    assert len(done(tmp_path / "out")) == 3
    last = pools.label(tmp_path / "out", place, rank=1, world=2)
    assert last is not None
    assert last["images"] == 20


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_a_killed_process_leaves_nothing_that_the_next_does_not_put_right(
    after: int, tmp_path: Path
) -> None:
    place = pools.write_pool(tmp_path / "pool", 5, 40)
    pools.label(tmp_path / "alone", place)
    out = tmp_path / "out"
    with start(out, place, seconds=0.02) as process:
        # In the middle of a shard: its temporary file is there.
        until(lambda: len(done(out)) >= after and any(out.glob(f"{LABELS}/.*")))
        process.send_signal(signal.SIGKILL)
    finished = {name: (out / LABELS / name).stat().st_mtime_ns for name in done(out)}
    assert any(out.glob(f"{LABELS}/.*"))
    engine = pools.ByColour()
    pools.label(out, place, engine=engine)
    assert engine.seen == 40 * (5 - len(finished))
    assert {name: (out / LABELS / name).stat().st_mtime_ns for name in finished} == finished
    assert contents(out) == contents(tmp_path / "alone")


def test_sigterm_ends_it_soon_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 5, 40)
    out = tmp_path / "out"
    with start(out, place, seconds=0.05) as process:
        until(lambda: len(done(out)) >= 1 and any(out.glob(f"{LABELS}/.*")))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert time.monotonic() - began < 5
    assert 1 <= len(done(out)) < 5
    assert not any(out.glob(f"{LABELS}/.*"))


def test_the_summary_waits_for_the_claim_of_who_writes_it(tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 1, 4)
    out = tmp_path / "out"
    pools.label(out, place)
    (out / "label.json").unlink()
    code = f"""
import sys
from pathlib import Path
from tutelage.system.locks import Claims
claims = Claims(Path({str(out / ".claims")!r}))
assert claims.take({label_shards.SUMMARY!r})
print("held", flush=True)
sys.stdin.read()
"""
    words = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert pools.label(out, place) is None
        assert not (out / "label.json").exists()
        other.communicate("")
    assert pools.label(out, place) is not None
    assert (out / "label.json").exists()


# --- real models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with its ONNX file in it; it knows unknown images."""
    pytest.importorskip("timm")
    from deployed import small_model

    from tutelage.deploy.onnx import export_onnx
    from tutelage.models.folder import save_model

    folder = tmp_path_factory.mktemp("small") / "student"
    small = small_model(["a", "b", "c"], unknown_threshold=-1.3)
    save_model(small, folder)
    export_onnx(small, folder / "model.onnx")
    return folder


@pytest.mark.parametrize("kind", ["onnx", "folder"])
def test_the_answers_are_those_of_predict(kind: str, model: Path, tmp_path: Path) -> None:
    from deployed import IMAGES

    from tutelage import api

    for number, image in enumerate([*IMAGES, *IMAGES[:3]] * 3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / f"{number:02d}.png")
    path = model / "model.onnx"
    if kind == "folder":  # predict would ask the exported file
        path = shutil.copytree(model, tmp_path / "m", ignore=shutil.ignore_patterns("*.onnx"))
    summary = api.pseudo_label(path, [tmp_path / "photos"], tmp_path / "out", quiet=True)
    answers, _ = api.predict(path, [tmp_path / "photos"], reject=True)
    found = pools.rows(tmp_path / "out")
    assert [str(tmp_path / "photos" / r["image"]) for r in found] == [a.image for a in answers]
    assert len({row["label"] for row in found}) > 1
    assert len({row["unknown"] for row in found}) > 1
    for row, one in zip(found, answers, strict=True):
        assert row["unknown"] == one.rejected
        assert row["label"] == max(one.probabilities, key=one.probabilities.__getitem__)
        # A batch of 64 in torch rounds otherwise than one image does; onnxruntime does not.
        assert row["confidence"] == pytest.approx(one.confidence, abs=1e-6 * (kind == "folder"))
    assert summary is not None
    assert summary["labelled"] == len(answers)


def test_labels_do_not_lie_among_the_images(tmp_path: Path) -> None:
    from tutelage import api

    place = pools.write_folder(tmp_path / "pool", pools.images(2))
    with pytest.raises(TutelageError, match=r"--out .* lies in .*pool"):
        api.pseudo_label("absent.onnx", [place], place / "labels")
    assert sorted(p.name for p in place.iterdir()) == ["00000.png", "00001.png"]


def test_claims_are_closed_in_the_end(tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 2, 4)
    pools.label(tmp_path / "out", place)
    again = Claims(tmp_path / "out" / ".claims")
    assert all(again.take(shard.name) for shard in find_shards([place]))
    again.close()


def test_a_model_folder_without_a_threshold_labels_a_pool(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    from deployed import small_model

    from tutelage import api
    from tutelage.models.folder import save_model

    model, files = tmp_path / "student", pools.images(3)
    save_model(small_model(["a", "b", "c"]), model)
    place = pools.write_folder(tmp_path / "pool", files)
    summary = api.pseudo_label(model, [place], tmp_path / "out", quiet=True)
    assert summary is not None
    assert summary["labelled"] == len(files)
    assert {row["energy"] for row in pools.rows(tmp_path / "out")} == {None}
