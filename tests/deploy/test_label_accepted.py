from pathlib import Path

import fsspec
import pools
import pytest

from tutelage.data.open import read_catalog
from tutelage.data.shards import find_shards
from tutelage.deploy import label_accepted
from tutelage.deploy.label_accepted import check_manifest, write_accepted
from tutelage.deploy.label_folder import LabelFolder
from tutelage.system.errors import TutelageError
from tutelage.system.storage import Place

pytest.importorskip("pyarrow")


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
    monkeypatch.setattr(label_accepted, "_ROWS", 5)
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
