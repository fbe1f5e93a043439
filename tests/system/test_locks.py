import subprocess
import sys
from pathlib import Path

import pytest

from tutelage.system.errors import TutelageError
from tutelage.system.files import lock, locked

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
