"""Kill a run in each stage, continue it with the same command, compare with an undisturbed run.

python benchmarks/kill.py RUN --json kill.json

RUN is a finished, undisturbed run folder; its ``config.json`` says what to run again. The machine's
measured speed must still be in the cache folder, or the plans may differ.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import results

POLL_S = 0.02
IN_TRAINING_S = 10.0  # after the student's training began


def command_of(run: Path, out: Path) -> list[str]:
    """The command line that does the work of ``run`` in another folder."""
    request = json.loads((run / "config.json").read_text())["request"]
    words = [sys.executable, "-m", "tutelage", request["command"]]
    words += [] if request["command"] == "demo" else [request["data"]]
    for group in request["settings"].values():
        for name, value in group.items():
            if value is not None:
                words += [f"--{name.replace('_', '-')}={value}"]
    return [*words, "--out", str(out), "--quiet"]


def events(out: Path) -> list[dict[str, Any]]:
    """What ``events.jsonl`` holds so far; a line that is being written is left out."""
    path = out / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def kill_in(stage: str, command: list[str], out: Path) -> bool:
    """Start the command and kill it inside ``stage``; False if it was never there."""
    known = len(events(out))
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            new = events(out)[known:]
            if any(e["event"] == "stage" and e.get("name") == stage for e in new):
                if stage == "student":
                    while not any(e.get("label") == "student" for e in events(out)[known:]):
                        time.sleep(POLL_S)
                    time.sleep(IN_TRAINING_S)
                process.send_signal(signal.SIGKILL)
                return True
            time.sleep(POLL_S)
    return False


def figures(run: Path) -> Any:
    """metrics.json without the seconds that stages took."""

    def without_seconds(part: Any) -> Any:
        if isinstance(part, dict):
            return {k: without_seconds(v) for k, v in part.items() if k != "seconds"}
        return [without_seconds(v) for v in part] if isinstance(part, list) else part

    return without_seconds(json.loads((run / "metrics.json").read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished run that nothing disturbed")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    stages = [stage["name"] for stage in figures(options.run)["stages"]]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = command_of(options.run, out)
        killed = [stage for stage in stages if kill_in(stage, command, out)]
        subprocess.run(command, check=True)
        weights = "student/model.safetensors"
        result = {
            "benchmark": "kill",
            "command": command[3],
            "date": datetime.now(UTC).date().isoformat(),
            "cores": os.cpu_count(),
            "killed_in": killed,
            "same_metrics": figures(out) == figures(options.run),
            "same_student": (out / weights).read_bytes() == (options.run / weights).read_bytes(),
        }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    if killed != stages or not result["same_metrics"]:
        raise SystemExit("the continued run differs from the undisturbed one")


if __name__ == "__main__":
    main()
