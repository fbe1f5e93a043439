"""Let the disk fail at random calls of whole runs; what is finished in the end must be the same.

python benchmarks/faults.py --json trust.json

A run on small generated images is done undisturbed. Then it is done again and again from the start,
each time on a disk that is full or fails from a random call on (creating, writing, syncing or
renaming a file, making a folder) until the command has ended; the disk is mended, and the same
command goes on, until it finishes. Every failure must end with one message that says the mend and
leave only whole files, and in the end the folder must equal the undisturbed one, bitwise but for
the times it tells.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import results
from chain import PACKAGES

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from commands import Commands
from disk import CHANGES, EVER, Faults, why_not
from shapes import FINISHED, as_options, write_shapes

TIMED = ("events.jsonl", "report.html", "MODEL_CARD.md")  # tell when they were written


def whole(folder: Path) -> list[str]:
    """Files below a folder, of the names they are to keep, that cannot be read to their end."""
    import pyarrow.parquet
    from safetensors.numpy import load_file

    def read_arrays(path: Path) -> None:
        with np.load(path) as arrays:
            [arrays[name] for name in arrays.files]

    readers: dict[str, Any] = {
        ".json": lambda path: json.loads(path.read_text()),
        ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
        ".parquet": pyarrow.parquet.read_table,
        ".safetensors": load_file,
        ".npz": read_arrays,
    }
    broken = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in readers and not hidden:
            try:
                readers[path.suffix](path)
            except Exception as error:  # each reader has kinds of its own
                broken.append(f"{path.relative_to(folder)}: {error}")
    return broken


def timeless(part: Any) -> Any:
    """JSON without the seconds that things took."""
    if isinstance(part, dict):
        return {k: timeless(v) for k, v in part.items() if "seconds" not in k}
    return [timeless(v) for v in part] if isinstance(part, list) else part


def content(folder: Path) -> dict[str, Any]:
    """What a finished folder holds, by file, that must not depend on how it came about."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            keeps = path.name not in TIMED
            found[str(path.relative_to(folder))] = (
                (timeless(json.loads(data)) if path.suffix == ".json" else data) if keeps else None
            )
    return found


def said_badly(text: str, command: str) -> str:
    """What is wrong with what a command said when the disk failed; empty if nothing."""
    lines = [line for line in text.splitlines() if not line.startswith("events are not recorded")]
    if len(lines) != 1 or not lines[0].startswith(f"tutelage {command}: "):
        return f"expected one line, found: {text[-500:]}"
    mends = ("free some space", "fails: mend that", "TUTELAGE_CACHE")
    return "" if any(mend in lines[0] for mend in mends) else f"no mend: {lines[0]}"


def walk(
    words: Sequence[str], out: Path, place: Path, disk: Faults, commands: Commands, calls: int,
    dice: random.Random, most: int,
) -> tuple[int, list[str]]:  # fmt: skip
    """Do a command to its end through at most ``most`` failures; how many, and what was wrong."""
    failures, wrong = 0, []
    while True:
        if failures < most:
            code = dice.choice((errno.ENOSPC, errno.EIO))
            disk.set(f"{place}/*", *CHANGES, error=code, first=dice.randrange(calls))
        ended = commands.run(words)
        failed, where = disk.failed, disk.victim
        disk.clear()
        if not failed:
            break
        failures += 1
        said = commands.log.read_text()
        # A log that cannot be written stops nothing, so that the work may have been finished.
        if ended not in (0, 2):
            wrong.append(f"{where}: ended with {ended}: {said[-500:]}")
        elif ended == 2 and (fault := said_badly(said, words[0])):
            wrong.append(f"{where}: {fault}")
        wrong += [f"{where}: {broken}" for broken in whole(out)] if out.exists() else []
        if ended == 0:
            break
    if ended != 0:
        wrong.append(f"on a good disk it ended with {ended}: {commands.log.read_text()[-500:]}")
    return failures, wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100, help="failures in all (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="4 failures")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    if reason := why_not():
        print(f"not done: {reason}")
        return 0
    most = 4 if options.short else options.faults
    dice, failures, walks, wrong = random.Random(options.seed), 0, 0, list[str]()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder).resolve() / "disk"
        place.mkdir()
        photos = write_shapes(Path(folder) / "photos")
        disk = Faults(Path(folder))
        cache = {"TUTELAGE_CACHE": str(place / "cache")}
        settings = [*as_options(FINISHED), "--quiet"]
        with Commands(Path(folder) / "said", disk.environment | cache) as commands:

            def words(name: str) -> list[str]:
                return ["run", str(photos), "--out", str(place / name), *settings]

            disk.set(f"{place}/*", *CHANGES, first=EVER)
            if commands.run(words("undisturbed")) != 0:  # the machine's speed is measured here
                raise SystemExit(commands.log.read_text())
            calls = disk.seen
            expected = content(place / "undisturbed")
            while failures < most:
                walks += 1
                out = place / f"walk{walks}"
                shutil.rmtree(place / "cache" / "stores")
                met, bad = walk(
                    words(out.name), out, place, disk, commands, calls, dice, most - failures
                )
                failures += met
                found = content(out)
                bad += [
                    f"{name} differs"
                    for name in sorted(found.keys() | expected.keys())
                    if found.get(name, b"") != expected.get(name, b"")
                ]
                wrong += [f"walk {walks}: {text}" for text in bad]
                shutil.rmtree(out)
    result = {
        **results.provenance("faults", PACKAGES),
        "cores": os.cpu_count(),
        "calls_of_a_run": calls,
        "failures": failures,
        "restarted_runs": walks,
        "wrong": wrong,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
