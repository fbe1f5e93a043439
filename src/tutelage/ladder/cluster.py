"""Draws as tasks of a cluster: several at once, each with a GPU or a node's cores to itself."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from tutelage.data.runfolder import RunFolder
from tutelage.ladder.draws import Ladder, choose_student, train_draw
from tutelage.stats.results import DrawMetrics
from tutelage.system.console import Console
from tutelage.system.engines import Lost, Ray, Resources, with_gpu
from tutelage.system.errors import TutelageError
from tutelage.system.process import keep_to
from tutelage.system.words import counted

PATIENCE_S = 120.0  # an NFS server keeps the locks of a machine that is gone for 90


def train_on_cluster(
    ladder: Ladder, cluster: Ray, console: Console
) -> Iterator[tuple[int, DrawMetrics | Lost]]:
    """Train all draws, as many at once as the cluster has room for, in the order they end in."""
    ladder = dataclasses.replace(ladder, out=ladder.out.absolute())
    with cluster.connected() as nodes:
        share = draws_share(nodes, ladder.config.data.device)
        gpu = "a GPU and " if share.gpus else ""
        console.say(
            f"the draws run on a cluster of {counted(len(nodes), 'node')}; each takes {gpu}"
            f"{counted(int(share.cores), 'core')}"
        )
        working = partial(_working, ladder, os.getcwd(), int(share.cores))
        limited = ladder.config.distill.limited
        if limited and "student" not in RunFolder(ladder.out).read_json("config.json"):
            # Draws that run at once would each choose their own.
            first = ladder.draws[:1]
            for draw, result in cluster.map(partial(working, choose_student), first, share):
                if isinstance(result, Lost):
                    raise TutelageError(
                        f"no student was chosen, for draw {draw} is lost: {result.reason}"
                    )
        with (
            closing(cluster.map(partial(working, train_draw), ladder.draws, share)) as results,
            console.bar("draws", ladder.seeds, "draw") as show,
        ):
            for done, (draw, result) in enumerate(results, start=1):
                end = f"is lost: {result.reason}" if isinstance(result, Lost) else "is done"
                console.say(f"draw {draw} of {ladder.seeds} {end}", seed=ladder.seed(draw))
                show(done)
                yield draw, result


def draws_share(nodes: Sequence[Resources], device: str) -> Resources:
    """What a draw takes: a GPU and its share of cores, or all cores of the smallest node.

    Every draw takes the same, since what is planned for it depends on that.
    """
    if device != "cpu" and (share := with_gpu(nodes, 1)):
        return share
    if device == "cuda":
        raise TutelageError("--device cuda: no node of the cluster has a GPU; use --device cpu")
    if not nodes:
        raise TutelageError("no node of the cluster has cores; add one with: ray start --address")
    return Resources(int(max(1, min(node.cores for node in nodes))))


@contextmanager
def _working(
    ladder: Ladder, place: str, cores: int, work: Callable[[Ladder, int, Console], Any]
) -> Iterator[Callable[[int], Any]]:
    """Opened in each process of the cluster; it draws."""
    if not (ladder.out / "config.json").exists():
        raise TutelageError(
            f"the node {platform.node()} sees no folder {ladder.out}; give --out a folder on a "
            "disk that all nodes share"
        )
    settle(place, cores)

    def done(draw: int) -> Any:
        for left in ladder.folder(draw).rglob("events.jsonl"):
            RunFolder(left.parent).await_others(PATIENCE_S)
        return work(ladder, draw, Console(quiet=True))

    yield done


def settle(place: str, cores: int) -> None:
    """Let a process of a cluster work as the command would: in its folder, on its own cores."""
    if os.path.isdir(place):  # else all paths must be absolute
        os.chdir(place)
    keep_to(cores)
