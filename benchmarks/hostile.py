"""Do damaged and hostile files crash, hang or blow up anything, and is each reported with a reason?

python benchmarks/hostile.py --photos DATA --json results.json

Mutants of real files (flipped bits, cut ends, splices, changed headers and lengths, repeated and
removed parts; see ``tests/support/mutants.py``) are read by a watched child process: one that dies,
takes longer than 5 seconds or more memory than its limit, raises anything but the package's own
errors, or refuses without a reason, is a failure. ``--keep`` saves those files. ``--short`` takes
about a minute.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import results
from chain import PACKAGES
from photos import choose_photos

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import mutants

CASES = {"image": 5000, "manifest": 500, "tar": 500, "model": 500}
SHORT = {"image": 400, "manifest": 60, "tar": 60, "model": 40}
LIMIT_S = 5.0
START_S = 120.0  # imports, and the small model
MEMORY = 8 << 30  # bytes of address space: torch alone maps several
SIDE = 128  # pixels of the photos


def work(kind: str, seeds: mutants.Seeds, calls: Connection) -> None:
    """The child's work: to answer each number with how reading that mutant went."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # libtiff and onnxruntime complain there
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        name = next(iter(seeds[kind]))
        mutants.TRIES[kind](name, seeds[kind][name], place)  # imports
        calls.send(None)
        while (number := calls.recv()) is not None:
            name, data = mutants.mutant(seeds, kind, number)
            began = time.perf_counter()
            try:
                reason, raised = mutants.TRIES[kind](name, data, place), ""
            except BaseException as error:
                reason, raised = "", f"{type(error).__name__}: {error}"[:200]
            seconds, peak = time.perf_counter() - began, results.memory(most=True) // 2**20
            calls.send((name, reason, raised, seconds, peak))


class Child:
    """A process that may die."""

    def __init__(self, kind: str, seeds: mutants.Seeds) -> None:
        """Start it, and wait until it has read a whole file."""
        context = multiprocessing.get_context("spawn")
        self.calls, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(kind, seeds, theirs), daemon=True)
        self.process.start()
        theirs.close()
        if not self.calls.poll(START_S):
            raise SystemExit(f"the child for {kind} did not start")
        self.calls.recv()

    def ask(self, number: int) -> Any:
        """The answer, or in words what became of the child."""
        self.calls.send(number)
        try:
            if self.calls.poll(LIMIT_S):
                return self.calls.recv()
        except EOFError:
            self.process.join()
            return f"died with exit code {self.process.exitcode}"
        return f"hung for {LIMIT_S:g} s"

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.join()


def try_all(kind: str, count: int, seeds: mutants.Seeds, keep: Path | None) -> dict[str, Any]:
    """What became of ``count`` mutants of a kind."""
    child = Child(kind, seeds)
    failures: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    slowest, peak, accepted = 0.0, 0, 0
    for number in range(count):
        found = child.ask(number)
        wrong = ""
        if isinstance(found, str):
            wrong = found
            child.end()
            child = Child(kind, seeds)
        else:
            _, reason, raised, seconds, mebibytes = found
            slowest, peak = max(slowest, seconds), max(peak, mebibytes)
            accepted += not (reason or raised)
            reasons[_sort_of(reason)] += bool(reason)
            wrong = raised or ("refused without a reason" if reason == "no reason" else "")
        if wrong:
            name, data = mutants.mutant(seeds, kind, number)
            failures.append({"number": number, "of": name, "what": wrong})
            print(f"{kind} {number} ({name}): {wrong}", file=sys.stderr)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{kind}-{number}").write_bytes(data)
    child.end()
    return {
        "cases": count,
        "accepted": accepted,
        "refused": count - accepted - len(failures),
        "failures": failures,
        "slowest_seconds": round(slowest, 2),
        "peak_mib": peak,
        "commonest_reasons": dict(reasons.most_common(5)),
    }


def _sort_of(reason: str) -> str:
    """A reason without names and numbers, so that equal ones can be counted."""
    return re.sub(r"/\S+|'[^']*'|\d[\d,.]*", "*", reason)[:70]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", metavar="DATA", help="to mutate (default: generated ones)")
    parser.add_argument("--kinds", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--short", action="store_true", help="a tenth of the cases")
    parser.add_argument("--keep", type=Path, help="folder for the files that broke something")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    photos = choose_photos(options.photos, len(mutants.OPTIONS), SIDE)
    with tempfile.TemporaryDirectory() as folder:
        seeds = mutants.make_seeds(photos.pixels, Path(folder))
    counts = SHORT if options.short else CASES
    found = {
        kind: try_all(kind, counts[kind], seeds, options.keep) for kind in options.kinds.split(",")
    }
    result = {
        **results.provenance("hostile", (*PACKAGES, "pillow", "pyarrow", "onnxruntime")),
        "photos": photos.origin,
        "limit_seconds": LIMIT_S,
        "kinds": found,
    }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    if failed := sum(len(kind["failures"]) for kind in found.values()):
        raise SystemExit(f"{failed} mutants broke something")


if __name__ == "__main__":
    main()
