"""Files here, in a store that renames (fsspec's memory) and in one that does not (S3)."""

import errno
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3
from full import FullFile

from tutelage.system import storage
from tutelage.system.errors import TutelageError
from tutelage.system.storage import Place


@pytest.fixture(params=["here", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder that is empty, or that is not there yet."""
    if request.param == "here":
        return Place.at(tmp_path)
    if request.param == "s3":
        request.getfixturevalue("door")
    return Place.at(f"{request.param}://{s3.BUCKET}/{tmp_path.name}")


def in_memory(tmp_path: Path) -> Place:
    return Place.at(f"memory://bucket/{tmp_path.name}")


def in_s3(tmp_path: Path) -> Place:
    return Place.at(f"s3://{s3.BUCKET}/{tmp_path.name}")


def test_a_file_is_written_listed_replaced_read_and_removed(folder: Place) -> None:
    file = folder / "labels.json"
    assert not file.exists()
    assert folder.names() == []
    file.write("old")
    (folder / "a").write(b"\x00")
    file.write("größer")
    assert file.exists()
    assert file.read_bytes() == "größer".encode()
    assert folder.names() == ["a", "labels.json"]
    for _ in range(2):  # what is not there need not be removed
        file.remove()
    assert folder.names() == ["a"]
    with pytest.raises(FileNotFoundError, match=r"labels\.json"):
        file.read_bytes()


def test_the_end_of_a_file_is_read_alone(folder: Place) -> None:
    (folder / "a").write("0123456789")
    assert (folder / "a").read_bytes(last=3) == b"789"
    assert (folder / "a").read_bytes(last=30) == b"0123456789"


def test_what_was_half_written_when_an_error_came_is_not_kept(folder: Place) -> None:
    def fail_halfway() -> None:
        with (folder / "a").replacing() as here:
            here.write_bytes(b"half")
            raise ValueError("bad row")

    (folder / "a").write("old")
    with pytest.raises(ValueError, match="bad row"):
        fail_halfway()
    assert (folder / "a").read_bytes() == b"old"
    assert folder.names() == ["a"]


def test_a_folder_of_a_folder_is_made_on_the_way(folder: Place) -> None:
    below = folder / "labels"
    below.make_folder()
    below.make_folder()
    (below / "a").write("1")
    assert folder.names() == ["labels"]
    assert below.names() == ["a"]


def test_what_others_wrote_after_a_listing_is_seen(door: s3.Door, tmp_path: Path) -> None:
    folder = in_s3(tmp_path)
    (folder / "a").write("1")
    system, path = folder.system
    assert system.ls(path)  # as the search for shards lists
    s3.bucket().pipe_file(f"{path}/b", b"2")
    assert (folder / "b").exists()
    assert folder.names() == ["a", "b"]


# --- a store that fails


@pytest.mark.parametrize("how", [s3.RESET, *s3.ANSWERS])
def test_an_upload_that_fails_leaves_what_was_there(
    how: str, door: s3.Door, tmp_path: Path
) -> None:
    folder = in_s3(tmp_path)
    (folder / "a").write("old")
    door.fault = s3.Fault(how, "PUT")
    for name in ("a", "b"):
        with pytest.raises(OSError, match=rf"^s3://{s3.BUCKET}/{tmp_path.name}/{name}: \S") as said:
            (folder / name).write("new" * 1000)
        assert "\n" not in str(said.value)
    door.fault = None
    assert folder.names() == ["a"]
    assert (folder / "a").read_bytes() == b"old"


@pytest.mark.parametrize("how", [s3.HALF, *s3.ANSWERS])
def test_a_store_that_does_not_answer_is_not_a_file_that_is_missing(
    how: str, door: s3.Door, tmp_path: Path
) -> None:
    file = in_s3(tmp_path) / "a"
    file.write("0123456789")
    reads: list[tuple[str, Callable[[], object]]] = [("GET", file.read_bytes)]
    if how != s3.HALF:
        reads += [("HEAD", file.exists), ("GET", in_s3(tmp_path).names)]
    for method, read in reads:
        door.fault = s3.Fault(how, method)
        with pytest.raises(OSError, match="s3://") as said:
            read()
        assert not isinstance(said.value, FileNotFoundError)


def test_a_store_that_recovers_is_asked_again(door: s3.Door, tmp_path: Path) -> None:
    door.fault = s3.Fault("slow", "PUT", most=1)
    (in_s3(tmp_path) / "a").write("new")
    assert door.fault.met == 2
    assert (in_s3(tmp_path) / "a").read_bytes() == b"new"


def test_a_bucket_that_is_not_there_is_not_made(door: s3.Door) -> None:
    Place.at("s3://absent/labels").make_folder()
    with pytest.raises(OSError, match=r"s3://absent/a: The specified bucket does not exist"):
        Place.at("s3://absent/a").write("1")
    assert s3.bucket().ls("") == [s3.BUCKET]


def test_where_files_grow_they_are_written_beside_and_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = in_memory(tmp_path)
    (folder / "a").write("old")
    seen: list[list[str]] = []
    memory = type(fsspec.filesystem("memory"))
    put, move = memory.put_file, memory.mv

    def half(self: Any, here: str, path: str, **options: Any) -> None:
        put(self, here, path, **options)
        seen.append(folder.names())
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(memory, "put_file", half)
    with pytest.raises(OSError, match=r"memory://bucket/.*/a: reset by peer"):
        (folder / "a").write("new")
    assert len(seen[0]) == 2
    assert seen[0][0].startswith(".a.")
    assert folder.names() == ["a"]
    assert (folder / "a").read_bytes() == b"old"

    def refuse(*_: object, **__: object) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(memory, "put_file", put)
    monkeypatch.setattr(memory, "mv", refuse)
    with pytest.raises(OSError, match="read-only"):
        (folder / "b").write("new")
    assert folder.names() == ["a"]
    monkeypatch.setattr(memory, "mv", move)
    (folder / "b").write("new")


def test_a_server_that_does_not_rename_onto_a_file_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = in_memory(tmp_path)
    (folder / "a").write("old")
    memory = type(fsspec.filesystem("memory"))
    move, full = memory.mv, False

    def onto_nothing(self: Any, path: str, to: str, **options: Any) -> None:
        if self.exists(to):
            raise FileExistsError(to)
        if full and to.endswith("/a") and not path.endswith(".old"):
            raise OSError("quota exceeded")
        move(self, path, to, **options)

    monkeypatch.setattr(memory, "mv", onto_nothing)
    (folder / "a").write("new")
    assert (folder / "a").read_bytes() == b"new"
    full = True
    with pytest.raises(OSError, match="quota exceeded"):
        (folder / "a").write("newer")
    assert (folder / "a").read_bytes() == b"new"
    assert folder.names() == ["a"]


@pytest.mark.parametrize("url", ["smb://ann:secret@host/pool", "sftp://ann:secret@host:22/*.tar"])
def test_a_password_is_not_taken_as_files_would_repeat_it(url: str) -> None:
    with pytest.raises(TutelageError, match=r"//ann:\*\*\*@host.* holds a password") as error:
        Place.at(url)
    assert "secret" not in str(error.value)
    assert Place.at(url.replace(":secret", "")).remote


def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_memory(tmp_path) / "a").write("1")
    monkeypatch.setattr(tempfile, "TemporaryFile", FullFile)
    with (
        pytest.raises(OSError, match=f"No space left.*{tempfile.gettempdir()}") as error,
        (in_memory(tmp_path) / "a").opened(threading.Event()),
    ):
        pass
    assert error.value.errno == errno.ENOSPC


def test_a_folder_that_another_process_makes_meanwhile_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = type(fsspec.filesystem("memory"))
    make = memory.makedirs

    def too_late(self: Any, path: str, exist_ok: bool = False) -> None:
        if "there" in path:
            make(self, path, exist_ok)
        raise OSError("File exists")

    monkeypatch.setattr(memory, "makedirs", too_late)
    (in_memory(tmp_path) / "there").make_folder()
    with pytest.raises(OSError, match="File exists"):
        (in_memory(tmp_path) / "nowhere").make_folder()


# --- names


@pytest.mark.parametrize(
    ("outer", "inner", "inside"),
    [
        ("s3://bucket/pool", "s3://bucket/pool/labels", True),
        ("s3://bucket/pool/", "s3a://bucket/pool", True),
        ("s3://bucket/pool", "s3://bucket/pool-labels", False),
        ("s3://bucket/pool", "memory://bucket/pool", False),
        ("s3://bucket/pool", "bucket/pool", False),
        (".", "labels", True),
        ("labels", "file://labels", True),
        ("labels", "labels2", False),
    ],
)
def test_what_lies_in_a_place(outer: str, inner: str, inside: bool) -> None:
    pytest.importorskip("s3fs")
    assert Place.at(outer).holds(Place.at(inner)) == inside


def test_a_folder_of_another_server_lies_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = {name: fsspec.filesystem("file", server=name) for name in ("one", "other")}
    monkeypatch.setattr(storage, "file_system", lambda url: (servers[url[9:-5]], "/pool"))
    here, there = (Place.at(f"served://{name}/pool") for name in servers)
    assert here.holds(here)
    assert not here.holds(there)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(TutelageError, match=r"gs://bucket/a: .*install gcsfs"):
        (Place.at("gs://bucket") / "a").write("1")


def test_threads_write_side_by_side(door: s3.Door, tmp_path: Path) -> None:
    folder = in_s3(tmp_path)
    threads = [
        threading.Thread(target=(folder / f"{number}").write, args=(f"{number}",))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.names() == [f"{number}" for number in range(8)]
