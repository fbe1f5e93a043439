"""Labelling a pool: which model, the rows, restarts, several processes, sudden death."""

import json
import os
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
from dataclasses import dataclass
from functools import partial
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
from tutelage.deploy.pseudo_label import Labelling, digest_of, model_files, of_cluster, open_files
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.console import Console
from tutelage.system.engines import Local, Lost, Resources
from tutelage.system.errors import MissingExtra, TutelageError
from tutelage.system.storage import Place

parquet = pytest.importorskip("pyarrow.parquet")
IMAGE = np.full((4, 6, 3), (200, 40, 90), np.uint8)
TORN = b"no tar" * 200


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with an exported file."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_text("{}")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"weights")
    write_model(tmp_path / "m" / "model.onnx")
    return tmp_path / "m"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Three tars of five images."""
    return pools.write_pool(tmp_path / "pool", 3, 5)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def labels(out: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of each finished file of labels."""
    found = out.glob(f"{LABELS}/[!.]*.parquet")
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def written(out: Path) -> dict[str, bytes]:
    """Every file but the locks, which are as many as there were shares."""
    return {name: text for name, text in contents(out).items() if not name.endswith(".lock")}


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)


# --- the model


def test_a_model_folder_needs_torch_only_where_nothing_is_exported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str, extra: str) -> None:
        raise MissingExtra(f"no {module}")

    monkeypatch.setattr(pseudo_label, "find_spec", lambda _: None)
    monkeypatch.setattr(find, "need", missing)
    files = model_files(find_model(folder))
    assert isinstance(open_files(files), OnnxModel)
    assert files == model_files(find_model(folder / "model.onnx"))
    (folder / "model.onnx").unlink()
    with pytest.raises(MissingExtra, match=r"has no exported \.onnx file: no torch"):
        open_files(model_files(find_model(folder)))


def test_with_torch_a_model_folder_is_its_weights_and_every_byte_counts(folder: Path) -> None:
    pytest.importorskip("torch")
    files = model_files(find_model(folder))
    assert files == [folder / "model.json", folder / "model.safetensors"]
    seen = {digest_of(files), digest_of(model_files(find_model(folder / "model.onnx")))}
    for path in files:
        path.write_bytes(path.read_bytes() + b" ")
        seen.add(digest_of(files))
    assert len(seen) == 4


