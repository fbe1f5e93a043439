"""Which model labels a pool, and where the pool lies."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pools
import pytest
from answering import write_model
from PIL import Image
from shapes import contents

from tutelage import api
from tutelage.deploy import pseudo_label
from tutelage.deploy.label_model import ModelFiles
from tutelage.deploy.label_shards import Share
from tutelage.deploy.label_table import about
from tutelage.system.console import Console
from tutelage.system.engines import Ray, Resources
from tutelage.system.errors import TutelageError
from tutelage.system.storage import Place

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
