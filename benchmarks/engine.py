"""Nodes and workers of a Ray cluster that are killed: is every shard labelled once, and none lost?

python benchmarks/engine.py --json benchmarks/results.json
python benchmarks/engine.py --short

A pool is labelled by this process, and then twice by a cluster of three nodes, which are processes
of this machine. During the first, a node is killed at ten random moments, with all that runs on it,
and another one joins; during the second, twenty workers are killed in the middle of a shard. In
the end every file must equal that of this process, no shard may have been begun after its labels
were there, and nothing half-written may be left. How many shards were begun again is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import results
from chain import PACKAGES

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import clusters
import pools
from shapes import contents

from tutelage.data.shards import Shard, find_shards
from tutelage.deploy.label_files import LABELS, LabelFolder
from tutelage.deploy.pseudo_label import Labelling, label_shards
from tutelage.system.console import Console
from tutelage.system.engines import Engine, Local, Ray, Resources
from tutelage.system.storage import Place

NODES = 3
SHARDS, SHORT = 150, 24
EACH, SECONDS = 40, 0.06  # images of a shard; seconds of a batch of four
Kill = Callable[[random.Random], None]


@dataclass(frozen=True)
class Logged:
    """A shard that writes down when it is begun."""

    shard: Shard
    log: Path

    @property
    def name(self) -> str:
        """The shard's own."""
        return self.shard.name

    def fingerprint(self) -> str:
        """The shard's own."""
        return self.shard.fingerprint()

    @contextmanager
    def opened(self, stop: threading.Event) -> Iterator[Any]:
        """The shard's own."""
        with self.log.open("a") as file:
            file.write(f"{time.time_ns()} {self.name}\n")
        with self.shard.opened(stop) as entries:
            yield entries


def slow_model() -> pools.ByColour:
    """A model that lets the cores idle."""
    return pools.ByColour(seconds=SECONDS)


def label(shards: list[Any], out: Path, engine: Engine, workers: int) -> dict[str, Any] | None:
    """Label the shards, and return ``label.json``."""
    labelling = Labelling(
        LabelFolder(Place.at(out)), "colours", pools.CLASSES, 0.5, slow_model, workers
    )
    return label_shards(labelling, shards, engine, Resources(), console=Console(quiet=True))[0]


def disturbed(
    shards: list[Any], out: Path, kill: Kill, kills: int, dice: random.Random
) -> dict[str, Any]:
    """Label with a cluster and kill so many times on the way; what became of it."""
    moments = sorted(dice.sample(range(len(shards) * 9 // 10), kills))  # shards that are finished
    log = out.with_suffix(".log")
    found: list[Any] = []
    logged = [Logged(shard, log) for shard in shards]
    work = threading.Thread(
        target=lambda: found.append(label(logged, out, Ray(), workers=1)), daemon=True
    )
    began = time.monotonic()
    work.start()
    for moment in moments:
        while work.is_alive() and len([*out.glob(f"{LABELS}/pool-*")]) < moment:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.5))
        kill(dice)
    work.join()
    begun = [line.split(maxsplit=1) for line in log.read_text().splitlines()]
    folder = LabelFolder(Place.at(out))
    finished = {shard.name: os.stat(folder.labels_of(shard).name).st_mtime_ns for shard in shards}
    return {
        "seconds": round(time.monotonic() - began, 1),
        "kills": kills,
        "lost": len(found[0]["failed"]) if found and found[0] else len(shards),
        "begun_again": len(begun) - len(shards),
        "redone": sum(int(when) > finished[name] for when, name in begun),
        "half_written": len([*out.rglob("*.partial")]),
    }


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    with suppress(FileNotFoundError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [one for child in map(int, text.split()) for one in (child, *descendants(child))]
    return []


def raylet(node: Any) -> int:
    """The process of a node that starts all others."""
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def node_killer(cluster: Any) -> Kill:
    """Kills a node that is not the head, as a power cut does, and adds another one."""

    def kill(dice: random.Random) -> None:
        node = dice.choice(sorted(cluster.worker_nodes, key=raylet))
        for pid in [raylet(node), *descendants(raylet(node))]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)
        clusters.add_node(cluster)

    return kill


def worker_killer(cluster: Any) -> Kill:
    """Kills a process in the middle of a shard."""

    def kill(dice: random.Random) -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            nodes = [cluster.head_node, *cluster.worker_nodes]
            pids = [pid for node in nodes for pid in descendants(raylet(node))]
            if busy := [pid for pid in sorted(pids) if is_busy(pid)]:
                os.kill(dice.choice(busy), signal.SIGKILL)
                return
            time.sleep(0.01)
        raise SystemExit("no worker works")

    return kill


def is_busy(pid: int) -> bool:
    """Whether a process does a piece of work, whose name Ray shows as that of the process."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_do")
    return False


KILLERS = {"nodes": (node_killer, 10), "workers": (worker_killer, 20)}  # and how often


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="two kills of each kind")
    parser.add_argument("--only", choices=KILLERS, help="kill only these")
    parser.add_argument("--json", type=Path, help="append the results to this file's list")
    options = parser.parse_args()
    count = SHORT if options.short else SHARDS
    trials: dict[str, Any] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as place, clusters.running(NODES) as cluster:
        shards: list[Any] = find_shards([pools.write_pool(Path(place, "pool"), count, EACH)])
        label(shards, Path(place, "alone"), Local(2), workers=16)
        expected = contents(Path(place, "alone"))
        for name in [options.only] if options.only else KILLERS:
            killer, kills = KILLERS[name]
            out, dice = Path(place, name), random.Random(name)
            trial = disturbed(shards, out, killer(cluster), 2 if options.short else kills, dice)
            trials[name] = trial
            wrong += [f"{name}: {key}" for key in ("lost", "redone", "half_written") if trial[key]]
            wrong += [f"{name}: other labels"] * (contents(out) != expected)
    result = {
        **results.provenance("engine", (*PACKAGES, "pyarrow", "ray")),
        "nodes": NODES,
        "shards": count,
        "killed": trials,
        "wrong": wrong,
    }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
