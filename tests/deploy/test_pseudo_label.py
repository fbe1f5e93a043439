"""Labelling a pool: which model, the rows, restarts, several processes, sudden death."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pools
import pytest
from answering import write_model
from full import FullFile
from PIL import Image
from shapes import contents

from tutelage import api
from tutelage.data import shards
from tutelage.data.decode import decode
from tutelage.data.shards import find_shards
from tutelage.deploy import find, label_files, pseudo_label
from tutelage.deploy.find import find_model
from tutelage.deploy.label_files import LABELS, LabelFolder, about
from tutelage.deploy.pseudo_label import Labelling, ModelFiles, Share, files_of, packed
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.console import Console
from tutelage.system.engines import Local, Lost, Ray, Resources
from tutelage.system.errors import MissingExtra, TutelageError
from tutelage.system.storage import Place

IMAGE = np.full((4, 6, 3), (200, 40, 90), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with an exported file."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_text("{}")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"weights")
    write_model(tmp_path / "m" / "model.onnx")
    return tmp_path / "m"


def without_torch(module: str, extra: str) -> None:
    raise MissingExtra(f"no {module}")


def test_a_model_folder_needs_torch_only_where_nothing_is_exported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.deploy.pseudo_label.need", without_torch)
    monkeypatch.setattr(find, "need", without_torch)
    files = files_of(find_model(folder))
    assert isinstance(files.open(), OnnxModel)
    assert files == files_of(find_model(folder / "model.onnx"))
    (folder / "model.onnx").unlink()
    with pytest.raises(MissingExtra, match=r"has no exported \.onnx file: no torch"):
        files_of(find_model(folder)).open()


def test_with_torch_a_model_folder_is_its_weights(folder: Path) -> None:
    pytest.importorskip("torch")
    files = files_of(find_model(folder))
    assert not files.exported
    assert files.paths == (folder / "model.json", folder / "model.safetensors")
    exported = files_of(find_model(folder / "model.onnx"))
    assert exported.exported
    assert files.digest() != exported.digest()


def test_the_digest_is_that_of_every_byte(folder: Path) -> None:
    files = ModelFiles((folder / "model.json", folder / "model.safetensors"))
    before = files.digest()
    for path in files.paths:
        path.write_bytes(path.read_bytes() + b" ")
        assert files.digest() != before
        before = files.digest()


def test_what_travels_needs_no_file_and_leaves_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = files_of(find_model(folder / "model.onnx"))
    here = exported.open()
    travelled = pickle.loads(pickle.dumps(packed(exported, "cpu")))
    (folder / "model.onnx").unlink()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    there = travelled.open()
    assert list((tmp_path / "temporary").iterdir()) == []
    for mine, theirs in zip(
        here.finish(here.prepare([IMAGE])), there.finish(there.prepare([IMAGE])), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)  # type: ignore[arg-type]


def test_a_model_folder_travels_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    from deployed import small_model

    from tutelage.models.folder import save_model

    save_model(small_model(["a", "b"], unknown_threshold=-1.0), tmp_path / "m")
    files = files_of(find_model(tmp_path / "m"))
    here, there = files.open(), packed(files, "cpu").open()
    assert there.classes == here.classes == ("a", "b")
    for mine, theirs in zip(
        here.finish(here.prepare([IMAGE])), there.finish(there.prepare([IMAGE])), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)  # type: ignore[arg-type]


pytest.importorskip("pyarrow")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    (tmp_path / "pool").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "pool" / "a.png")
    return tmp_path / "pool"


def test_one_path_is_not_read_letter_by_letter(pool: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx")
    for number, images in enumerate((str(pool), pool, [pool])):
        summary = api.pseudo_label(model, images, tmp_path / f"out{number}", quiet=True)
        assert summary is not None
        assert summary["accepted"] == 1


def test_the_model_is_looked_for_first(tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="there is no model absent"):
        api.pseudo_label("absent", "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", ["0/4", "5/4", "1", "1/4/2", "-1/4", "a/b", "1/0"])
def test_a_share_that_is_none_says_what_was_expected(
    share: str, pool: Path, tmp_path: Path
) -> None:
    with pytest.raises(TutelageError, match=rf"--share {share}: expected i/n, part i of n, such"):
        api.pseudo_label("absent", pool, tmp_path / "out", share=share)


def test_ranks_divide_a_share_further(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pseudo_label._share(None) == Share(1, 1)
    assert pseudo_label._share("2/3") == Share(2, 3)
    numbers = list(range(20))
    taken = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert pseudo_label._share(None) == Share(1 + rank, 2)
        for share in ("1/3", "2/3", "3/3"):
            taken += pseudo_label._share(share).taken(numbers)  # type: ignore[arg-type]
    assert sorted(taken) == numbers  # type: ignore[type-var]


def test_a_share_with_shards_that_cannot_be_read_says_so_before_the_others_end(
    pool: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "m.onnx")
    (tmp_path / "torn.tar").write_bytes(b"no tar" * 200)
    images = [tmp_path / "torn.tar", pool]
    with pytest.raises(
        TutelageError,
        match=r"1 of 2 shards could not be read .*torn\.tar.*; the others of this share are "
        r"labelled\. Mend it and repeat the commands of all shares, which try it again",
    ):
        api.pseudo_label(model, images, tmp_path / "out", share="1/2", quiet=True)
    assert not (tmp_path / "out" / "label.json").exists()


def test_a_manifest_waits_until_all_shards_are_labelled(pool: Path, tmp_path: Path) -> None:
    model, accepted = write_model(tmp_path / "m.onnx"), tmp_path / "accepted.parquet"
    torn = tmp_path / "torn.tar"
    torn.write_bytes(b"no tar" * 200)
    given = {"accepted": accepted, "threshold": 0.1, "quiet": True}
    with pytest.raises(TutelageError, match=r"accepted\.parquet is written when all are labelled"):
        api.pseudo_label(model, [torn, pool], tmp_path / "out", **given)
    assert not accepted.exists()
    pools.write_tar(torn, pools.images(1))
    summary = api.pseudo_label(model, [torn, pool], tmp_path / "out", **given)
    assert summary is not None
    assert summary["accepted"] == 2
    assert accepted.exists()


def test_labels_beside_the_images_are_refused_also_where_a_pattern_names_them(
    pool: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "m.onnx")
    for images in (pool, f"{pool.parent}/*", f"{pool.parent}/po*"):
        with pytest.raises(TutelageError, match=r"lies in .*, whose images are labelled; move it"):
            api.pseudo_label(model, images, pool / "labels")
    assert not (pool / "labels").exists()


def test_another_label_json_is_not_replaced(pool: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "label.json").write_text("mine")
    with pytest.raises(TutelageError, match=r"holds a label\.json and no options\.json"):
        api.pseudo_label(model, pool, tmp_path / "out", quiet=True)
    assert (tmp_path / "out" / "label.json").read_text() == "mine"


@pytest.mark.weekly
def test_a_cluster_gives_the_answers_of_this_process(
    cluster: Any, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "m.onnx", threshold=0.5)
    pools.write_pool(tmp_path / "pool-of-tars", 4, 5)
    images = [tmp_path / "pool-of-tars", pool]
    here = api.pseudo_label(model, images, tmp_path / "here", quiet=True)
    there = api.pseudo_label(model, images, tmp_path / "there", engine="ray")
    assert "Ray: 2 nodes, 2 cores, 0 GPUs" in capsys.readouterr().err
    assert there == here
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.weekly
def test_a_command_on_a_cluster_ends_soon_when_it_is_asked_to(cluster: Any, tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx")
    place = pools.write_pool(tmp_path / "pool", 2, 4)
    for number in range(2, 400):
        shutil.copy(place / "pool-001.tar", place / f"pool-{number:03d}.tar")
    out = tmp_path / "out"
    words = ["pseudo-label", str(model), str(place), "--out", str(out), "--engine", "ray"]
    command = [sys.executable, "-m", "tutelage", *words, "--address", cluster.address, "--quiet"]
    with subprocess.Popen(command) as process:
        while not any(out.glob("labels/pool-*")):
            assert process.poll() is None
            time.sleep(0.01)
        began = time.monotonic()
        process.terminate()
        assert process.wait(30) == 143
        assert time.monotonic() - began < 8
    labels = [*out.glob("labels/pool-*")]
    assert len(labels) < 400
    assert all(about(Place.at(path)) is not None for path in labels)
    summary = api.pseudo_label(model, place, out, quiet=True)
    assert summary is not None
    assert summary["images"] == 1600
    assert not any(out.glob("labels/.*"))


def test_two_shards_share_a_gpu_and_their_threads_the_cores_of_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cluster(Ray):
        @contextmanager
        def connected(self) -> Iterator[list[Resources]]:
            yield [Resources(64, 0), Resources(16, 1), Resources(96, 8)]

    exported = ModelFiles((write_model(tmp_path / "m.onnx"),))
    with pseudo_label._by_ray(Cluster(), exported, Console(quiet=True)) as means:
        assert (means.resources, means.workers) == (Resources(1, 0), 1)

    class Folder(ModelFiles):
        exported = False

        def open(self, device: str = "cpu") -> Any:
            assert device == "cpu"  # of the machine that gives out the work
            return pools.ByColour()

    with pseudo_label._by_ray(Cluster(), Folder(exported.paths), Console(quiet=True)) as means:
        assert (means.resources, means.workers) == (Resources(6, 0.5), 6)
        assert means.open_model.__self__.device == "cuda"  # type: ignore[attr-defined]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.weekly
def test_a_cluster_divides_the_work_itself(
    ranks: int, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    share = "1/2" if ranks == 1 else None
    with pytest.raises(TutelageError, match=r"--engine ray divides the work .* leave out --share"):
        api.pseudo_label("absent", pool, tmp_path / "out", engine="ray", share=share)


def test_this_process_needs_no_ray(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # an import of it fails
    model = write_model(tmp_path / "m.onnx")
    assert api.pseudo_label(model, pool, tmp_path / "out", quiet=True) is not None
    with pytest.raises(TutelageError, match=r'pip install "tutelage\[ray\]"'):
        api.pseudo_label(model, pool, tmp_path / "out2", engine="ray")


parquet = pytest.importorskip("pyarrow.parquet")


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
    monkeypatch.setattr(label_files, "_LABEL_ROWS", 10)  # several row groups
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
    assert [summary[key] for key in label_files.COUNTS] == [47, 47, accepted, 0, 0]
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
    assert json.loads(footer) == label_files.about(Place.at(path))


def test_what_looks_like_none_of_the_classes_is_not_accepted(tmp_path: Path) -> None:
    tar = pools.write_tar(tmp_path / "a.tar", pools.images(24))
    model = pools.ByColour(unknown_threshold=-200.0)
    summary = pools.label(tmp_path / "out", tar, model=model, threshold=0.0)
    rows = pools.rows(tmp_path / "out")
    assert [row["unknown"] for row in rows] == [row["energy"] > -200 for row in rows]
    assert [row["accepted"] for row in rows] == [not row["unknown"] for row in rows]
    reasons = {row["unknown"]: row["reason"] for row in rows}
    assert reasons == {True: label_files.UNKNOWN, False: None}
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
    monkeypatch.setattr(pseudo_label, "BATCH_PIXELS", 100)  # two images of 8 x 8
    files = pools.images(11)
    model = pools.ByColour()
    sizes = []
    whole = model.prepare
    model.prepare = lambda pixels: sizes.append(len(pixels)) or whole(pixels)  # type: ignore
    pools.label(
        tmp_path / "out", pools.write_tar(tmp_path / "a.tar", files), model=model, workers=1
    )
    assert sizes == [2, 2, 2, 2, 2, 1]
    assert brief(pools.rows(tmp_path / "out")) == expected(files)


def test_memory_does_not_grow_with_a_shard(tmp_path: Path) -> None:
    """However slow the writing is, only so many images are read ahead of it."""
    count, most = 0, 0
    lock = threading.Lock()
    model = pools.ByColour()

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
                    most = max(most, count - model.seen)
                return pools.png(1)

            yield ((str(number), read) for number in range(1500))

    shards: Any = [Endless()]
    labelling = Labelling(
        LabelFolder(Place.at(tmp_path)), "m", model.classes, 0.5, lambda: model, workers=2
    )
    pseudo_label.label_shards(labelling, shards, Local(), Resources(), console=Console(quiet=True))
    assert count == 1500
    assert model.batch * 2 <= most <= model.batch * (2 * pseudo_label._AHEAD + 2)


# --- again


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 3, 5)
    pools.label(tmp_path / "out", place)
    before = {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (tmp_path / "out").rglob("*.parq*")
    }
    assert len(before) == 3
    model = pools.ByColour()
    pools.write_tar(place / "pool-003.tar", pools.images(5, 50))
    summary = pools.label(tmp_path / "out", place, model=model)
    assert model.seen == 5
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before
    assert summary is not None
    assert (summary["shards"], summary["images"]) == (4, 20)


def test_another_working_directory_is_the_same_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = pools.write_pool(tmp_path / "pool", 2, 5)
    pools.label(tmp_path / "out", place)
    model = pools.ByColour()
    monkeypatch.chdir(place)
    pools.label(tmp_path / "out", "../pool/pool-{000..001}.tar", model=model)
    assert model.seen == 0


def test_a_shard_that_has_changed_is_labelled_anew_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = pools.write_pool(tmp_path / "pool", 3, 5)
    pools.label(tmp_path / "out", place)
    pools.write_tar(place / "pool-001.tar", pools.images(7, 100))
    model = pools.ByColour()
    summary = pools.label(tmp_path / "out", place, model=model, console=Console())
    assert "pool-001.tar has changed since it was labelled" in capsys.readouterr().err
    assert model.seen == 7
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


@pytest.mark.parametrize("changed", ["digest", "threshold"])
def test_another_model_or_threshold_is_refused(changed: str, tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 2, 5)
    pools.label(tmp_path / "out", place)
    before = contents(tmp_path / "out")
    other = {"digest": "another", "threshold": 0.6}[changed]
    with pytest.raises(TutelageError, match=r"made with another .*choose another --out"):
        pools.label(tmp_path / "out", place, **{changed: other})
    assert contents(tmp_path / "out") == before


def test_labels_of_shards_that_left_the_pool_are_kept_and_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = pools.write_pool(tmp_path / "pool", 3, 5)
    pools.label(tmp_path / "out", place)
    (place / "pool-002.tar").unlink()
    summary = pools.label(tmp_path / "out", place, console=Console())
    assert "also holds the labels of 1 shard outside this pool" in capsys.readouterr().err
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
    finish = label_files.LabelTable.finish

    def full(table: Any) -> None:
        if "pool-001" in table._facts["shard"]:
            raise OSError(28, "No space left on device")
        finish(table)

    with monkeypatch.context() as patch:
        patch.setattr(label_files.LabelTable, "finish", full)
        with pytest.raises(OSError, match=r"No space left.*pool-001.*\.parquet"):
            pools.label(tmp_path / "out", place)
    done = sorted(path.name[:8] for path in (tmp_path / "out" / LABELS).iterdir())
    # Two shards are labelled at once, so the last may be finished; and there are no leftovers.
    assert done in (["pool-000"], ["pool-000", "pool-002"])
    model = pools.ByColour()
    pools.label(tmp_path / "out", place, model=model)
    assert model.seen == 5 * (3 - len(done))


# --- object stores


def test_an_image_that_its_store_does_not_give_is_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    for name, content in pools.images(5).items():
        memory.pipe(f"/given/{name}", content)
    give = type(memory).cat_file

    def busy(self: Any, path: str, *given: Any, **options: Any) -> Any:
        if path.endswith("00003.png"):
            raise ConnectionError("503 Slow Down")
        return give(self, path, *given, **options)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(type(memory), "cat_file", busy)
            summary = pools.label(tmp_path / "out", "memory://given")
        assert summary is not None
        (failed,) = summary["failed"]
        assert "memory://given/00003.png: 503 Slow Down" in failed["reason"]
        assert not list((tmp_path / "out" / LABELS).iterdir())
        summary = pools.label(tmp_path / "out", "memory://given")
        assert summary is not None
        assert (summary["failed"], summary["labelled"]) == ([], 5)
    finally:
        memory.rm("/given", recursive=True)


def test_a_full_disk_for_copies_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("memory").pipe("/copied/a.tar", b"1")
    monkeypatch.setattr(tempfile, "TemporaryFile", FullFile)
    with pytest.raises(OSError, match="No space left on device"):
        pools.label(tmp_path / "out", "memory://copied/a.tar")
    assert not list((tmp_path / "out" / "failed").iterdir())


def test_a_shard_that_does_not_say_how_it_is_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = pools.write_pool(tmp_path / "pool", 2, 3)
    pools.label(tmp_path / "out", place)
    before = written(tmp_path / "out")

    def silent(shard: Any) -> str:
        raise OSError(f"{shard.name}: 503")

    with monkeypatch.context() as patch:
        patch.setattr(shards.FileShard, "fingerprint", silent)
        summary = pools.label(tmp_path / "out", place, console=Console())
    assert summary is not None
    assert len(summary["failed"]) == 2
    said = capsys.readouterr().err
    assert "is left out" in said
    assert "has changed" not in said
    assert pools.label(tmp_path / "out", place) is not None
    assert written(tmp_path / "out") == before


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
        model = pools.ByColour()
        pools.label(tmp_path / "far", *urls, model=model)
        assert model.seen == 0
        memory.pipe("/bucket/a.tar", (tmp_path / "a.tar").read_bytes())  # stored anew
        pools.label(tmp_path / "far", *urls, model=model)
        assert model.seen == 9
    finally:
        memory.rm("/bucket", recursive=True)


# --- several shards at once


def test_one_shard_is_opened_while_another_is_read_and_only_one_is_read(tmp_path: Path) -> None:
    """The second of two shards at once is copied here meanwhile, not read."""
    opened: list[str] = []
    reading: list[str] = []

    class Watched:
        def __init__(self, name: str) -> None:
            self.name = name

        def fingerprint(self) -> str:
            return "1"

        @contextmanager
        def opened(self, stop: threading.Event) -> Iterator[Iterator[Any]]:
            opened.append(self.name)
            yield self.entries()

        def entries(self) -> Iterator[Any]:
            for number in range(24):
                if number == 8:  # the other one must get so far without being read
                    until(lambda: len(opened) == 2)
                reading.append(self.name)
                yield str(number), lambda: pools.png(1)

    shards: Any = [Watched("a"), Watched("b")]
    labelling = Labelling(
        LabelFolder(Place.at(tmp_path)), "m", pools.CLASSES, 0.5, pools.ByColour, workers=2
    )
    pseudo_label.label_shards(labelling, shards, Local(2), Resources(), console=Console(quiet=True))
    assert reading in (["a"] * 24 + ["b"] * 24, ["b"] * 24 + ["a"] * 24)


def test_the_copying_of_a_shard_that_is_stopped_is_no_failure_of_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk ends the command while the other shard is on its way here."""
    copying = threading.Event()

    class Far:
        name = "far"

        def fingerprint(self) -> str:
            return "1"

        @contextmanager
        def opened(self, stop: threading.Event) -> Iterator[Iterator[Any]]:
            copying.set()
            stop.wait(30)
            raise OSError("the copying was stopped")
            yield

    def full(table: Any) -> None:
        assert copying.wait(30)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(label_files.LabelTable, "finish", full)
    near = find_shards([pools.write_tar(tmp_path / "near.tar", pools.images(4))])
    shards: Any = [*near, Far()]
    out = LabelFolder(Place.at(tmp_path / "out"))
    labelling = Labelling(out, "m", pools.CLASSES, 0.5, pools.ByColour, workers=2)
    with pytest.raises(OSError, match="No space left"):
        pseudo_label.label_shards(
            labelling, shards, Local(2), Resources(), console=Console(quiet=True)
        )
    assert [
        p.name for p in (tmp_path / "out").rglob("*") if p.is_file() and p.suffix != ".lock"
    ] == ["options.json"]


