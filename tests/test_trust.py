"""The command that runs all trials: none is passed over in silence."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import scripts

with scripts.importable():
    import trust

WRITE = """
import sys
from pathlib import Path
import results
print("said by", *sys.argv[1:])
path = Path(sys.argv[sys.argv.index("--json") + 1])
results.append({"benchmark": "good", "words": sys.argv[1:]}, path)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(Path(trust.__file__).parent), prepend=os.pathsep)
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
    assert sorted(run["words"] for run in runs) == [["--kill", "5", *kept], kept]
    for words in (kept, ["--kill", "5", *kept]):  # a script's own words stand together
        assert f"--- good.py {' '.join(words)}\nsaid by {' '.join(words)}\n" in said
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


def test_one_can_be_run_alone_and_an_unknown_one_is_refused(folder: Path) -> None:
    report = folder / "trust.json"
    assert trust.main(["--only", "good", "--json", str(report)], folder) == 0
    kept = ["--json", str(report)]
    runs = [run.get("words") for run in json.loads(report.read_text())]
    assert runs == [kept, ["--kill", "5", *kept], None]  # in their long forms
    with pytest.raises(SystemExit):
        trust.main(["--only", "godo"], folder)


def test_short_forms_run_two_at_a_time_and_those_that_must_be_fast_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "catalog"):
        (tmp_path / f"{name}.py").write_text(
            "import time\nbegan = time.monotonic()\ntime.sleep(0.3)\n"
            "open(__file__ + '.txt', 'w').write(f'{began} {time.monotonic()}')\n"
        )
    monkeypatch.setattr(trust, "TRIALS", dict.fromkeys(("one", "catalog", "two"), ((),)))
    assert trust.main(["--short"], tmp_path) == 0
    spans = {
        name: [float(word) for word in (tmp_path / f"{name}.py.txt").read_text().split()]
        for name in ("one", "two", "catalog")
    }
    assert spans["catalog"][1] < min(spans["one"][0], spans["two"][0])
    assert max(spans["one"][0], spans["two"][0]) < min(spans["one"][1], spans["two"][1])
