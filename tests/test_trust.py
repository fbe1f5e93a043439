"""The command that runs all trials: none is passed over in silence."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import scripts

with scripts.importable():
    import trust

WRITE = """
import json, sys
from pathlib import Path
path = Path(sys.argv[sys.argv.index("--json") + 1])
earlier = json.loads(path.read_text()) if path.exists() else []
path.write_text(json.dumps([*earlier, {"benchmark": "good", "words": sys.argv[1:]}]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "good.py").write_text(WRITE)
    (tmp_path / "bad.py").write_text("raise SystemExit(3)")
    (tmp_path / "hangs.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "child.wait()\n"
    )
    trials = {"good": ((), ("--kill", "5")), "bad": ((),), "absent": ((),), "hangs": ((),)}
    monkeypatch.setattr(trust, "TRIALS", trials)
    monkeypatch.setattr(trust, "SHORT_SECONDS", 2.0)
    return tmp_path


def test_what_fails_hangs_or_is_not_there_is_named(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = folder / "trust.json"
    assert trust.main(["--short", "--json", str(report)], folder) == 1
    said = capfd.readouterr().out
    for name, ended in (
        ("good.py", "passed"),
        ("bad.py", "FAILED with 3"),
        ("absent.py", "NOT THERE"),
        ("hangs.py", "HANGS after 2 s"),
    ):
        assert f"{name + ' --short':<22}{ended}" in said
    *runs, last = json.loads(report.read_text())
    kept = ["--short", "--json", str(report)]
    assert [run["words"] for run in runs] == [kept, ["--kill", "5", *kept]]
    assert [trial["ended"].split()[0] for trial in last["trials"]] == [
        "passed", "passed", "FAILED", "NOT", "HANGS",
    ]  # fmt: skip
    assert gone(int((folder / "pid").read_text()))


def gone(pid: int) -> bool:
    """Whether a process ends within a second."""
    state = Path(f"/proc/{pid}/status")
    for _ in range(100):
        if not state.exists() or "State:\tZ" in state.read_text():
            return True
        time.sleep(0.01)
    return False


def test_all_long_forms_of_one_can_be_run_alone(folder: Path) -> None:
    report = folder / "trust.json"
    assert trust.main(["--only", "good", "--json", str(report)], folder) == 0
    *runs, _ = json.loads(report.read_text())
    kept = ["--json", str(report)]
    assert [run["words"] for run in runs] == [kept, ["--kill", "5", *kept]]


def test_an_unknown_one_is_refused(folder: Path) -> None:
    with pytest.raises(SystemExit):
        trust.main(["--only", "godo"], folder)