def test_a_shard_that_an_engine_lost_is_a_failure_until_it_is_labelled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = pools.write_pool(tmp_path / "pool", 3, 4)

    class Losing(Local):
        def map(self, opening: Any, items: Any, resources: Resources) -> Any:
            yield items[1], Lost("the node died")
            yield from super().map(opening, [items[0], items[2]], resources)

    out = tmp_path / "out"
    summary = pools.label(out, place, engine=Losing(), console=Console())
    assert summary is not None
    assert [f["reason"] for f in summary["failed"]] == ["the node died"]
    assert "pool-001.tar is left out: the node died" in capsys.readouterr().err
    assert len(done(out)) == 2
    for _ in range(2):
        whole = pools.label(out, place)
        assert whole is not None
        assert (whole["failed"], whole["images"]) == ([], 12)
        # The process may have died between the labels and the end of the piece of work.
        LabelFolder(Place.at(out)).fail(find_shards([place])[1], "the node died")


# --- a cluster


@pytest.mark.weekly
def test_a_cluster_writes_the_same_bytes(cluster: Any, tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 6, 8)
    pools.write_parquet(place / "table.parquet", pools.images(20, 60))
    (place / "torn.tar").write_bytes(b"no tar" * 200)
    pools.write_folder(tmp_path / "photos", pools.images(9) | {"torn.png": b""})
    places = [place, tmp_path / "photos"]
    alone = pools.label(tmp_path / "alone", *places)
    summary = pools.label(
        tmp_path / "out", *places, engine=Ray(), open_model=pools.ByColour, workers=1
    )
    assert summary == alone
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")
    labels = tmp_path / "out" / LABELS
    written = {path: path.stat().st_mtime_ns for path in labels.iterdir()}
    pools.label(tmp_path / "out", *places, engine=Ray(), open_model=pools.ByColour, workers=1)
    assert {path: path.stat().st_mtime_ns for path in labels.iterdir()} == written


