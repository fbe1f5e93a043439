"""Pseudo-labels from an object store into an object store: nothing is lost, and what does it cost?

python benchmarks/store.py --json benchmarks/results.json
python benchmarks/store.py --fail --json benchmarks/results.json

The store is moto's S3 server, in this process. The first labels the same pool from a folder into a
folder and from the store into the store, in turn, and compares speed and memory; the server works
on the same cores, so its own core-seconds are told, too. In the second, the store fails at random
requests (it is full, too busy or takes the credentials no longer, or the connection breaks in the
middle of a request or of an answer) until the command has ended; then the same command goes on.
Every failure must end with one line and leave only whole files, and no finished shard may be
labelled again. In the end the files must equal those in a folder. The same holds for commands that
are killed. ``--short`` does less of either.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import results
from chain import PACKAGES
from label import DISTINCT, command, contents, photo, write_pool, write_student

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import pools
import s3
from answering import write_model

from tutelage import cli

ROUNDS = 3
FLAT = 0.05  # how much the memory may differ after a fifth of the way
SHARDS, EACH = 8, 10
ENDS = (
    "; run the same command again to continue\n",
    "; run the same command again when they can be\n",
    "the command, which tries it again\n",
    "the command, which tries them again\n",
)


def upload(folder: Path, to: str) -> str:
    """Put the files of a folder into the store; returns their address."""
    for path in sorted(folder.iterdir()):
        s3.bucket().put_file(str(path), f"{s3.BUCKET}/{to}/{path.name}")
    return f"s3://{s3.BUCKET}/{to}"


def stored(out: str) -> dict[str, bytes]:
    """Every object below an address."""
    store, root = s3.bucket(), out.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): store.cat_file(path) for path in store.find(root)}


def local(out: Path) -> dict[str, bytes]:
    """Every file of a folder of labels, but for its locks."""
    return {name: content for name, content in contents(out).items() if ".lock" not in name}


def speed(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """The same pool from folder to folder and from store to store, in turn."""
    model, pool = place / "student.onnx", place / "pool"
    rng = np.random.default_rng(0)
    photos = [photo(rng, 64) for _ in range(min(DISTINCT, options.images))]
    write_pool(pool, photos, options.images, options.each)
    write_student(model, options.view, options.view * 4 // 3)
    seconds: dict[str, list[float]] = {"folder": [], "store": []}
    wrong: list[str] = []
    with s3.serving() as door:
        address = upload(pool, "images")
        with patch.dict("os.environ", AWS_ENDPOINT_URL="http://{}:{}".format(*door.behind)):
            server = time.process_time()
            for number in range(options.rounds):
                here = place / f"out{number}"
                seconds["folder"].append(results.watched(command(model, pool, here))[0])
                there = f"s3://{s3.BUCKET}/labels{number}"
                took, samples = results.watched(command(model, address, there))
                seconds["store"].append(took)
            server = time.process_time() - server
        rows = [{name: len(content) for name, content in local(here).items()}, stored(there)]
        if len(rows[0]) != len(rows[1]):
            wrong.append(f"{len(rows[0])} files in the folder, {len(rows[1])} in the store")
    held = [one for _, one in samples]
    later = held[len(held) // 5 : -5]
    parts = [statistics.median(held[int(f * len(held)) :][: len(held) // 5]) for f in (0.2, 0.75)]
    ratios = [a / b for a, b in zip(seconds["folder"], seconds["store"], strict=True)]
    return {
        "images": options.images,
        "shards": len(list(pool.iterdir())),
        "view": options.view,
        "seconds": {name: [round(one, 1) for one in each] for name, each in seconds.items()},
        "store_speed_of_folder_speed": [round(ratio, 3) for ratio in ratios],
        "server_core_seconds": round(server / options.rounds, 1),
        "resident_mib": [round(one / 2**20, 1) for one in (min(later), max(later))],
        "resident_growth": round(parts[1] / parts[0] - 1, 4),
        "wrong": wrong,
    }


@dataclass
class Trial:
    """One command, and what its files are to be."""

    door: s3.Door
    words: list[str]  # without --out
    expected: dict[str, bytes]
    dice: random.Random
    wrong: list[str] = field(default_factory=list)
    failures: int = 0
    ways: Counter[str] = field(default_factory=Counter)

    def run(self, out: str) -> tuple[int, str]:
        """Run the command in this process; its exit code, and what it says."""
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = cli.main([*self.words, "--out", out])
        return code, said.getvalue()

    def requests(self, out: str) -> int:
        """How many requests an undisturbed command takes."""
        before = len(self.door.passed)
        if self.run(out)[0] != 0:
            raise SystemExit("the undisturbed command fails")
        return len(self.door.passed) - before

    def walk(self, out: str, most: int, requests: int) -> None:
        """Run the command until it finishes, through at most so many failures."""
        passed = len(self.door.passed)
        for number in range(most + 1):
            if number < most:
                how = self.dice.choice([s3.RESET, s3.HALF, *s3.ANSWERS])
                method = "GET" if how == s3.HALF else ""
                self.door.fault = s3.Fault(how, method, after=self.dice.randrange(requests))
            code, said = self.run(out)
            self.door.fault = None
            self.check(out, said if code else "")
            if code == 0:
                break
            self.failures += 1
            self.ways[how] += 1
        else:
            self.wrong.append(f"{out}: with a good store it ended with {code}: {said}")
        self.finished(out, passed)

    def check(self, out: str, said: str) -> None:
        """Whether a command ended with one line, if it failed, and left only whole files."""
        if said and not (
            said.count("\n") == 1 and said.startswith("tutelage ") and said.endswith(ENDS)
        ):
            self.wrong.append(f"{out}: expected one line, found {said}")
        for name, content in stored(out).items():
            if name.startswith("labels/") and content != self.expected.get(name):
                self.wrong.append(f"{out}: {name} is half-written, or not from this command")

    def finished(self, out: str, passed: int) -> None:
        """Whether in the end all is as in a folder, and each file of labels was written once."""
        if stored(out) != self.expected:
            self.wrong.append(f"{out}: the files differ from those in a folder")
        puts = [path for method, path in self.door.passed[passed:] if method == "PUT"]
        for path, times in Counter(p for p in puts if "/labels/pool-" in p).items():
            if times > 1:
                self.wrong.append(f"{path} was written {times} times")


def failing(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Random failures of the store, and kills of the command."""
    failures, kills = (15, 1) if options.short else (100, 10)
    model, pool = write_model(place / "m.onnx"), pools.write_pool(place / "pool", SHARDS, EACH)
    with s3.serving() as door:
        # A copy in the store has other names and other times.
        address = upload(pool, "images")
        words = ["pseudo-label", str(model), address, "--threshold", "0.4", "--quiet"]
        if cli.main([*words, "--out", str(place / "out")]) != 0:
            raise SystemExit("labelling into a folder fails")
        trial = Trial(door, words, local(place / "out"), random.Random(0))
        requests = trial.requests(f"s3://{s3.BUCKET}/undisturbed")
        walks = 0
        while trial.failures < failures:
            walks += 1
            trial.walk(f"s3://{s3.BUCKET}/walk{walks}", failures - trial.failures, requests)
            wrong = trial.wrong[-1:] or "none"
            print(f"{trial.failures} of {failures} failures; wrong: {wrong}", file=sys.stderr)
        for out in killed(trial, kills):
            trial.check(out, "")
            if trial.run(out)[0] != 0 or stored(out) != trial.expected:
                trial.wrong.append(f"{out}: after a kill the files differ from those in a folder")
    return {
        "shards": SHARDS,
        "requests": requests,
        "failures": trial.failures,
        "ways": dict(sorted(trial.ways.items())),
        "commands_until_finished": walks,
        "kills": kills,
        "wrong": trial.wrong,
    }


