"""The files of a pool's labels, also in an S3 store, through the whole command."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pools
import pytest
import s3
from answering import write_model
from shapes import contents

from tutelage import api, cli
from tutelage.data.open import read_catalog
from tutelage.data.shards import find_shards
from tutelage.deploy import label_files
from tutelage.deploy.label_files import LabelFolder, check_manifest, write_accepted
from tutelage.system.errors import TutelageError
from tutelage.system.storage import Place

parquet = pytest.importorskip("pyarrow.parquet")
SHARDS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "m.onnx")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pools.write_pool(tmp_path_factory.mktemp("pool") / "pool", SHARDS, 6)


@pytest.fixture(scope="module")
def here(model: Path, pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels in a folder of this machine, and what was accepted."""
    out = tmp_path_factory.mktemp("here")
    api.pseudo_label(
        model, pool, out / "out", threshold=0.4, accepted=out / "accepted.parquet", quiet=True
    )
    return out


@pytest.fixture
def out(door: s3.Door, tmp_path: Path) -> str:
    """An address for labels."""
    return f"s3://{s3.BUCKET}/{tmp_path.name}/labels"


def words(model: Path, pool: Path | str, out: str, *more: str) -> list[str]:
    return ["pseudo-label", str(model), str(pool), "--out", out, "--threshold", "0.4", *more]


def stored(out: str) -> dict[str, bytes]:
    """Every object below an address."""
    store, root = s3.bucket(), out.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): store.cat_file(path) for path in store.find(root)}


def local(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(out).items() if ".lock" not in name}


def test_a_store_holds_the_files_that_a_folder_would(
    out: str, model: Path, pool: Path, here: Path, tmp_path: Path, capsys: Any
) -> None:
    accepted = tmp_path / "accepted.parquet"
    assert cli.main(words(model, pool, out, "--accepted", str(accepted))) == 0
    assert stored(out) == local(here / "out")
    assert accepted.read_bytes() == (here / "accepted.parquet").read_bytes()
    assert f"labels: {out}/labels" in capsys.readouterr().err


@pytest.fixture
def far(out: str, pool: Path) -> str:
    """The address of the pool in the store of its labels."""
    for path in pool.iterdir():
        s3.bucket().put_file(str(path), f"{out.removesuffix('labels')}pool/{path.name}")
    return f"{out.removesuffix('labels')}pool"


def test_a_pool_and_its_labels_are_in_one_store(out: str, model: Path, far: str) -> None:
    summary = api.pseudo_label(model, far, out, quiet=True)
    assert summary is not None
    assert summary["images"] == SHARDS * 6
    with pytest.raises(TutelageError, match=rf"--out {far}/out lies in {far}, whose"):
        api.pseudo_label(model, far, f"{far}/out", quiet=True)


@pytest.mark.parametrize("how", [s3.RESET, *s3.ANSWERS])
def test_a_store_that_fails_loses_nothing(
    how: str, door: s3.Door, out: str, model: Path, pool: Path, here: Path, capsys: Any
) -> None:
    door.fault = s3.Fault(how, "PUT", r"/labels/labels/", after=2)
    assert cli.main(words(model, pool, out, "--quiet")) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"tutelage pseudo-label: {out}/labels/pool-")
    assert said.endswith("; run the same command again to continue\n")
    assert said.count("\n") == 1
    expected = local(here / "out")
    left = stored(out)
    assert len(left) == 3  # two shards, and what they are made with
    assert left.items() <= expected.items()

    door.fault = s3.Fault("denied", "PUT", "/labels/labels/", after=SHARDS)  # of whole files, all
    assert cli.main(words(model, pool, out, "--quiet")) == 0
    assert door.fault.met == SHARDS - 2, "what is finished is not labelled again"
    assert stored(out) == expected


def test_a_store_that_does_not_answer_is_not_one_without_labels(
    door: s3.Door, out: str, model: Path, pool: Path, here: Path, capsys: Any
) -> None:
    assert cli.main(words(model, pool, out, "--quiet")) == 0
    for method, path in (("GET", "/labels/labels/"), ("HEAD", "options"), ("GET", "prefix=")):
        door.fault = s3.Fault("expired", method, path)
        assert cli.main(words(model, pool, out, "--quiet")) == 2
        assert capsys.readouterr().err.count("\n") == 1
    door.fault = None
    assert stored(out) == local(here / "out")


def test_a_shard_whose_reading_breaks_off_is_left_out_until_it_can_be_read(
    door: s3.Door, out: str, model: Path, far: str, capsys: Any
) -> None:
    door.fault = s3.Fault(s3.HALF, "GET", r"pool-001\.tar")
    assert cli.main(words(model, far, out, "--quiet")) == 2
    said = capsys.readouterr().err
    assert f"1 of {SHARDS} shards could not be read (first: {far}/pool-001.tar: " in said
    (failed,) = json.loads(stored(out)["label.json"])["failed"]
    assert failed["shard"] == f"{far}/pool-001.tar"
    door.fault = None
    assert cli.main(words(model, far, out, "--quiet")) == 0
    assert sum(name.startswith("labels/") for name in stored(out)) == SHARDS
    assert json.loads(stored(out)["label.json"])["failed"] == []


