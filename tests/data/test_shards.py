import json
import os
import pickle
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pools
import pytest
from fsspec.implementations.local import LocalFileSystem

from tutelage.data import shards, sources
from tutelage.data.decode import UnreadableImage
from tutelage.data.shards import Shard, braces, find_shards, may_hold
from tutelage.system.errors import MissingExtra, TutelageError
from tutelage.system.storage import Place


def entries(shard: Shard) -> list[tuple[str, Any]]:
    """Names with contents, or with the reason why there are none."""
    found: list[tuple[str, Any]] = []
    with shard.opened(threading.Event()) as items:
        for name, read in list(items):
            try:
                found.append((name, read()))
            except (UnreadableImage, OSError) as error:
                found.append((name, error))
    return found


def names(*places: Path | str) -> list[str]:
    return [shard.name for shard in find_shards(places)]


# --- which shards


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plain.tar", ["plain.tar"]),
        ("p-{008..011}.tar", ["p-008.tar", "p-009.tar", "p-010.tar", "p-011.tar"]),
        ("p-{8..10}.tar", ["p-8.tar", "p-9.tar", "p-10.tar"]),
        ("{a,bc}/{0..1}", ["a/0", "a/1", "bc/0", "bc/1"]),
        ("{odd}.tar", ["{odd}.tar"]),
        ("{a..c}", ["a..c"]),
    ],
)
def test_braces_are_written_out_as_in_a_shell(text: str, words: list[str]) -> None:
    assert braces(text) == words


def test_patterns_folders_and_files_are_the_same_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools.write_pool(tmp_path / "pool", 3, 1)
    whole = [str(tmp_path / "pool" / f"pool-00{n}.tar") for n in range(3)]
    assert names(tmp_path / "pool") == whole
    assert names(tmp_path / "pool" / "*.tar") == whole
    assert names(tmp_path / "pool" / "pool-{000..002}.tar") == whole
    assert names(*whole) == whole
    assert names(f"file://{tmp_path}/pool") == whole
    monkeypatch.chdir(tmp_path)
    assert names("pool") == whole
    assert names("./pool/../pool/*") == whole


def test_a_folder_is_dealt_in_blocks_of_its_sorted_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "BLOCK", 4)
    files = {f"{folder}/{n}.png": pools.png(n) for folder in "ba" for n in range(3)}
    pools.write_folder(
        tmp_path, files | {"z.png": b"", "note.txt": b"", ".x/h.png": b"", ".h.png": b""}
    )
    found = find_shards([tmp_path])
    assert [shard.name for shard in found] == [f"{tmp_path}#0", f"{tmp_path}#1"]
    assert [[name for name, _ in entries(shard)] for shard in found] == [
        ["a/0.png", "a/1.png", "a/2.png", "b/0.png"],
        ["b/1.png", "b/2.png", "z.png"],
    ]
    assert dict(e for shard in found for e in entries(shard)) == files | {"z.png": b""}


