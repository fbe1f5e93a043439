"""Every trial of scale, sudden death, hostile data and failing disks, one after the other.

python benchmarks/trust.py --json trust.json            # the long forms: hours
python benchmarks/trust.py --short                      # the short ones, as CI runs them: minutes

Each is a script of this folder with a form of its own, in a process of its own; what they measure
is appended to one file. Exits with 1 if one failed, was missing or did not end.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import results

TRIALS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ranks": ((),),  # several processes against one; killed workers
    "kill": ((),),  # kill -9 across a whole run
    "label": ((), ("--kill",)),  # memory and throughput; kill -9 across a whole label
    "stream": ((),),  # training from shards
    "catalog": ((),),  # a million images listed and split
    "hostile": ((),),  # mutated images, manifests, tars and model folders
    "faults": ((),),  # disks that are full or fail
}
"""Scripts, and the options of each of their forms, all of which have a short one."""

SHORT_SECONDS = 600.0  # after which a short form hangs; on two idle cores all take 300


def attempt(words: Sequence[str], folder: Path, limit: float | None) -> tuple[str, float]:
    """Run one script; return how it ended, and its seconds."""
    began = time.monotonic()
    script = folder / words[0]
    if not script.is_file():
        return "NOT THERE", 0.0
    command = [sys.executable, str(script), *words[1:]]
    # A group of its own, so that what it started ends with it.
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            code = process.wait(limit)
        except BaseException as stopped:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(stopped, subprocess.TimeoutExpired):
                raise
            return f"HANGS after {limit:.0f} s", time.monotonic() - began
    ended = "passed" if code == 0 else f"FAILED with {code}"
    return ended, time.monotonic() - began


def main(argv: Sequence[str] | None = None, folder: Path = Path(__file__).parent) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="the short forms")
    parser.add_argument("--only", metavar="A,B", help="scripts to run, such as kill,faults")
    parser.add_argument("--json", type=Path, help="append the results to this file's list")
    options = parser.parse_args(argv)
    wanted = options.only.split(",") if options.only else list(TRIALS)
    if unknown := set(wanted) - TRIALS.keys():
        parser.error(f"--only {', '.join(sorted(unknown))}: expected some of {', '.join(TRIALS)}")
    limit = SHORT_SECONDS if options.short else None
    short = ["--short"] * options.short
    kept = [] if options.json is None else ["--json", str(options.json)]
    rows: list[tuple[str, str, float]] = []
    for name in wanted:
        for form in TRIALS[name]:
            words = [f"{name}.py", *form, *short]
            print(f"--- {' '.join(words)}", flush=True)
            rows.append((" ".join(words), *attempt([*words, *kept], folder, limit)))
    print("\n" + "\n".join(f"{name:<22}{ended:<22}{took:8.0f} s" for name, ended, took in rows))
    result = {
        **results.provenance("trust", ("tutelage", "torch")),
        "short": options.short,
        "trials": [
            {"trial": name, "ended": ended, "seconds": round(took, 1)} for name, ended, took in rows
        ],
    }
    results.append(result, options.json)
    return int(any(ended != "passed" for _, ended, _ in rows))


if __name__ == "__main__":
    raise SystemExit(main())