def test_a_machine_that_does_not_see_the_folder_is_named(tmp_path: Path) -> None:
    out = LabelFolder(Place.at(tmp_path / "elsewhere"))
    labelling = Labelling(out, "m", pools.CLASSES, 0.5, pools.ByColour, workers=1)
    with (
        pytest.raises(TutelageError, match=r"does not see the folder .*elsewhere; --out must be"),
        labelling.opened(),
    ):
        pass


# --- several processes


def start(out: Path, *places: Path, seconds: float = 0.0, share: str = "1/1") -> Any:
    words = [sys.executable, str(Path(pools.__file__)), str(out), str(seconds), share]
    return subprocess.Popen([*words, *map(str, places)])


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


def done(out: Path) -> list[str]:
    return [p.name for p in out.glob(f"{LABELS}/[!.]*.parquet")]


def written(out: Path) -> dict[str, bytes]:
    """Every file but the locks, which are as many as there were shares."""
    return {name: text for name, text in contents(out).items() if not name.endswith(".lock")}


def test_shares_are_the_whole_pool_and_the_last_one_writes_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = pools.write_pool(tmp_path / "pool", 7, 4)
    pools.label(tmp_path / "alone", place)
    out = tmp_path / "out"
    for number, left in ((2, 5), (3, 3)):
        summary = pools.label(out, place, share=Share(number, 3), console=Console())
        assert summary is None
        assert f"{left} shards are left to other shares" in capsys.readouterr().err
    assert not (out / "label.json").exists()
    model = pools.ByColour()
    last = pools.label(out, place, share=Share(1, 3), model=model)
    assert model.seen == 12
    assert last is not None
    assert last["images"] == 28
    assert written(out) == written(tmp_path / "alone")