def test_a_file_name_that_is_no_text_becomes_one(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.png"
    with open(path, "wb") as file:
        file.write(b"1")
    (shard,) = find_shards([tmp_path])
    assert entries(shard) == [("\\xff.png", b"1")]
    assert shard.fingerprint()


@pytest.mark.parametrize(
    ("files", "place", "message"),
    [
        ({}, "absent", r"no such file or folder: .*absent"),
        ({"photos.tar": b""}, "photo.tar", r"; did you mean .*photos\.tar\?$"),
        ({}, "absent-*.tar", r"no such file or folder: .*absent-\*"),
        ({"notes.txt": b""}, "", "no images in"),
        ({"a.tar": b"", "b.png": b""}, "", r"holds shards \(.*a\.tar\) and images \(b\.png\)"),
        ({"a.tar.gz": b""}, "a.tar.gz", r"unpack it to a plain \.tar"),
        ({"a.tgz": b""}, "a.tgz", r"unpack it to a plain \.tar"),
        ({"a.png": b""}, "a.png", "give their folder or use tutelage predict"),
        ({"a.tar": b""}, "{a,a}.tar", "is named twice"),
    ],
)
def test_what_is_no_pool_is_refused_with_the_mend(
    files: dict[str, bytes], place: str, message: str, tmp_path: Path
) -> None:
    pools.write_folder(tmp_path, files)
    with pytest.raises(TutelageError, match=message):
        find_shards([tmp_path / place])


def test_a_pool_of_nothing_is_refused() -> None:
    with pytest.raises(TutelageError, match="no images are named; name tars, Parquet files"):
        find_shards([])


def test_what_an_address_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    with monkeypatch.context() as patch:
        patch.setattr(fsspec.core, "url_to_fs", missing)
        with pytest.raises(TutelageError, match=r"Install s3fs"):
            find_shards(["s3://bucket/pool-{0..1}.tar"])
    with pytest.raises(TutelageError, match="Protocol not known: bogus"):
        find_shards(["bogus://bucket/a.tar"])
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(MissingExtra, match="fsspec"):
        find_shards(["s3://bucket/a.tar"])


def test_local_paths_need_no_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    pools.write_pool(tmp_path / "pool", 1, 2)
    (shard,) = find_shards([tmp_path / "pool"])
    assert len(entries(shard)) == 2
    assert shard.fingerprint()


# --- what they hold


def test_a_tar_gives_its_images_then_what_is_refused(tmp_path: Path) -> None:
    files = {"1.jpg": b"a", "1.cls": b"3", "/2.jpg": b"b", "3.jpg": b"c"}
    (shard,) = find_shards([pools.write_tar(tmp_path / "a.tar", files)])
    found = entries(shard)
    assert found[:2] == [("1.jpg", b"a"), ("3.jpg", b"c")]
    assert found[2][0] == "/2.jpg"
    assert "absolute" in str(found[2][1])


def test_a_huge_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_BYTES", 10)
    monkeypatch.setattr(sources, "MAX_BYTES", 10)
    tar = pools.write_tar(tmp_path / "a.tar", {"a.png": b"1" * 11})
    folder = pools.write_folder(tmp_path / "b", {"a.png": b"1" * 11})
    for shard in find_shards([tar, folder]):
        ((_, error),) = entries(shard)
        assert re.search(r"has 11 bytes; (expected )?at most 10", str(error))


def test_a_tar_without_images_is_an_error(tmp_path: Path) -> None:
    (shard,) = find_shards([pools.write_tar(tmp_path / "a.tar", {"a.txt": b""})])
    with pytest.raises(TutelageError, match="has no images"):
        entries(shard)


def test_parquet_rows_are_named_by_their_column_or_their_number(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    image = [{"bytes": b"a", "path": "x"}, {"bytes": None, "path": "y"}, None]
    tables: dict[str, dict[str, Any]] = {
        "struct": {"image": image},
        "file": {"key": ["k", "l"], "image": [b"a", b"b"], "file": ["f", None]},
        "webdataset": {"__key__": ["k"], "image": arrow.array([b"a"], arrow.large_binary())},
    }
    found = {}
    for name, columns in tables.items():
        parquet.write_table(arrow.table(columns), tmp_path / f"{name}.parquet")
        (shard,) = find_shards([tmp_path / f"{name}.parquet"])
        found[name] = entries(shard)
    assert found["file"] == [("f", b"a"), ("#1", b"b")]
    assert found["webdataset"] == [("k", b"a")]
    assert found["struct"][0] == ("#0", b"a")
    assert all("no image bytes" in str(error) for _, error in found["struct"][1:])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"a"]}, r"lacks a column image .*; found: picture \(binary\)"),
        ({"image": ["a.png"]}, "give the folder of the images"),
        ({"image": []}, r"found: image \(null\)"),
    ],
)
def test_a_parquet_file_without_images_is_an_error(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    (shard,) = find_shards([tmp_path / "a.parquet"])
    with pytest.raises(TutelageError, match=message):
        entries(shard)


def test_a_number_in_the_place_of_bytes_is_unreadable_and_allocates_nothing(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.table({"image": [{"bytes": 10**15}]}), tmp_path / "a.parquet")
    (shard,) = find_shards([tmp_path / "a.parquet"])
    ((name, error),) = entries(shard)
    assert name == "#0"
    assert "no image bytes" in str(error)


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"x" * 500)
    (shard,) = find_shards([tmp_path / "a.parquet"])
    with pytest.raises(TutelageError, match="not a readable Parquet file"):
        entries(shard)


