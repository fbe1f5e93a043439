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


@pytest.mark.weekly
def test_a_cluster_writes_the_same_objects(
    cluster: Any, out: str, model: Path, pool: Path, here: Path
) -> None:
    # Its nodes are older than the store; so the job tells its processes where that is.
    known = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    job = json.dumps({"runtime_env": {"env_vars": known}})
    ray = ["--engine", "ray", "--address", cluster.address, "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "tutelage", *words(model, pool, out, *ray)],
        env={**os.environ, "RAY_JOB_CONFIG_JSON_ENV_VAR": job},
        check=True,
        timeout=120,
    )
    assert stored(out) == local(here / "out")


def test_a_pool_and_its_labels_are_in_one_store(out: str, model: Path, pool: Path) -> None:
    root = out.removesuffix("/labels")
    for path in pool.iterdir():
        s3.bucket().put_file(str(path), f"{root}/pool/{path.name}")
    summary = api.pseudo_label(model, f"{root}/pool", out, quiet=True)
    assert summary is not None
    assert summary["images"] == SHARDS * 6
    with pytest.raises(TutelageError, match=rf"--out {root}/pool/out lies in {root}/pool, whose"):
        api.pseudo_label(model, f"{root}/pool", f"{root}/pool/out", quiet=True)


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
    door: s3.Door, out: str, model: Path, pool: Path, capsys: Any
) -> None:
    root = out.removesuffix("/labels")
    for path in pool.iterdir():
        s3.bucket().put_file(str(path), f"{root}/pool/{path.name}")
    door.fault = s3.Fault(s3.HALF, "GET", r"pool-001\.tar")
    assert cli.main(words(model, f"{root}/pool", out, "--quiet")) == 2
    said = capsys.readouterr().err
    assert f"1 of {SHARDS} shards could not be read (first: {root}/pool/pool-001.tar: " in said
    (failed,) = json.loads(stored(out)["label.json"])["failed"]
    assert failed["shard"] == f"{root}/pool/pool-001.tar"
    door.fault = None
    assert cli.main(words(model, f"{root}/pool", out, "--quiet")) == 0
    assert sum(name.startswith("labels/") for name in stored(out)) == SHARDS
    assert json.loads(stored(out)["label.json"])["failed"] == []


def test_labels_of_another_threshold_are_kept_apart(out: str, model: Path, pool: Path) -> None:
    api.pseudo_label(model, pool, out, quiet=True)
    with pytest.raises(TutelageError, match=rf"{out} holds labels .* with another threshold"):
        api.pseudo_label(model, pool, out, threshold=0.5, quiet=True)