def test_labels_of_two_models_are_never_summed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where both began at once, so that each found its own options."""
    place = pools.write_pool(tmp_path / "pool", 2, 4)
    pools.label(tmp_path / "out", place, share=Share(1, 2))
    monkeypatch.setattr(LabelFolder, "pin", lambda *_: None)
    with pytest.raises(TutelageError, match=r"labels of .*pool-000.* made with another model or"):
        pools.label(tmp_path / "out", place, share=Share(2, 2), digest="another")
    assert not (tmp_path / "out" / "label.json").exists()


def test_processes_label_their_shares_side_by_side(tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 6, 8)
    pools.label(tmp_path / "alone", place)
    out = tmp_path / "out"
    with start(out, place, share="1/2") as one, start(out, place, share="2/2") as other:
        assert [one.wait(60), other.wait(60)] == [0, 0]
    assert written(out) == written(tmp_path / "alone")


def test_the_same_share_is_refused_to_a_second_process_while_the_first_lives(
    tmp_path: Path,
) -> None:
    pytest.importorskip("fcntl")
    place = pools.write_pool(tmp_path / "pool", 2, 40)
    out = tmp_path / "out"
    with start(out, place, seconds=30) as first:
        until(lambda: any(out.glob(f"{LABELS}/.*")))
        with pytest.raises(TutelageError, match=r"another process labels this pool in .*--share"):
            pools.label(out, place)
        first.kill()
    assert pools.label(out, place) is not None


def test_two_processes_at_one_shard_spoil_nothing(tmp_path: Path) -> None:
    """As where a file system has no locks; what a living process writes is not swept away."""
    place = pools.write_pool(tmp_path / "pool", 1, 40)
    pools.label(tmp_path / "alone", place)
    out = tmp_path / "out"
    with start(out, place, seconds=0.1, share="1/2") as slow:
        until(lambda: any(out.glob(f"{LABELS}/.*")))
        (half,) = out.glob(f"{LABELS}/.*")
        assert pools.label(out, place) is not None
        assert half.exists()
        assert len(done(out)) == 1
        assert slow.wait(60) == 0
    assert written(out) == written(tmp_path / "alone")


@pytest.mark.parametrize("after", [0, 1, 3])
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
    model = pools.ByColour()
    pools.label(out, place, model=model)
    assert model.seen == 40 * (5 - len(finished))
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
