"""Draws on a cluster: those of a sequential ladder, several at once."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("timm")

import silent_checks as checks
from drawn import SEEDS

from tutelage import api, cli
from tutelage.chain import limits
from tutelage.data.runfolder import RunFolder
from tutelage.ladder import cluster as ladder
from tutelage.ladder import draws
from tutelage.system import engines, process
from tutelage.system.engines import Lost, Ray, Resources
from tutelage.system.errors import TutelageError

pytestmark = pytest.mark.usefixtures("quick")

# The summary says how long a draw took, too; the rest of it is the verdict and the differences.
CLOCK = {"seconds", "total_seconds", "latency_ms", "created", "command", "summary"}


def figures(content: Any) -> Any:
    """What two equal ladders share: all but the clock's figures and the command."""
    if isinstance(content, dict):
        return {name: figures(value) for name, value in content.items() if name not in CLOCK}
    return [figures(value) for value in content] if isinstance(content, list) else content


@dataclass(frozen=True)
class Quick(Ray):
    """Its processes train for four steps, too."""

    cache: Path = Path()

    def map(self, opening: Any, items: Any, resources: Resources) -> Any:
        return super().map(partial(checks.quickly, opening, self.cache), items, resources)


def test_three_draws_on_two_nodes_are_those_of_a_sequential_ladder(
    cluster: Any, data: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"seeds": 3, "arms": ["probe", "transfer", "student"], "curve": []}
    settings: dict[str, Any] = {**wanted, **checks.LADDER, "quiet": True}
    monkeypatch.setattr(engines, "Ray", partial(Quick, cache=own_cache))
    one_by_one, out = tmp_path / "one", tmp_path / "several"
    several = api.ladder(data, out, engine="ray", **settings)
    one = api.ladder(data, one_by_one, **settings)
    assert figures(several) == figures(one)
    for path in one_by_one.rglob("metrics.json"):
        known = out / path.relative_to(one_by_one)
        assert figures(json.loads(known.read_text())) == figures(json.loads(path.read_text()))
    assert several["arms"][0]["latency_ms"] > 0
    assert several["command"].endswith("--curve none --engine ray")
    said = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    told = [row["text"] for row in said if row["event"] == "message"]
    assert told[0] == "the draws run on a cluster of 2 nodes; each takes 1 core"
    assert {f"draw {number} of 3 is done" for number in (1, 2, 3)} < {*told}