def test_two_processes_share_a_bucket(out: str, model: Path, pool: Path, here: Path) -> None:
    shares = [words(model, pool, out, "--quiet", "--share", f"{number}/2") for number in (1, 2)]
    started = [
        subprocess.Popen([sys.executable, "-m", "tutelage", *share], env=dict(os.environ))
        for share in shares
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert stored(out) == local(here / "out")


def test_a_web_server_is_no_store(model: Path, pool: Path) -> None:
    expected = r"--out https://.*: expected a folder, or a store such as s3://"
    with pytest.raises(TutelageError, match=expected):
        api.pseudo_label(model, pool, "https://example.com/labels", quiet=True)


def test_a_share_that_is_not_the_last_reads_no_footers(
    door: s3.Door, out: str, model: Path, pool: Path
) -> None:
    """Or each of a thousand processes would read those of the whole pool."""
    door.fault = s3.Fault("denied", "GET", "/labels/labels/", after=100)
    assert api.pseudo_label(model, pool, out, share="1/2", quiet=True) is None
    assert door.fault.met == 0
    assert api.pseudo_label(model, pool, out, share="2/2", quiet=True) is not None
    assert door.fault.met == SHARDS


def test_the_manifest_is_written_here(out: str, model: Path, pool: Path) -> None:
    with pytest.raises(TutelageError, match=r"--accepted s3://pool/a\.csv is an address"):
        api.pseudo_label(model, pool, out, accepted="s3://pool/a.csv", quiet=True)
    assert not stored(out)


def labelled(out: Path, *places: Path | str) -> dict[tuple[str, str], str]:
    """(shard, image) -> label of what was accepted."""
    pools.label(out, *places)
    rows = pools.rows(out)
    assert {row["accepted"] for row in rows} == {True, False}
    return {(row["shard"], row["image"]): row["label"] for row in rows if row["accepted"]}


def test_a_folder_becomes_a_manifest_of_paths(tmp_path: Path) -> None:
    files = pools.images(20) | {"torn.png": b""} | {"b, c/x.png": pools.png(23)}
    place = pools.write_folder(tmp_path / "pool", files)
    expected = labelled(tmp_path / "out", place)
    manifest = tmp_path / "made" / "accepted.csv"
    shards = find_shards([place])
    check_manifest(manifest, shards)
    write_accepted(shards, LabelFolder(Place.at(tmp_path / "out")), manifest)
    catalog = read_catalog(manifest)
    found = {
        Path(n).name: catalog.classes[k] for n, k in zip(catalog.names, catalog.labels, strict=True)
    }
    assert found == {Path(image).name: label for (_, image), label in expected.items()}
    assert set(catalog.splits) == {"train"}
    contents = [catalog.source.read(i) for i in range(len(catalog))]
    assert contents == [files[image] for _, image in expected]


def test_a_manifest_behind_a_link_finds_its_images(tmp_path: Path) -> None:
    place = pools.write_folder(tmp_path / "pool", pools.images(20))
    expected = labelled(tmp_path / "out", place)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    manifest = tmp_path / "link" / "accepted.csv"
    write_accepted(find_shards([place]), LabelFolder(Place.at(tmp_path / "out")), manifest)
    catalog = read_catalog(manifest)
    found = [catalog.source.read(number) for number in range(len(catalog))]
    assert found == [(place / image).read_bytes() for _, image in expected]


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
        manifest = tmp_path / "accepted.parquet"
        write_accepted(find_shards(places), LabelFolder(Place.at(tmp_path / "out")), manifest)
    finally:
        memory.rm("/accepted", recursive=True)
    catalog = read_catalog(manifest)
    found = {n: catalog.classes[k] for n, k in zip(catalog.names, catalog.labels, strict=True)}
    assert found == {f"{shard}/{image}": label for (shard, image), label in expected.items()}
    for number, name in enumerate(catalog.names):
        assert catalog.source.read(number) == pools.images(24)[name[-9:]]


def test_the_images_of_a_table_become_a_manifest_of_their_paths(tmp_path: Path) -> None:
    place = pools.write_folder(tmp_path / "pool" / "deep", pools.images(20))
    rows = "".join(f"deep/{name}\n" for name in pools.images(20))
    table = tmp_path / "pool" / "all.csv"
    table.write_text(f"image\n{rows}")
    expected = labelled(tmp_path / "out", table)
    manifest = tmp_path / "made" / "accepted.csv"
    shards = find_shards([table])
    check_manifest(manifest, shards)
    write_accepted(shards, LabelFolder(Place.at(tmp_path / "out")), manifest)
    catalog = read_catalog(manifest)
    found = [catalog.source.read(number) for number in range(len(catalog))]
    assert found == [(place.parent / image).read_bytes() for _, image in expected]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_says_that_its_labels_are_a_model_s(suffix: str, tmp_path: Path) -> None:
    place = pools.write_folder(tmp_path / "pool", pools.images(20))
    expected = labelled(tmp_path / "out", place)
    manifest = tmp_path / f"accepted{suffix}"
    write_accepted(find_shards([place]), LabelFolder(Place.at(tmp_path / "out")), manifest)
    if suffix == ".csv":
        with manifest.open(encoding="utf-8", newline="") as file:
            by = [row["labelled_by"] for row in csv.DictReader(file)]
    else:
        by = parquet.read_table(manifest)["labelled_by"].to_pylist()
    assert by == ["tutelage pseudo-label: model by colour, threshold 0.5"] * len(expected)
    (said,) = (line for line in read_catalog(manifest).warnings if "labelled_by" in line)
    assert "so its labels are a model's: nothing that is judged by them says" in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", r"expected \.csv \(paths\) or \.parquet"),
        ("there.csv", "exists; choose another name"),
        ("a.csv", r"give a \.parquet file"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("")
    tar = pools.write_tar(tmp_path / "a.tar", pools.images(2))
    with pytest.raises(TutelageError, match=message):
        check_manifest(tmp_path / name, find_shards([tar]))


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