def test_any_other_data_is_dealt_in_blocks_of_what_it_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    monkeypatch.setattr(shards, "BLOCK", 2)
    files = {f"images/{n}.png": pools.png(n) for n in range(3)}
    pools.write_folder(tmp_path / "data", files)
    paths = "\n".join(["image,label,split", *(f"{file},,test" for file in files)])
    (tmp_path / "data/x.csv").write_text(paths)
    parquet.write_table(arrow.table({"img": [*files]}), tmp_path / "data/x.parquet")
    (tmp_path / "data/x.json").write_text(json.dumps([{"data": {"image": file}} for file in files]))
    for name in ("x.csv", "x.parquet", "x.json"):
        first, last = find_shards([tmp_path / "data" / name])
        assert [first.name, last.name] == [f"{tmp_path}/data/{name}#{n}" for n in (0, 1)]
        assert dict(entries(first) + entries(last)) == files
        before = first.fingerprint()
        assert pickle.loads(pickle.dumps(first)).fingerprint() == before != last.fingerprint()
        rewrite(tmp_path / "data/images/0.png")
        assert first.fingerprint() != before
        (tmp_path / "data/images/0.png").write_bytes(files["images/0.png"])
    (tmp_path / "saved").mkdir()
    table = arrow.table({"image": [{"bytes": content, "path": ""} for content in files.values()]})
    with ipc.new_stream(tmp_path / "saved/a.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "saved/state.json").write_text('{"_data_files": ["a.arrow"]}')
    found = [entry for shard in find_shards([tmp_path / "saved"]) for entry in entries(shard)]
    assert found == [(f"train/{n}", content) for n, content in enumerate(files.values())]


# --- fingerprints


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def touch(path: Path) -> None:
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1_000_000))


def move(path: Path) -> None:
    path.rename(path.with_name("moved.png"))


@pytest.mark.parametrize("kind", ["tar", "folder"])
@pytest.mark.parametrize(
    ("change", "tells"),
    [(rewrite, True), (touch, True), (lambda path: path.chmod(0o600), False)],
)
def test_a_fingerprint_tells_of_new_content_alone(
    kind: str, change: Callable[[Path], None], tells: bool, tmp_path: Path
) -> None:
    place = tmp_path / "a.tar"
    if kind == "tar":
        pools.write_tar(place, pools.images(2))
    else:
        place = pools.write_folder(tmp_path / "a", pools.images(2))
    before = find_shards([place])[0].fingerprint()
    assert find_shards([place])[0].fingerprint() == before
    change(place if kind == "tar" else place / "00001.png")
    assert (find_shards([place])[0].fingerprint() != before) == tells


def test_a_fingerprint_of_a_block_tells_its_names(tmp_path: Path) -> None:
    pools.write_folder(tmp_path, pools.images(2))
    before = find_shards([tmp_path])[0].fingerprint()
    move(tmp_path / "00001.png")
    assert find_shards([tmp_path])[0].fingerprint() != before


def test_a_store_s_checksum_is_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.tar", b"1")
    (shard,) = find_shards(["memory://bucket/a.tar"])
    tags = iter(["x", "x", "y"])
    monkeypatch.setattr(
        type(memory), "info", lambda *_: {"size": 1, "ETag": next(tags), "LastModified": 3}
    )
    first, again, changed = (shard.fingerprint() for _ in range(3))
    assert first == again != changed


def test_what_a_store_raises_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    class ClientError(Exception):
        pass

    def fail(*_: object, **__: object) -> None:
        raise ClientError("no credentials")

    memory = fsspec.filesystem("memory")
    (shard,) = find_shards(["memory://bucket/absent.tar"])
    with pytest.raises(OSError, match=r"absent\.tar"):
        shard.fingerprint()
    monkeypatch.setattr(type(memory), "open", fail)
    with pytest.raises(OSError, match="no credentials"):
        entries(shard)
    monkeypatch.setattr(type(memory), "find", fail)
    with pytest.raises(TutelageError, match=r"cannot be listed: .*no credentials"):
        find_shards(["memory://bucket/folder"])


