import subprocess
import sys
from pathlib import Path

import pytest

from tutelage.system.locks import Claims

OTHER = """
import sys
from pathlib import Path
from tutelage.system.locks import Claims
claims = Claims(Path(sys.argv[1]))
for line in sys.stdin:
    print(claims.take(line.strip()), flush=True)
"""


class Other:
    """Claims of another process."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take(self, key: str) -> bool:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(key + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline() == "True\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_one_process_has_a_claim_until_it_lets_go_or_dies(tmp_path: Path) -> None:
    claims, other = Claims(tmp_path / "claims"), Other(tmp_path / "claims")
    try:
        assert claims.work
        assert claims.take("a")
        assert not claims.take("a")
        assert not other.take("a")
        assert other.take("b")
        assert not claims.take("b")
        claims.release("a")
        assert other.take("a")
        assert not claims.take("a")
        other.kill()
        assert claims.take("a")
        assert claims.take("b")
        assert (tmp_path / "claims").stat().st_size == 0
    finally:
        other.kill()
        claims.close()


def test_without_locks_every_claim_is_granted_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", none)
    claims = Claims(tmp_path / "claims")
    assert not claims.work
    assert claims.take("a")
    claims.release("a")
    claims.close()
