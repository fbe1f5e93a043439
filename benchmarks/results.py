"""What the benchmarks share: the machine, paired differences, and where results are kept."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tutelage.stats.intervals import t_interval


def hardware() -> dict[str, Any]:
    """Processor and cores, as Linux names them."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = names[0].partition(":")[2].strip() if names else name
    return {"processor": name, "cores": os.cpu_count()}


def memory(process: int | str = "self", *, most: bool = False) -> int:
    """Bytes that a process holds, or held at most, as Linux reports; 0 once it has ended.

    getrusage would count what the parent held before the exec.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    field = "VmHWM:" if most else "VmRSS:"
    found = [line.split()[1] for line in status.splitlines() if line.startswith(field)]
    return int(found[0]) * 1024 if found else 0


def watched(
    words: Sequence[str],
    progress: Callable[[], float] = lambda: 0.0,
    *,
    aside: Callable[[], None] | None = None,
    every: float = 10.0,
) -> tuple[float, list[tuple[float, int]]]:
    """Seconds of a command, and its progress and the bytes that it holds, every 0.1 s.

    After ``every`` seconds it stands still while ``aside`` measures something else, so that a
    machine that grows slower changes both; that time is not counted.
    """
    began, stood, samples = time.perf_counter(), 0.0, []
    coming = began + every
    with subprocess.Popen(words) as process:
        while process.poll() is None:
            done = progress()
            if held := memory(process.pid):
                samples.append((done, held))
            if aside is not None and time.perf_counter() >= coming:
                stopped = time.perf_counter()
                process.send_signal(signal.SIGSTOP)
                aside()
                process.send_signal(signal.SIGCONT)
                stood += time.perf_counter() - stopped
                coming = time.perf_counter() + every
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - began - stood, samples


def mean(values: Sequence[float]) -> dict[str, Any]:
    """Mean of independent draws with its 95% t interval, which one draw alone does not have."""
    if len(values) < 2:
        return {"mean": round(statistics.fmean(values), 4), "ci95": None}
    middle, *ends = t_interval(values)
    return {"mean": round(middle, 4), "ci95": [round(end, 4) for end in ends]}


def add_draw_options(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmarks over label draws of a named data set."""
    parser.add_argument("--data-dir", type=Path, help="of the data sets (or $TUTELAGE_DATA)")
    parser.add_argument("--labels-per-class", type=int, default=25)
    parser.add_argument("--test", type=int, default=2000, help="test images at most")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of torch (default: all cores)")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of this checkout, with "-dirty" after changes; "" outside of a checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    said = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return said.stdout.strip()


def provenance(benchmark: str, packages: Sequence[str]) -> dict[str, Any]:
    """The first fields of every result: benchmark, date, machine, versions and commit."""
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": versions(packages),
        "commit": commit(),
    }


SETTING = ("data", "labels_per_class", "limit", "minutes", "size", "test", "device", "threads",
           "teacher")  # fmt: skip
"""What two rows of ``efficiency.jsonl`` must share to be compared; then come seed and arm."""

SUGGEST_SETTING = ("model", "teacher", "data", "each", "minutes", "limit", "test")
"""The same of ``suggest.jsonl``."""

Draws = dict[int, dict[str, Any]]  # seed -> row


def grouped(
    rows: Sequence[dict[str, Any]], setting: Sequence[str] = SETTING
) -> dict[tuple[Any, ...], dict[str, Draws]]:
    """Values of the ``setting`` -> arm -> seed -> row."""
    groups: dict[tuple[Any, ...], dict[str, Draws]] = {}
    for row in rows:
        values = tuple(row[name] for name in setting)
        groups.setdefault(values, {}).setdefault(row["arm"], {})[row["seed"]] = row
    return groups


def append(result: dict[str, Any], path: Path | None) -> None:
    """Add ``result`` to the list in a file; without a file nothing is kept.

    Several processes may add to it.
    """
    if path is None:
        return
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        earlier = json.loads(file.read() or "[]")
        file.truncate(0)
        file.write(json.dumps([*earlier, result], indent=1) + "\n")