@pytest.mark.parametrize("named", ["*.tar", "pool-{000..001}.tar", "", "/"])
def test_a_server_of_files_is_part_of_its_shards_names(named: str, tmp_path: Path) -> None:
    """As with sftp, smb and hdfs, whose paths do not say on which server they are."""

    class Served(LocalFileSystem):
        protocol = "served"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.removeprefix("served://ann@host:2222/").lstrip("/")

        @staticmethod
        def _get_kwargs_from_urls(path: str) -> dict[str, str]:
            assert path.startswith("served://ann@host:2222/")
            return {"host": "host", "username": "ann"}

    fsspec.register_implementation("served", Served, clobber=True)
    pools.write_pool(tmp_path / "pool", 2, 1)
    url = f"served://ann@host:2222{tmp_path}/pool"
    found = find_shards([f"{url}/{named}" if named.strip("/") else url + named])
    assert [shard.name for shard in found] == [f"{url}/pool-{n:03}.tar" for n in range(2)]
    assert len(entries(found[1])) == 1
    assert found[0].fingerprint() != found[1].fingerprint()


def test_a_store_s_image_that_is_gone_or_too_large_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/images/a.png": b"12345", "/images/b.png": b"1234", "/images/c.png": b"1"})
    monkeypatch.setattr(shards, "MAX_BYTES", 4)
    try:
        (block,) = find_shards(["memory://images"])
        memory.rm("/images/c.png")
        large, right, gone = (content for _, content in entries(block))
    finally:
        memory.rm("/images", recursive=True)
    assert (type(large), right, type(gone)) == (UnreadableImage, b"1234", FileNotFoundError)
    assert "has 5 bytes; at most 4 are read" in str(large)


def test_a_pattern_needs_an_address_that_repeats_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure's addresses name an account, which the path does not."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/container/a.tar", b"1")
    monkeypatch.setattr(shards, "file_system", lambda _: (memory, "container/*.tar"))
    with pytest.raises(TutelageError, match=r"takes no patterns; name each shard, or their folder"):
        find_shards(["memory://container@account/*.tar"])


@pytest.mark.parametrize(
    ("pattern", "out", "inside"),
    [
        ("pool/*", "pool/labels", True),
        ("pool/*", "pool/labels/of/today", True),
        ("p{a,oo}l/*", "pool/labels", True),
        ("pool/*.tar", "pool/labels", False),
        ("pool/*", "pool2/labels", False),
        ("s3://bucket/*", "s3://bucket/labels", True),
        ("s3://bucket/*", "bucket/labels", False),
    ],
)
def test_a_pattern_may_hold_the_labels(pattern: str, out: str, inside: bool) -> None:
    assert may_hold(pattern, Place.at(out)) == inside


def test_copying_a_remote_shard_can_be_stopped() -> None:
    fsspec.filesystem("memory").pipe("/bucket/a.tar", b"1")
    (shard,) = find_shards(["memory://bucket/a.tar"])
    stop = threading.Event()
    stop.set()
    with pytest.raises(OSError, match="was stopped"), shard.opened(stop):
        pass


def test_a_pipe_in_a_pool_is_named_and_does_not_block(tmp_path: Path) -> None:
    folder = pools.write_folder(tmp_path / "pool", {"a.png": b"1"})
    os.mkfifo(folder / "b.png")
    (shard,) = find_shards([folder])
    assert "a pipe, a device or a socket" in str(dict(entries(shard))["b.png"])


def test_a_link_to_a_folder_is_refused_with_the_mend(tmp_path: Path) -> None:
    folder = pools.write_folder(tmp_path / "pool", {"a.png": b"1"})
    (folder / "up").symlink_to(tmp_path)
    with pytest.raises(TutelageError, match=r"pool/up is a link to a folder.*name the folder it"):
        find_shards([folder])
