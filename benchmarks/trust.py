"""Every trial of scale, sudden death, hostile data and failing disks.

python benchmarks/trust.py --json trust.json            # the long forms: hours
python benchmarks/trust.py --short                      # the short ones: minutes

Each is a script of this folder with a form of its own, in a process of its own; what they measure
is appended to one file. Short forms run two at a time, but for those that must be fast. Exits with
1 if one failed, was missing or did not end.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
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
    "store": (("--fail",),),  # an object store that does
    "engine": ((),),  # a Ray cluster whose nodes and workers are killed
}
"""Scripts, and the options of each of their forms, all of which have a short one."""

MEASURED = ("catalog",)
"""Those whose short forms fail where they are too slow, and therefore run alone."""

SHORT_SECONDS = 600.0  # after which a short form hangs

Running = list["subprocess.Popen[bytes]"]


def attempt(
    words: Sequence[str], folder: Path, limit: float | None, running: Running, *, aside: bool
) -> tuple[str, float]:
    """Run one script; return how it ended, and its seconds.

    Its process is added to those ``running``. What it prints waits for its end if it runs ``aside``
    another one.
    """
    began = time.monotonic()
    script, name = folder / words[0], f"--- {' '.join(words)}"
    if not script.is_file():
        return "NOT THERE", 0.0
    with tempfile.TemporaryFile() if aside else nullcontext() as said:
        if said is None:
            print(name, flush=True)
        command = [sys.executable, str(script), *words[1:]]
        # A group of its own, so that what it started ends with it.
        with subprocess.Popen(command, start_new_session=True, stdout=said, stderr=said) as process:
            running.append(process)
            try:
                code = process.wait(limit)
                ended = "passed" if code == 0 else f"FAILED with {code}"
            except subprocess.TimeoutExpired:
                kill(process)
                ended = f"HANGS after {limit:.0f} s"
        if said is not None:
            said.seek(0)
            print(f"{name}\n{said.read().decode(errors='replace')}", end="", flush=True)
    return ended, time.monotonic() - began


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a script and what it started, if it runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def attempt_all(
    trials: Sequence[Sequence[str]], kept: Sequence[str], folder: Path, *, short: bool
) -> list[tuple[str, float]]:
    """How each ended, and its seconds; ``kept`` are options of all."""
    limit = SHORT_SECONDS if short else None
    running: Running = []

    def tried(place: int, *, aside: bool) -> None:
        words = [*trials[place], *kept]
        ended[place] = attempt(words, folder, limit, running, aside=aside)

    ended: dict[int, tuple[str, float]] = {}
    beside = [n for n, (script, *_) in enumerate(trials) if short and script[:-3] not in MEASURED]
    with ThreadPoolExecutor(2) as pool:
        try:
            for place in range(len(trials)):
                if place not in beside:
                    tried(place, aside=False)
            for done in [pool.submit(tried, place, aside=True) for place in beside]:
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                kill(process)
            raise
    return [ended[place] for place in range(len(trials))]


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
    short = ["--short"] * options.short
    kept = [] if options.json is None else ["--json", str(options.json)]
    trials = [(f"{name}.py", *form, *short) for name in wanted for form in TRIALS[name]]
    ended = attempt_all(trials, kept, folder, short=options.short)
    rows = [(" ".join(words), *how) for words, how in zip(trials, ended, strict=True)]
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