@dataclass
class Pretended:
    """A cluster of two nodes that is this process; ``losing`` are draws whose processes died."""

    losing: tuple[int, ...] = ()
    address: str | None = None
    done: list[tuple[str, int]] = field(default_factory=list)

    @contextmanager
    def connected(self) -> Iterator[list[Resources]]:
        yield [Resources(7), Resources(5)]

    def map(self, opening: Any, items: Any, resources: Resources) -> Iterator[Any]:
        assert resources == Resources(5)
        with opening() as work:
            for draw in reversed(items):  # they end in any order
                lost = draw in self.losing
                self.done.append((opening.args[-1].__name__, draw))
                yield draw, Lost("its node is gone") if lost else work(draw)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """In the place of Ray; what a process of a cluster changes for good is put back."""
    monkeypatch.setattr(process, "_given", None)
    monkeypatch.chdir(os.getcwd())
    cluster = Pretended()
    monkeypatch.setattr(engines, "asked_cluster", lambda *_: cluster)
    return cluster


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that train nothing."""

    def run_seed(_: Any, out: Path, config: Any, *__: Any, **___: Any) -> Any:
        out.mkdir(exist_ok=True)
        (out / "events.jsonl").touch()
        return dict(SEEDS[config.data.seed])

    monkeypatch.setattr(draws, "run_seed", run_seed)


ARMS = ["probe", "fine-tune", "transfer", "student"]


@pytest.mark.usefixtures("made_up")
def test_lost_draws_are_named_and_the_page_is_of_the_others(
    pretended: Pretended, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretended.losing = (2,)
    out = tmp_path / "ladder"
    words = ["ladder", str(data), "--out", str(out), "--seeds", "3", "--arms", ",".join(ARMS)]
    assert cli.main([*words, "--curve", "none", "--engine", "ray"]) == 2
    told = capsys.readouterr().err
    assert "draw 2 of 3 is lost: its node is gone\n" in told
    assert (
        "tutelage ladder: 1 of 3 draws was lost: draw 2 (seed 1): its node is gone; the page is "
        "made of the other 2. Run the same command again to make up for what is missing"
    ) in told
    assert json.loads((out / "ladder.json").read_text())["seeds"] == [0, 2]
    assert process.cores() == 5


@pytest.mark.usefixtures("made_up")
def test_the_same_command_makes_up_for_lost_draws_once_their_processes_are_gone(
    pretended: Pretended, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = []
    monkeypatch.setattr(RunFolder, "await_others", lambda self, _: waited.append(self.path.name))
    climb = partial(api.ladder, data, tmp_path / "ladder", seeds=3, arms=ARMS, curve=[], quiet=True)
    pretended.losing = (2, 3)
    with pytest.raises(TutelageError, match=r"2 of 3 draws were lost: .*; there is no page\. Run"):
        climb(**checks.LADDER)
    assert not (tmp_path / "ladder" / "ladder.html").exists()
    assert waited == []
    pretended.losing = ()
    assert climb(**checks.LADDER)["seeds"] == [0, 1, 2]
    assert waited == ["seed-0"]


@pytest.mark.usefixtures("made_up")
def test_the_student_is_chosen_before_the_draws_begin(
    pretended: Pretended, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose_student(*_: Any) -> Any:
        return limits.Offer("cut:1", 32, 1.0, 1.0), "it is small"

    monkeypatch.setattr(limits, "choose_student", choose_student)
    out = tmp_path / "ladder"
    settings = {**checks.LADDER, "max_size_mb": 9.0}
    content = api.ladder(data, out, seeds=2, arms=ARMS, curve=[], quiet=True, **settings)
    assert pretended.done == [("choose_student", 1), ("train_draw", 2), ("train_draw", 1)]
    assert content["seeds"] == [0, 1]
    assert RunFolder(out).read_json("config.json")["student"]["student"] == "cut:1"
    pretended.done.clear()
    api.ladder(data, out, seeds=2, arms=ARMS, curve=[], quiet=True, **settings)
    assert pretended.done == [("train_draw", 2), ("train_draw", 1)]


@pytest.mark.parametrize(
    ("nodes", "device", "expected"),
    [
        ([Resources(16), Resources(8)], "auto", Resources(8)),
        ([Resources(16), Resources(8, 4), Resources(12, 1)], "auto", Resources(2, 1)),
        ([Resources(16), Resources(8, 4)], "cpu", Resources(8)),
        ([Resources(2, 8)], "cuda", Resources(1, 1)),
        ([Resources(4)], "cuda", "--device cuda: no node of the cluster has a GPU"),
        ([], "auto", "no node of the cluster has cores"),
    ],
)
def test_a_draw_takes_a_gpu_or_the_cores_of_the_smallest_node_if_there_are_any(
    nodes: list[Resources], device: str, expected: Resources | str
) -> None:
    if isinstance(expected, Resources):
        assert ladder.draws_share(nodes, device) == expected
        return
    with pytest.raises(TutelageError, match=expected):
        ladder.draws_share(nodes, device)


def test_a_node_that_does_not_see_the_folder_is_named(
    pretended: Pretended, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setattr(Path, "absolute", lambda _: elsewhere)
    with pytest.raises(TutelageError, match=f"sees no folder {elsewhere}; give --out a folder on"):
        api.ladder(data, tmp_path / "out", seeds=2, arms=["probe"], quiet=True, **checks.LADDER)


def test_a_draw_waits_for_the_locks_of_a_process_that_is_ending(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = RunFolder(tmp_path)
    with folder.events.open("a") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        folder.await_others(0.1)
        with pytest.raises(TutelageError, match="another process works in"):
            folder.claim({"command": "ladder"})
        threading.Timer(0.2, fcntl.flock, (theirs, fcntl.LOCK_UN)).start()
        folder.await_others(60)
        folder.claim({"command": "ladder"})
        folder.await_others(60)  # what this process holds stays
        with pytest.raises(BlockingIOError):
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folder.unlock()