def test_two_processes_share_a_bucket(out: str, model: Path, pool: Path, here: Path) -> None:
    shares = [words(model, pool, out, "--quiet", "--share", f"{number}/2") for number in (1, 2)]
    started = [
        subprocess.Popen([sys.executable, "-m", "tutelage", *share], env=dict(os.environ))
        for share in shares
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert stored(out) == local(here / "out")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"out": "https://x.org/a"},
            r"--out https://.*: expected a folder, or a store such",
        ),
        ({"accepted": "s3://pool/a.csv"}, r"--accepted s3://pool/a\.csv is an address"),
        ({"accepted": "a.txt"}, r"--accepted a\.txt: expected \.csv \(paths\) or \.parquet"),
        ({"accepted": "there.csv"}, r"there\.csv exists; choose another name"),
        ({"accepted": "a.csv"}, r"the images of .*pool-000\.tar have no paths here; give a \.parq"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(
    given: dict[str, str],
    said: str,
    model: Path,
    pool: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.csv").touch()
    with pytest.raises(TutelageError, match=said):
        api.pseudo_label(model, pool, **{"out": "out", **given})  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_a_share_that_is_not_the_last_reads_no_footers(
    door: s3.Door, out: str, model: Path, pool: Path
) -> None:
    """Or each of a thousand processes would read those of the whole pool."""
    door.fault = s3.Fault("denied", "GET", "/labels/labels/", after=100)
    assert api.pseudo_label(model, pool, out, share="1/2", quiet=True) is None
    assert door.fault.met == 0
    assert api.pseudo_label(model, pool, out, share="2/2", quiet=True) is not None
    assert door.fault.met == SHARDS


def labelled(out: Path, *places: Path | str) -> dict[tuple[str, str], str]:
    """(shard, image) -> label of what was accepted."""
    pools.label(out, *places)
    rows = pools.rows(out)
    assert {row["accepted"] for row in rows} == {True, False}
    return {(row["shard"], row["image"]): row["label"] for row in rows if row["accepted"]}


def manifest_of(out: Path, manifest: Path, *places: Path | str) -> Any:
    """The catalog of a manifest of what was accepted."""
    shards = find_shards(places)
    check_manifest(manifest, shards)
    write_accepted(shards, LabelFolder(Place.at(out)), manifest)
    return read_catalog(manifest)


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_images_in_files_become_a_manifest_of_paths(kind: str, tmp_path: Path) -> None:
    files = pools.images(20) | {"torn.png": b""} | {"b, c/x.png": pools.png(23)}
    place = pools.write_folder(tmp_path / "pool" / "deep", files)
    if kind == "table":
        rows = "".join(f'"deep/{name}"\n' for name in files)
        place = tmp_path / "pool" / "all.csv"
        place.write_text(f"image\n{rows}")
    expected = labelled(tmp_path / "out", place)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")  # ".." leads out of what it leads to
    for folder in ("made", "link"):
        catalog = manifest_of(tmp_path / "out", tmp_path / folder / "accepted.csv", place)
        assert set(catalog.splits) == {"train"}
        found = [catalog.classes[k] for k in catalog.labels]
        assert found == list(expected.values())
        contents = [catalog.source.read(i) for i in range(len(catalog))]
        assert contents == [files[image.removeprefix("deep/")] for _, image in expected]


def test_shards_become_a_manifest_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_files, "_IMAGE_ROWS", 5)
    tars = [pools.write_tar(tmp_path / f"{n}.tar", pools.images(12)) for n in "ab"]
    table = pools.write_parquet(tmp_path / "c.parquet", pools.images(12, 12))
    memory = fsspec.filesystem("memory")
    memory.pipe("/accepted/d.tar", tars[0].read_bytes())
    try:
        places = [*tars, table, "memory://accepted/d.tar"]
        expected = labelled(tmp_path / "out", *places)
        catalog = manifest_of(tmp_path / "out", tmp_path / "accepted.parquet", *places)
    finally:
        memory.rm("/accepted", recursive=True)
    found = {n: catalog.classes[k] for n, k in zip(catalog.names, catalog.labels, strict=True)}
    assert found == {f"{shard}/{image}": label for (shard, image), label in expected.items()}
    for number, name in enumerate(catalog.names):
        assert catalog.source.read(number) == pools.images(24)[name[-9:]]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_says_that_its_labels_are_a_model_s(suffix: str, tmp_path: Path) -> None:
    place = pools.write_folder(tmp_path / "pool", pools.images(20))
    expected = labelled(tmp_path / "out", place)
    manifest = tmp_path / f"accepted{suffix}"
    catalog = manifest_of(tmp_path / "out", manifest, place)
    if suffix == ".csv":
        with manifest.open(encoding="utf-8", newline="") as file:
            by = [row["labelled_by"] for row in csv.DictReader(file)]
    else:
        by = parquet.read_table(manifest)["labelled_by"].to_pylist()
    assert by == ["tutelage pseudo-label: model by colour, threshold 0.5"] * len(expected)
    (said,) = (line for line in catalog.warnings if "labelled_by" in line)
    assert "so its labels are a model's: nothing that is judged by them says" in said


def test_a_shard_that_changed_meanwhile_is_an_error_and_no_manifest(tmp_path: Path) -> None:
    tar = pools.write_tar(tmp_path / "a.tar", pools.images(20))
    labelled(tmp_path / "out", tar)
    folder = LabelFolder(Place.at(tmp_path / "out"))
    same_names = dict(zip(pools.images(20), pools.images(20, 3).values(), strict=True))
    for other in (pools.images(19), pools.images(20, 7), same_names):
        pools.write_tar(tar, other)
        with pytest.raises(TutelageError, match="has changed since it was labelled"):
            write_accepted(find_shards([tar]), folder, tmp_path / "a.parquet")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "out"]
