"""Files and folders appear whole, and one process at a time holds a lock."""

import csv
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tutelage.system.errors import TutelageError
from tutelage.system.files import (
    append,
    csv_line,
    explain,
    install,
    lock,
    locked,
    new_folder,
    replacing,
    sweep,
    write_atomically,
)


def test_a_write_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    write_atomically(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_written_file_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    write_atomically(path, b"a,b")
    assert path.stat().st_mode & 0o777 == 0o644


def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what reaches the disk from now on, and of what is renamed, in order."""
    seen: list[str] = []
    truly, renamed = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        truly(descriptor)

    def rename(source: Path, target: Path) -> None:
        seen.append(f"-> {Path(target).name}")
        renamed(source, target)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("os.rename", rename)
    monkeypatch.setattr("os.replace", rename)
    return seen


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no names of descriptors")
def test_a_file_and_its_name_are_on_the_disk_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = synced(monkeypatch)
    write_atomically(tmp_path / "metrics.json", "new")
    partial, *rest = seen
    assert partial.startswith(".metrics.json.")
    assert rest == ["-> metrics.json", tmp_path.name]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no names of descriptors")
def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building = tmp_path / ".probe.partial"
    (building / "inner").mkdir(parents=True)
    for name in ("a.npz", "inner/b.npz"):
        (building / name).write_bytes(b"array")
    seen = synced(monkeypatch)
    install(building, tmp_path / "probe")
    assert set(seen[:4]) == {"a.npz", "b.npz", "inner", ".probe.partial"}
    assert seen[4:] == ["-> probe", tmp_path.name]
    assert (tmp_path / "probe" / "inner" / "b.npz").read_bytes() == b"array"


def test_a_new_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with new_folder(folder) as building:
        (building / "a").write_text("a")
        assert list(folder.iterdir()) == []
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert folder.stat().st_mode & 0o777 == 0o755
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_is_not_empty_or_could_not_be_written_stays(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mine").touch()

    def fill(error: BaseException | None) -> None:
        with new_folder(folder) as building:
            (building / "a").touch()
            if error:
                raise error

    with pytest.raises(OSError, match="not empty") as caught:
        fill(None)
    assert caught.value.filename == str(folder)
    with pytest.raises(OSError, match="full") as caught:
        fill(OSError(errno.ENOSPC, "full"))
    assert caught.value.filename == str(folder)
    with pytest.raises(KeyboardInterrupt):
        fill(KeyboardInterrupt())
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine"]


def test_what_a_killed_process_left_of_a_file_or_a_folder_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".model.x1.partial" / "inner").mkdir(parents=True)
    (tmp_path / ".model.x1.partial" / ".a.x2.partial").touch()
    (tmp_path / ".a.json.x3.partial").touch()
    (tmp_path / "a.json").touch()
    sweep(tmp_path, {"model", "b.json"})
    assert {path.name for path in tmp_path.iterdir()} == {".a.json.x3.partial", "a.json"}
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_what_a_living_process_writes_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    with replacing(tmp_path / "a.json") as partial:
        partial.write_text("whole")
        sweep(tmp_path)
        assert partial.exists()
    assert (tmp_path / "a.json").read_text() == "whole"

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    left = tmp_path / ".a.json.x1.partial"
    left.touch()
    monkeypatch.setattr("fcntl.flock", none)
    sweep(tmp_path)  # somebody may write it
    assert left.exists()
    monkeypatch.undo()
    sweep(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_names_the_file_that_was_meant(code: int, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"

    def fail() -> None:
        with replacing(path):
            raise OSError(code, os.strerror(code))

    with pytest.raises(OSError, match=r"table\.parquet") as error:
        fail()
    assert error.value.filename == str(path)
    assert error.value.errno == code


def test_a_failure_to_delete_does_not_hide_the_failure_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", fails)
    with pytest.raises(ValueError, match="bad row"), replacing(tmp_path / "a"):
        raise ValueError("bad row")


def test_the_mend_depends_on_what_happened_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    run = tmp_path / "run"

    def told(code: int, path: Path | None) -> str:
        named = () if path is None else (str(path),)
        return explain(OSError(code, os.strerror(code), *named), run)

    assert told(errno.ENOSPC, run / "a") == (
        f"{run / 'a'}: No space left on device; free some space there, or choose another --out"
    )
    assert told(errno.EROFS, tmp_path / "cache" / "speed.json").endswith(
        "Read-only file system; get access to it, or set TUTELAGE_CACHE to a folder on another disk"
    )
    assert told(errno.EIO, tmp_path / "tmp" / "x").endswith(
        "Input/output error; the disk, or the connection to it, fails: repair it, or set TMPDIR to "
        "a folder on another disk"
    )
    assert told(errno.EIO, tmp_path / "data.csv").endswith("fails: repair it")
    assert told(errno.EISDIR, run / "a") == f"{run / 'a'}: Is a directory"
    assert told(errno.ENOMEM, None) == "Cannot allocate memory"
    assert explain(OSError("odd")) == "odd"


class NearlyFull(io.FileIO):
    """A file that takes two bytes at a time, until its disk is full at ten bytes."""

    def write(self, content: object) -> int:
        left = 10 - self.seek(0, os.SEEK_END)
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content[: min(2, left)])  # type: ignore[index]


def test_what_is_added_is_there_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows"
    monkeypatch.setattr(Path, "open", lambda self, mode, buffering: NearlyFull(self, mode))
    append(path, b"12345")
    with pytest.raises(OSError, match="No space") as error:
        append(path, b"678901")
    assert error.value.filename == str(path)
    monkeypatch.undo()
    assert path.read_bytes() == b"12345"


def test_the_torn_end_of_a_file_of_rows_is_cut_before_more_is_added(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"aaabb")
    append(path, b"ccc", row=3)
    assert path.read_bytes() == b"aaaccc"
    append(path, b"ddd", row=3)
    assert path.read_bytes() == b"aaacccddd"


def test_a_csv_line_is_one_row_whatever_is_in_its_cells() -> None:
    rows = [["a\rb", "c\r\nd", "e\nf", 'g"h', "i,j", "=k", "", "ü"], ["x"]]
    text = "".join(map(csv_line, rows))
    assert list(csv.reader(io.StringIO(text, newline=""))) == rows
    assert csv_line(["a", 1, None]) == "a,1,\n"


OTHER = """
import sys, time
from tutelage.system.files import locked
file = open(sys.argv[1], "a")
print(locked(file), flush=True)
time.sleep(60)
"""


def test_one_process_holds_a_lock_until_it_closes_the_file_or_dies(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    words = [sys.executable, "-c", OTHER, str(tmp_path / "lock")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with (tmp_path / "lock").open("a") as file:
            assert locked(file) is False
            with pytest.raises(TutelageError, match=r"^somebody works here$"):
                lock(file, "somebody works here")
            other.kill()
            other.wait()
            lock(file, "somebody works here")
        with (tmp_path / "lock").open("a") as file:
            assert locked(file) is True


def test_without_locks_everybody_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with (tmp_path / "lock").open("a") as file:
        assert locked(file) is None
        lock(file, "nobody is refused")
