import csv
import io
from pathlib import Path

import pytest

from tutelage.files import csv_line, replacing, write_atomically


def test_atomic_writes_replace_whole_files_and_leave_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_atomically(path, "old")
    write_atomically(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


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


def test_what_was_half_written_when_an_error_came_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"

    def fail_halfway() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    write_atomically(path, b"a,b")
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_csv_line_is_one_row_whatever_is_in_its_cells() -> None:
    rows = [["a\rb", "c\r\nd", "e\nf", 'g"h', "i,j", "=k", "", "ü"], ["x"]]
    text = "".join(map(csv_line, rows))
    assert list(csv.reader(io.StringIO(text, newline=""))) == rows
    assert csv_line(["a", 1, None]) == "a,1,\n"
