"""Kill -9 at random moments across a whole run: does the same command put everything right?

python benchmarks/kill.py --json benchmarks/results.json
python benchmarks/kill.py --short

A run on small generated images is done undisturbed. Then, for each moment, it is begun anew and
killed; nothing may be half-written under a name that it keeps; and the same command must go on to
the end, where every file equals that of the undisturbed run, bit for bit but for the times it
records. Checkpoints are written after every step, so that most moments of a training lie near one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import results
from alike import content, differences, whole
from chain import PACKAGES

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from commands import Served
from shapes import FINISHED, STUDENT_STEPS, as_options, write_shapes

SETTINGS = {**FINISHED, "checkpoint_seconds": 0.0}
KILLS, SHORT = 50, 2


def finished_stages(out: Path) -> int:
    return len(list((out / "stages").glob("*/stage.json")))


def saved_step(out: Path) -> int:
    """The last step that a training saved; 0 outside of trainings."""
    saved = (out / "stages").glob(".*.trainings/*/*.safetensors")
    return max((int(path.name.partition("-")[0]) for path in saved), default=0)


def kill_often(
    kills: int, dice: random.Random, folder: Path, student_steps: int | None
) -> dict[str, Any]:
    """Begin, kill at a random moment and go on, until enough runs were killed before their end."""
    words = ["run", str(write_shapes(folder / "data")), "--quiet", *as_options(SETTINGS)]
    wrong: list[str] = []
    killed: list[dict[str, Any]] = []
    with Served(folder / "stderr", student_steps=student_steps) as commands:
        undisturbed, out = folder / "undisturbed", folder / "killed"
        for _ in range(2):  # the first one measures the machine and fills the cache
            shutil.rmtree(undisturbed, ignore_errors=True)
            began = time.monotonic()
            if commands.run([*words, "--out", str(undisturbed)]) != 0:
                raise SystemExit(commands.log.read_text())
            seconds = time.monotonic() - began
        # The command stands in the report alone, whose content is not compared.
        expected = content(undisturbed)
        while len(killed) < kills:
            moment = dice.uniform(0.02, 1.0)  # of the time that the undisturbed run took
            again = [*words, "--out", str(out)]
            end = time.monotonic() + moment * seconds
            code = commands.run(again, sent=signal.SIGKILL, when=lambda: time.monotonic() > end)  # noqa: B023
            where = {"stages": finished_stages(out), "step": saved_step(out)}
            if code == -signal.SIGKILL:
                killed.append({"at": round(moment, 3), **where})
            wrong += [f"killed at {moment:.3f}: {text}" for text in whole(out) if out.exists()]
            if commands.run(again) != 0:
                wrong.append(f"killed at {moment:.3f}: {commands.log.read_text()[-500:]}")
            for name in differences(content(out), expected):
                wrong.append(f"killed at {moment:.3f}: {name} differs")
            shutil.rmtree(out)
    return {
        "seconds_undisturbed": round(seconds, 2),
        "killed": killed,
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, help=f"how many (default: {KILLS})")
    parser.add_argument(
        "--short",
        action="store_true",
        help=f"{SHORT} kills, and a student of {STUDENT_STEPS} steps",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    count = options.kills or (SHORT if options.short else KILLS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TUTELAGE_CACHE"] = str(Path(folder) / "cache")
        steps = STUDENT_STEPS if options.short else None
        found = kill_often(count, dice, Path(folder).resolve(), steps)
    result = {**results.provenance("kill", PACKAGES), **found}
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    if found["wrong"]:
        raise SystemExit("\n".join(found["wrong"]))


if __name__ == "__main__":
    main()
