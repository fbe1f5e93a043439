"""Let the disk fail at random calls of whole commands; their results must be the same.

python benchmarks/faults.py --json trust.json

A run on small generated images is done undisturbed, and a ``label`` of them in shards by the model
that it leaves. Then each is done again and again from the start, each time on a disk that is full
or fails from a random call on (creating, writing, syncing or renaming a file, making a folder)
until the command has ended; the disk is repaired, and the same command goes on, until it finishes.
Every failure must end with one message that says what to do and leave only whole files, and in the
end the folder must equal the undisturbed one, bitwise but for the times it records.
"""

from __future__ import annotations

import argparse
import errno
import json
import random
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import results
from alike import content, differences, whole
from chain import PACKAGES

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from commands import Served
from disk import CHANGES, EVER, Faults, why_not
from shapes import FINISHED, STUDENT_STEPS, as_options, write_shapes

SHORT = 3  # failures of each command


def said_badly(text: str, command: str) -> str:
    """What is wrong with a command's message about a failing disk; empty if nothing is."""
    lines = [line for line in text.splitlines() if not line.startswith("events are not recorded")]
    if len(lines) != 1 or not lines[0].startswith(f"tutelage {command}: "):
        return f"expected one line, found: {text[-500:]}"
    mends = ("free some space", "fails: repair it", "TUTELAGE_CACHE")
    return "" if any(mend in lines[0] for mend in mends) else f"no remedy: {lines[0]}"


@dataclass
class Trial:
    """One command, and where it is tried.

    Attributes:
        place: everything that it writes is below; this is the disk that fails.
        words: the command that writes to a given folder.
    """

    commands: Served
    disk: Faults
    place: Path
    words: Callable[[Path], list[str]]
    dice: random.Random

    def run(self, most: int) -> dict[str, Any]:
        """Run the command undisturbed, then again and again through ``most`` failures in all."""
        undisturbed = self.place / "undisturbed"
        self.disk.set(f"{self.place}/*", *CHANGES, first=EVER)
        if self.commands.run(self.words(undisturbed)) != 0:  # this measures the machine's speed
            raise SystemExit(self.commands.log.read_text())
        calls, expected = self.disk.seen, content(undisturbed)
        failures, walks, wrong = 0, 0, list[str]()
        while failures < most:
            walks += 1
            out = self.place / f"walk{walks}"
            shutil.rmtree(self.place / "cache" / "stores", ignore_errors=True)
            met, bad = self.walk(out, calls, most - failures)
            failures += met
            bad += [f"{name} differs" for name in differences(content(out), expected)]
            wrong += [f"walk {walks}: {text}" for text in bad]
            print(f"{failures} of {most} failures, {len(wrong)} wrong", file=sys.stderr, flush=True)
            shutil.rmtree(out)
        return {"calls": calls, "failures": failures, "restarted": walks, "wrong": wrong}

    def walk(self, out: Path, calls: int, most: int) -> tuple[int, list[str]]:
        """Run the command through at most ``most`` failures; how many, and what was wrong."""
        words, failures, wrong = self.words(out), 0, list[str]()
        while True:
            if failures < most:
                code = self.dice.choice((errno.ENOSPC, errno.EIO))
                first = self.dice.randrange(calls)
                self.disk.set(f"{self.place}/*", *CHANGES, error=code, first=first)
            ended = self.commands.run(words)
            failed, where = self.disk.failed, self.disk.victim
            self.disk.clear()
            said = self.commands.log.read_text()
            if not failed:
                break
            failures += 1
            if ended == 2:
                fault = said_badly(said, words[0])
                wrong += [f"{where}: {fault}"] * bool(fault)
            elif ended != 0:
                wrong.append(f"{where}: ended with {ended}: {said[-500:]}")
            wrong += [f"{where}: {broken}" for broken in whole(out)] if out.exists() else []
            if ended == 0:  # what could not be written was its log alone
                break
        if ended != 0:
            wrong.append(f"on a good disk it ended with {ended}: {said[-500:]}")
        return failures, wrong


def write_pool(photos: Path, folder: Path, shards: int = 4) -> Path:
    """The photos as tars."""
    folder.mkdir()
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    for number in range(shards):
        with tarfile.open(folder / f"{number:03d}.tar", "w") as tar:
            for path in files[number::shards]:
                tar.add(path, arcname=str(path.relative_to(photos)).replace("/", "-"))
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100, help="of each command (default: 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--short",
        action="store_true",
        help=f"{SHORT} failures of each, and a student of {STUDENT_STEPS} steps",
    )
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    if reason := why_not():
        print(f"not done: {reason}")
        return 0
    most = SHORT if options.short else options.faults
    dice, began = random.Random(options.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        photos = write_shapes(root / "photos")
        pool = write_pool(photos, root / "pool")
        settings = [*as_options(FINISHED), "--quiet"]
        model = root / "run" / "undisturbed" / "student.onnx"
        asked: dict[str, Callable[[Path], list[str]]] = {
            "run": lambda out: ["run", str(photos), "--out", str(out), *settings],
            "label": lambda out: [
                "pseudo-label",
                str(model),
                str(pool),
                "--out",
                str(out),
                "--quiet",
            ],
        }
        disk, tried = Faults(root), {}
        here = {**disk.environment, "TUTELAGE_CACHE": str(root / "run" / "cache")}  # of runs alone
        steps = STUDENT_STEPS if options.short else None
        with Served(root / "said", here, student_steps=steps) as commands:
            for name, words in asked.items():
                place = root / name
                place.mkdir()
                tried[name] = Trial(commands, disk, place, words, dice).run(most)
                disk.clear()
    result = {
        **results.provenance("faults", PACKAGES),
        "tried": tried,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    return int(any(trial["wrong"] for trial in tried.values()))


if __name__ == "__main__":
    raise SystemExit(main())