@pytest.mark.parametrize("kind", ["onnx", "folder"])
def test_a_model_travels_and_leaves_no_file(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if kind == "folder":
        pytest.importorskip("timm")
        from deployed import small_model

        from tutelage.models.folder import save_model

        folder = tmp_path / "small"
        save_model(small_model(["a", "b"], unknown_threshold=-1.0), folder)
    files = model_files(find_model(folder if kind == "folder" else folder / "model.onnx"))
    here, read = open_files(files), {path.name: path.read_bytes() for path in files}
    travelled = pickle.loads(pickle.dumps(partial(pseudo_label.open_contents, read, "cpu")))
    shutil.rmtree(folder)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    there = travelled()
    assert list((tmp_path / "temporary").iterdir()) == []
    assert there.classes == here.classes
    for mine, theirs in zip(
        here.finish(here.prepare([IMAGE])), there.finish(there.prepare([IMAGE])), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that knows unknown images, exported and in a folder; the folder of a plain one."""
    pytest.importorskip("timm")
    from deployed import small_model

    from tutelage.deploy.onnx import export_onnx
    from tutelage.models.folder import save_model

    place = tmp_path_factory.mktemp("small")
    made = small_model(["a", "b", "c"], unknown_threshold=-1.3)
    export_onnx(made, place / "model.onnx")
    save_model(made, place / "folder")
    save_model(small_model(["a", "b", "c"]), place / "plain")
    return {"onnx": place / "model.onnx", "folder": place / "folder", "plain": place / "plain"}


@pytest.mark.parametrize("kind", ["onnx", "folder", "plain"])
def test_the_answers_are_those_of_predict(
    kind: str, small: dict[str, Path], tmp_path: Path, out: Path
) -> None:
    from deployed import IMAGES

    photos, rejects = tmp_path / "photos", kind != "plain"
    photos.mkdir()
    for number, image in enumerate([*IMAGES, *IMAGES[:3]] * 3):
        Image.fromarray(image).save(photos / f"{number:02d}.png")
    summary = api.pseudo_label(small[kind], [photos], out, quiet=True)
    answers, _ = api.predict(small[kind], [photos], reject=rejects)
    found = pools.rows(out)
    assert [str(photos / row["image"]) for row in found] == [one.image for one in answers]
    assert len({row["label"] for row in found}) > 1
    assert len({row["unknown"] for row in found}) == 1 + rejects
    assert rejects == all(row["energy"] is not None for row in found)
    for row, one in zip(found, answers, strict=True):
        assert row["unknown"] == one.rejected
        assert row["label"] == max(one.probabilities, key=one.probabilities.__getitem__)
        # A batch of 64 in torch rounds otherwise than one image does; onnxruntime does not.
        assert row["confidence"] == pytest.approx(one.confidence, abs=1e-6 * (kind != "onnx"))
    assert summary is not None
    assert summary["labelled"] == len(answers)


# --- the command


def test_one_path_is_not_read_letter_by_letter_and_this_process_needs_no_ray(
    pool: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # an import of it fails
    model = write_model(tmp_path / "m.onnx")
    for images in (str(pool), pool, [pool]):
        summary = api.pseudo_label(model, images, out, quiet=True)
        assert summary is not None
        assert summary["images"] == 15
    with pytest.raises(TutelageError, match=r'pip install "tutelage\[ray\]"'):
        api.pseudo_label(model, pool, tmp_path / "out2", engine="ray")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        *(
            ({"share": share}, rf"--share {share}: expected i/n, part i of n, such")
            for share in ("0/4", "5/4", "1", "1/4/2", "-1/4", "a/b", "1/0")
        ),
        ({"model": "absent"}, "there is no model absent"),
        ({"threshold": 1.5}, r"--threshold 1\.5: expected a probability, from 0 to 1"),
        ({"out": "pool/labels"}, "lies in .*pool, whose images are labelled; move it"),
        ({"images": "*", "out": "pool/labels"}, r"lies in \*, whose images"),
        ({"images": "po*", "out": "pool/labels"}, r"lies in po\*, whose images"),
        ({"out": "mine"}, r"holds a label\.json and no options\.json"),
    ],
)
def test_what_is_refused_before_anything_is_written(
    given: dict[str, Any], said: str, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "m.onnx")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "label.json").write_text("mine")
    with pytest.raises(TutelageError, match=said):
        api.pseudo_label(**{"model": "m.onnx", "images": "pool", "out": "out", **given})
    assert (tmp_path / "mine" / "label.json").read_text() == "mine"
    assert not (tmp_path / "out").exists()
    assert len(list(pool.iterdir())) == 3


def test_ranks_divide_a_share_further(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pseudo_label._share(None) == (1, 1)
    assert pseudo_label._share("2/3") == (2, 3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    taken = set()
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        assert pseudo_label._share(None) == (1 + rank, 2)
        taken |= {pseudo_label._share(share) for share in ("1/3", "2/3", "3/3")}
    assert taken == {(number, 6) for number in range(1, 7)}


def test_a_shard_that_cannot_be_read_waits_for_its_mend(
    pool: Path, out: Path, tmp_path: Path
) -> None:
    torn, accepted = tmp_path / "torn.tar", tmp_path / "accepted.parquet"
    torn.write_bytes(TORN)
    label = partial(api.pseudo_label, write_model(tmp_path / "m.onnx"), [torn, pool], quiet=True)
    with pytest.raises(
        TutelageError,
        match=r"^1 of 4 shards could not be read \(first: .*torn\.tar: .*\); what else .* is "
        r"labelled, and .*accepted\.parquet is written when all are labelled\. Mend them",
    ):
        label(tmp_path / "alone", threshold=0.1, accepted=accepted)
    assert not accepted.exists()

    with pytest.raises(TutelageError, match=r"what else .* is labelled\. Mend them and repeat"):
        label(out, share="1/2")
    assert label(out, share="2/2") is None  # the torn shard is left
    assert not (out / "label.json").exists()
    with pytest.raises(TutelageError, match="1 of 4 shards"):
        label(out, share="1/2")
    assert len(json.loads((out / "label.json").read_text())["failed"]) == 1

    pools.write_tar(torn, pools.images(1))
    for place in (tmp_path / "alone", out):
        given = {"threshold": 0.1, "accepted": accepted} if place != out else {"share": "1/2"}
        summary = label(place, **given)
        assert summary is not None
        assert (summary["images"], summary["failed"]) == (16, [])
    assert accepted.exists()


# --- a cluster


def test_two_shards_share_a_gpu_and_their_threads_the_cores_of_its_machine() -> None:
    nodes = [Resources(64, 0), Resources(16, 1), Resources(96, 8)]
    assert of_cluster(nodes, exported=False) == (Resources(6, 0.5), "cuda", 6)
    for given, exported in ((nodes, True), (nodes[:1], False)):
        assert of_cluster(given, exported=exported) == (Resources(1, 0), "cpu", 1)


@pytest.mark.weekly
def test_a_cluster_writes_the_same_bytes(
    cluster: Any, pool: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pools.write_parquet(pool / "table.parquet", pools.images(20, 60))
    (pool / "torn.tar").write_bytes(TORN)
    pools.write_folder(tmp_path / "photos", pools.images(9) | {"torn.png": b""})
    model, places = write_model(tmp_path / "m.onnx", threshold=0.5), [pool, tmp_path / "photos"]
    before = None
    for place, engine in ((tmp_path / "alone", "local"), (out, "ray"), (out, "ray")):
        with pytest.raises(TutelageError, match=r"1 of 6 shards could not be read .*torn\.tar"):
            api.pseudo_label(model, places, place, engine=engine)  # type: ignore[arg-type]
        if place == out:
            assert contents(out) == contents(tmp_path / "alone")
            assert before in (None, labels(out)), "what is done is not done again"
            before = labels(out)
    assert "Ray: 2 nodes, 2 cores, 0 GPUs" in capsys.readouterr().err


@pytest.mark.weekly
def test_a_command_on_a_cluster_ends_soon_when_it_is_asked_to(
    cluster: Any, out: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "m.onnx")
    place = pools.write_pool(tmp_path / "pool", 2, 4)
    for number in range(2, 400):
        shutil.copy(place / "pool-001.tar", place / f"pool-{number:03d}.tar")
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
    finished = [*out.glob("labels/pool-*")]
    assert len(finished) < 400
    assert all(about(Place.at(path)) is not None for path in finished)
    summary = api.pseudo_label(model, place, out, quiet=True)
    assert summary is not None
    assert summary["images"] == 1600
    assert not any(out.glob("labels/.*"))


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.weekly
def test_a_cluster_divides_the_work_itself(
    ranks: int, pool: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    share = "1/2" if ranks == 1 else None
    with pytest.raises(TutelageError, match=r"--engine ray divides the work .* leave out --share"):
        api.pseudo_label("absent", pool, out, engine="ray", share=share)


# --- rows


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


@pytest.mark.parametrize("kind", ["tar", "parquet", "folder"])
def test_every_image_has_its_label_in_its_place(
    kind: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_files, "_LABEL_ROWS", 10)  # several row groups
    files = pools.images(47)
    place = {
        "tar": lambda: pools.write_tar(tmp_path / "a.tar", files),
        "parquet": lambda: pools.write_parquet(tmp_path / "a.parquet", files, row_group_size=7),
        "folder": lambda: pools.write_folder(tmp_path / "a", files),
    }[kind]()
    summary = pools.label(out, place)
    rows = pools.rows(out)
    assert brief(rows) == expected(files)
    assert {row["shard"] for row in rows} == {find_shards([place])[0].name}
    accepted = sum(row["accepted"] for row in rows)
    assert 0 < accepted < 47
    assert all(r["reason"] == (None if r["accepted"] else "confidence below 0.5") for r in rows)
    assert all(row["energy"] is None and row["unknown"] is None for row in rows)
    assert summary == json.loads((out / "label.json").read_text())
    assert [summary[key] for key in label_files.COUNTS] == [47, 47, accepted, 0, 0]
    assert summary["classes"] == {
        name: {
            "labelled": sum(row["label"] == name for row in rows),
            "accepted": sum(row["label"] == name and row["accepted"] for row in rows),
        }
        for name in pools.CLASSES
    }
    assert summary["failed"] == []
    (path,) = (out / LABELS).iterdir()
    footer = parquet.read_metadata(path).metadata[b"tutelage.label"]  # as earlier versions read it
    assert json.loads(footer) == about(Place.at(path))


def test_what_looks_like_none_of_the_classes_is_not_accepted(out: Path, tmp_path: Path) -> None:
    tar = pools.write_tar(tmp_path / "a.tar", pools.images(24))
    model = pools.ByColour(unknown_threshold=-200.0)
    summary = pools.label(out, tar, model=model, threshold=0.0)
    rows = pools.rows(out)
    assert [row["unknown"] for row in rows] == [row["energy"] > -200 for row in rows]
    assert [row["accepted"] for row in rows] == [not row["unknown"] for row in rows]
    reasons = {row["unknown"]: row["reason"] for row in rows}
    assert reasons == {True: label_files.UNKNOWN, False: None}
    assert summary["unknown"] == sum(row["unknown"] for row in rows)


def test_what_cannot_be_read_is_listed_with_its_reason(out: Path, tmp_path: Path) -> None:
    files = pools.images(9)
    files |= {"00003.png": b"", "00008.png": files["00008.png"][:40], "../up.png": b"x"}
    summary = pools.label(out, pools.write_tar(tmp_path / "a.tar", files))
    rows = {row["image"]: row for row in pools.rows(out)}
    assert list(rows) == list(files)
    bad = {name: row["reason"] for name, row in rows.items() if row["label"] is None}
    assert list(bad) == ["00003.png", "00008.png", "../up.png"]
    assert all((rows[n]["accepted"], rows[n]["confidence"]) == (False, None) for n in bad)
    assert (bad["00003.png"], bad["../up.png"]) == ("the file is empty", "has .. in its name")
    assert "damaged" in bad["00008.png"]
    good = [row for row in rows.values() if row["label"]]
    assert brief(good) == expected({row["image"]: files[row["image"]] for row in good})
    assert (summary["images"], summary["labelled"], summary["skipped"]) == (10, 7, 3)


def test_large_images_are_run_a_few_at_a_time(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudo_label, "BATCH_PIXELS", 100)  # two images of 8 x 8
    files, model, sizes = pools.images(11), pools.ByColour(), []
    whole = model.prepare
    model.prepare = lambda pixels: sizes.append(len(pixels)) or whole(pixels)  # type: ignore
    pools.label(out, pools.write_tar(tmp_path / "a.tar", files), model=model, workers=1)
    assert sizes == [2, 2, 2, 2, 2, 1]
    assert brief(pools.rows(out)) == expected(files)


# --- shards at once


@dataclass
class Made:
    """A shard of what a function gives."""

    name: str
    entries: Callable[[threading.Event], Iterator[Any]]

    def fingerprint(self) -> str:
        return "1"

    @contextmanager
    def opened(self, stop: threading.Event) -> Iterator[Iterator[Any]]:
        yield self.entries(stop)


def label_made(out: Path, made: list[Any], model: Any = pools.ByColour) -> None:
    labelling = Labelling(LabelFolder(Place.at(out)), "m", pools.CLASSES, 0.5, model, workers=2)
    engine = Local(len(made))
    pseudo_label.label_shards(labelling, made, engine, Resources(), console=Console(quiet=True))


def test_memory_does_not_grow_with_a_shard(out: Path) -> None:
    """However slow the writing is, only so many images are read ahead of it."""
    count, most = 0, 0
    lock, model = threading.Lock(), pools.ByColour()

    def read() -> bytes:
        nonlocal count, most
        with lock:
            count += 1
            most = max(most, count - model.seen)
        return pools.png(1)

    endless = Made("endless", lambda _: ((str(number), read) for number in range(1500)))
    label_made(out, [endless], lambda: model)
    assert count == 1500
    assert model.batch * 2 <= most <= model.batch * (2 * pseudo_label._AHEAD + 2)


def test_one_shard_is_opened_while_another_is_read_and_only_one_is_read(out: Path) -> None:
    """The second of two shards at once is copied here meanwhile, not read."""
    opened: list[str] = []
    reading: list[str] = []

    def watched(name: str) -> Made:
        def entries() -> Iterator[Any]:
            for number in range(24):
                if number == 8:  # the other one must get so far without being read
                    until(lambda: len(opened) == 2)
                reading.append(name)
                yield str(number), lambda: pools.png(1)

        return Made(name, lambda _: opened.append(name) or entries())  # type: ignore[func-returns-value]

    label_made(out, [watched("a"), watched("b")])
    assert reading in (["a"] * 24 + ["b"] * 24, ["b"] * 24 + ["a"] * 24)


def test_the_copying_of_a_shard_that_is_stopped_is_no_failure_of_the_shard(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk ends the command while the other shard is on its way here."""
    copying = threading.Event()

    def far(stop: threading.Event) -> Iterator[Any]:
        copying.set()
        stop.wait(30)
        raise OSError("the copying was stopped")

    def full(*_: object) -> None:
        assert copying.wait(30)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pseudo_label, "write_labels", full)
    near = find_shards([pools.write_tar(tmp_path / "near.tar", pools.images(4))])
    with pytest.raises(OSError, match="No space left"):
        label_made(out, [*near, Made("far", far)])
    assert list(written(out)) == ["options.json"]


def test_a_shard_that_an_engine_lost_is_a_failure_until_it_is_labelled(
    pool: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Losing(Local):
        def map(self, opening: Any, items: Any, resources: Resources) -> Any:
            yield items[1], Lost("the node died")
            yield from super().map(opening, [items[0], items[2]], resources)

    summary = pools.label(out, pool, engine=Losing(), console=Console())
    assert [one["reason"] for one in summary["failed"]] == ["the node died"]
    assert "pool-001.tar is left out: the node died" in capsys.readouterr().err
    assert len(labels(out)) == 2
    whole = pools.label(out, pool)
    assert (whole["failed"], whole["images"]) == ([], 15)


# --- again


# What happens to the pool and its labels: shards whose labels change, images that are labelled
# anew, images in all, what is said.
CHANGES: dict[str, tuple[Callable[[Path, Path], object], set[str], int, int, str]] = {
    "nothing": (lambda pool, out: None, set(), 0, 15, ""),
    "one more": (
        lambda pool, _: pools.write_tar(pool / "pool-003.tar", pools.images(5, 50)),
        *({"pool-003"}, 5, 20, ""),
    ),
    "one changed": (
        lambda pool, _: pools.write_tar(pool / "pool-001.tar", pools.images(7, 100)),
        *({"pool-001"}, 7, 17, "pool-001.tar has changed since it was labelled: it is labelled"),
    ),
    "one less": (
        lambda pool, _: (pool / "pool-002.tar").unlink(),
        *(set(), 0, 10, "also holds the labels of 1 shard outside this pool"),
    ),
    "damaged labels": (
        lambda _, out: os.truncate(next(out.glob(f"{LABELS}/pool-001*")), 100),
        *({"pool-001"}, 5, 15, "is damaged: "),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_has_changed_is_labelled_again(
    change: str,
    pool: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pools.label(out, pool)
    before, whole = labels(out), contents(out)
    make, changed, anew, images, said = CHANGES[change]
    make(pool, out)
    model = pools.ByColour()
    monkeypatch.chdir(pool)  # the pool's name is the same from anywhere
    summary = pools.label(out, "../pool", model=model, console=Console())
    assert (model.seen, summary["images"]) == (anew, images)
    assert said in capsys.readouterr().err
    after = labels(out)
    assert before.keys() <= after.keys()
    assert {name[:8] for name in after if after[name] != before.get(name)} == changed
    if images == 15:
        assert contents(out) == whole


@pytest.mark.parametrize("changed", ["digest", "threshold"])
def test_another_model_or_threshold_is_refused(changed: str, pool: Path, out: Path) -> None:
    pools.label(out, pool)
    before = contents(out)
    other = {"digest": "another", "threshold": 0.6}[changed]
    with pytest.raises(TutelageError, match=r"made with another .*choose another --out"):
        pools.label(out, pool, **{changed: other})
    assert contents(out) == before


def test_a_shard_that_cannot_be_read_is_named_and_the_others_are_labelled(
    pool: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pool / "pool-001.tar").write_bytes(TORN)
    pools.write_parquet(pool / "torn.parquet", pools.images(900), row_group_size=50)
    torn = bytearray((pool / "torn.parquet").read_bytes())
    middle = len(torn) // 2
    torn[middle - 5000 : middle + 4000] = b"\xff" * 9000
    (pool / "torn.parquet").write_bytes(torn)
    summary = pools.label(out, pool, console=Console())
    assert summary["images"] == 10
    assert [Path(f["shard"]).name for f in summary["failed"]] == ["pool-001.tar", "torn.parquet"]
    assert "not a readable tar" in summary["failed"][0]["reason"]
    assert "pool-001.tar is left out" in capsys.readouterr().err
    names = sorted(p.name[:8] for p in (out / LABELS).iterdir())
    assert names == ["pool-000", "pool-002"]  # nothing half-written
    pools.write_tar(pool / "pool-001.tar", pools.images(5))
    (pool / "torn.parquet").unlink()
    summary = pools.label(out, pool)
    assert (summary["failed"], summary["images"]) == ([], 15)


def test_a_full_disk_is_told_and_what_is_finished_stays(
    pool: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, parts: Any, model: Any, facts: dict[str, Any]) -> None:
        label_files.write_labels(path, parts, model, facts)
        if "pool-001" in facts["shard"]:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pseudo_label, "write_labels", full)
        with pytest.raises(OSError, match=r"No space left.*pool-001.*\.parquet"):
            pools.label(out, pool)
    done = sorted(path.name[:8] for path in (out / LABELS).iterdir())
    # Two shards are labelled at once, so the last may be finished; and there are no leftovers.
    assert done in (["pool-000"], ["pool-000", "pool-002"])
    model = pools.ByColour()
    pools.label(out, pool, model=model)
    assert model.seen == 5 * (3 - len(done))


# --- object stores


@pytest.fixture
def bucket() -> Iterator[Any]:
    """A store in memory, whose folder /bucket is emptied."""
    memory = fsspec.filesystem("memory")
    yield memory
    if memory.exists("/bucket"):
        memory.rm("/bucket", recursive=True)


def test_an_image_that_its_store_does_not_give_is_not_skipped(
    bucket: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe({f"/bucket/{name}": content for name, content in pools.images(5).items()})
    give = type(bucket).cat_file

    def busy(self: Any, path: str, *given: Any, **options: Any) -> Any:
        if path.endswith("00003.png"):
            raise ConnectionError("503 Slow Down")
        return give(self, path, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "cat_file", busy)
        (failed,) = pools.label(out, "memory://bucket")["failed"]
    assert "memory://bucket/00003.png: 503 Slow Down" in failed["reason"]
    assert not list((out / LABELS).iterdir())
    summary = pools.label(out, "memory://bucket")
    assert (summary["failed"], summary["labelled"]) == ([], 5)


def test_a_full_disk_for_copies_ends_the_command(
    bucket: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.pipe("/bucket/a.tar", b"1")
    monkeypatch.setattr(tempfile, "TemporaryFile", FullFile)
    with pytest.raises(OSError, match="No space left on device"):
        pools.label(out, "memory://bucket/a.tar")
    assert not (out / "label.json").exists()


def test_a_shard_that_does_not_say_how_it_is_stays_as_it_is(
    pool: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pools.label(out, pool)
    before = written(out)

    def silent(shard: Any) -> str:
        raise OSError(f"{shard.name}: 503")

    with monkeypatch.context() as patch:
        patch.setattr(shards.FileShard, "fingerprint", silent)
        assert len(pools.label(out, pool, console=Console())["failed"]) == 3
    said = capsys.readouterr().err
    assert "is left out" in said
    assert "has changed" not in said
    pools.label(out, pool)
    assert written(out) == before


def test_remote_shards_give_the_same_rows(bucket: Any, tmp_path: Path) -> None:
    pools.write_tar(tmp_path / "a.tar", pools.images(9))
    pools.write_parquet(tmp_path / "b.parquet", pools.images(9, 20))
    pools.write_folder(tmp_path / "c", pools.images(9, 40))
    for path in tmp_path.rglob("*.*"):
        bucket.pipe(f"/bucket/{path.relative_to(tmp_path)}", path.read_bytes())
    urls = [f"memory://bucket/{name}" for name in ("[ab].*", "c")]
    assert pools.label(tmp_path / "far", *urls)["images"] == 27
    pools.label(tmp_path / "near", *(tmp_path / n for n in ("a.tar", "b.parquet", "c")))
    assert brief(pools.rows(tmp_path / "far")) == brief(pools.rows(tmp_path / "near"))
    model = pools.ByColour()
    pools.label(tmp_path / "far", *urls, model=model)
    assert model.seen == 0
    bucket.pipe("/bucket/a.tar", (tmp_path / "a.tar").read_bytes())  # stored anew
    pools.label(tmp_path / "far", *urls, model=model)
    assert model.seen == 9


# --- several processes


def start(out: Path, *places: Path, seconds: float = 0.0, share: str = "1/1") -> Any:
    words = [sys.executable, str(Path(pools.__file__)), str(out), str(seconds), share]
    return subprocess.Popen([*words, *map(str, places)])


def half_written(out: Path) -> list[Path]:
    return list(out.glob(f"{LABELS}/.*"))


def test_a_machine_that_does_not_see_the_folder_is_named(out: Path) -> None:
    folder = LabelFolder(Place.at(out))
    labelling = Labelling(folder, "m", pools.CLASSES, 0.5, pools.ByColour, workers=1)
    with (
        pytest.raises(TutelageError, match=r"does not see the folder .*out; --out must be"),
        labelling.opened(),
    ):
        pass


def test_shares_are_the_whole_pool_and_the_last_one_writes_the_summary(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = pools.write_pool(tmp_path / "pool", 7, 4)
    pools.label(tmp_path / "alone", place)
    for number, left in ((2, 5), (3, 3)):
        assert pools.label(out, place, share=(number, 3), console=Console()) is None
        assert f"{left} shards are left to other shares" in capsys.readouterr().err
    assert not (out / "label.json").exists()
    model = pools.ByColour()
    assert pools.label(out, place, share=(1, 3), model=model)["images"] == 28
    assert model.seen == 12
    assert written(out) == written(tmp_path / "alone")


def test_labels_of_two_models_are_never_summed_up(
    pool: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where both began at once, so that each found its own options."""
    pools.label(out, pool, share=(1, 2))
    monkeypatch.setattr(LabelFolder, "pin", lambda *_: None)
    with pytest.raises(TutelageError, match=r"labels of .*pool-000.* made with another model or"):
        pools.label(out, pool, share=(2, 2), digest="another")
    assert not (out / "label.json").exists()


def test_the_same_share_is_refused_to_a_second_process_while_the_first_lives(
    out: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fcntl")
    place = pools.write_pool(tmp_path / "pool", 2, 40)
    with start(out, place, seconds=30) as first:
        until(lambda: bool(half_written(out)))
        with pytest.raises(TutelageError, match=r"another process labels this pool in .*--share"):
            pools.label(out, place)
        first.kill()
    assert pools.label(out, place) is not None


def test_two_processes_at_one_shard_spoil_nothing(out: Path, tmp_path: Path) -> None:
    """As where a file system has no locks; what a living process writes is not swept away."""
    place = pools.write_pool(tmp_path / "pool", 1, 40)
    pools.label(tmp_path / "alone", place)
    with start(out, place, seconds=0.1, share="1/2") as slow:
        until(lambda: any(path.stat().st_size for path in half_written(out)))  # it is locked
        (half,) = half_written(out)
        assert pools.label(out, place) is not None
        assert half.exists()
        assert len(labels(out)) == 1
        assert slow.wait(60) == 0
    assert written(out) == written(tmp_path / "alone")


@pytest.mark.parametrize("after", [0, 3])
def test_a_killed_process_leaves_nothing_that_the_next_does_not_put_right(
    after: int, out: Path, tmp_path: Path
) -> None:
    place = pools.write_pool(tmp_path / "pool", 5, 40)
    pools.label(tmp_path / "alone", place)
    with start(out, place, seconds=0.02) as process:
        # In the middle of a shard: its temporary file is there.
        until(lambda: len(labels(out)) >= after and bool(half_written(out)))
        process.send_signal(signal.SIGKILL)
    finished = labels(out)
    assert half_written(out)
    model = pools.ByColour()
    pools.label(out, place, model=model)
    assert model.seen == 40 * (5 - len(finished))
    assert finished.items() <= labels(out).items()
    assert contents(out) == contents(tmp_path / "alone")


def test_sigterm_ends_it_soon_and_leaves_nothing_half_written(out: Path, tmp_path: Path) -> None:
    place = pools.write_pool(tmp_path / "pool", 5, 40)
    with start(out, place, seconds=0.05) as process:
        until(lambda: len(labels(out)) >= 1 and bool(half_written(out)))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert time.monotonic() - began < 5
    assert 1 <= len(labels(out)) < 5
    assert not half_written(out)