def killed(trial: Trial, kills: int) -> Iterator[str]:
    """Kill commands at random moments; gives the address that each wrote to."""
    command = [sys.executable, "-m", "tutelage", *trial.words, "--out"]
    began = time.perf_counter()
    subprocess.run([*command, f"s3://{s3.BUCKET}/timed"], check=True)
    seconds = time.perf_counter() - began
    for number in range(kills):
        out = f"s3://{s3.BUCKET}/killed{number}"
        with subprocess.Popen([*command, out]) as process:
            time.sleep(trial.dice.uniform(seconds / 2, seconds))  # the first half is imports
            process.send_signal(signal.SIGKILL)
        yield out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--each", type=int, default=1000, help="images of a shard")
    parser.add_argument("--view", type=int, default=144, help="of the model, in pixels")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--fail", action="store_true", help="let the store fail instead")
    parser.add_argument("--short", action="store_true", help="2,000 images once, or 15 failures")
    parser.add_argument("--json", type=Path, help="append the results to this file's list")
    options = parser.parse_args()
    if options.short:
        options.images, options.each, options.rounds = 2000, 200, 1
    with tempfile.TemporaryDirectory() as place:
        found = (failing if options.fail else speed)(options, Path(place))
    name = "store-fail" if options.fail else "store"
    packages = (*PACKAGES, "pyarrow", "fsspec", "s3fs", "moto")
    result = {**results.provenance(name, packages), **found}
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    failures = found["wrong"]
    if not (options.fail or options.short) and abs(found["resident_growth"]) > FLAT:
        failures.append("the memory is not flat")
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
