"""Work in this process and on a Ray cluster."""

import os
import re
import signal
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pieces import failing, fails, kills, squares

from tutelage.system import engines
from tutelage.system.engines import Engine, Local, Lost, Ray, Resources, asked_cluster
from tutelage.system.errors import TutelageError

ONE = Resources()


@pytest.fixture(params=["local", "threads", "ray"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "ray":
        request.getfixturevalue("cluster")
        return Ray()
    return Local(3 if request.param == "threads" else 1)


def test_each_piece_of_work_is_done_once_and_what_it_needs_is_opened_once_a_process(
    engine: Engine, tmp_path: Path
) -> None:
    found = dict(engine.map(partial(squares, tmp_path), range(40), ONE))
    assert found == {number: number * number for number in range(40)}
    done = sorted(int(p.name.split("-")[0]) for p in tmp_path.glob("[0-9]*"))
    assert done == list(range(40))
    processes = {p.name.split("-")[1] for p in tmp_path.glob("[0-9]*")}
    assert {p.name.split("-")[1] for p in tmp_path.glob("opened-*")} == processes
    if not isinstance(engine, Ray):
        assert [p.name for p in tmp_path.glob("closed-*")] == [f"closed-{os.getpid()}"]


def test_what_the_work_raises_is_raised_and_the_rest_is_not_begun(engine: Engine) -> None:
    with pytest.raises(TutelageError, match=r"^3 is too many; expected 2$"):
        list(engine.map(fails, range(5), ONE))


def test_nothing_to_do_is_done(engine: Engine, tmp_path: Path) -> None:
    assert list(engine.map(partial(squares, tmp_path), [], ONE)) == []


def test_one_piece_of_work_at_once_stays_in_the_calling_thread(tmp_path: Path) -> None:
    list(Local().map(partial(squares, tmp_path), range(3), ONE))
    assert len(list(tmp_path.glob(f"[0-9]*-{threading.get_ident()}"))) == 3


def test_so_many_at_once_and_no_more() -> None:
    running: list[int] = []
    most: list[int] = []
    together = threading.Barrier(3, timeout=10)

    @contextmanager
    def counting() -> Iterator[Callable[[int], None]]:
        def work(number: int) -> None:
            running.append(number)
            most.append(len(running))
            together.wait()
            running.remove(number)
            together.wait()

        yield work

    list(Local(3).map(counting, range(9), ONE))
    assert max(most) == 3


def test_a_consumer_that_stops_closes_what_was_opened(tmp_path: Path) -> None:
    for at_once in (1, 2):
        results = Local(at_once).map(partial(squares, tmp_path), range(50), ONE)
        next(results)
        results.close()
        (tmp_path / f"closed-{os.getpid()}").unlink()
    assert len(list(tmp_path.glob("[0-9]*"))) < 12


def test_a_consumer_that_stops_leaves_a_cluster_with_nothing_to_do(
    cluster: Any, tmp_path: Path
) -> None:
    import ray

    results = Ray().map(partial(squares, tmp_path), range(400), ONE)
    next(results)
    results.close()
    assert ray.get(ray.remote(failing).remote(0), timeout=30) == 0
    assert len(list(tmp_path.glob("[0-9]*"))) < 200


def test_the_nodes_of_a_cluster_are_known(cluster: Any) -> None:
    with Ray().connected() as nodes:
        assert nodes == [Resources(1, 0), Resources(1, 0)]


@pytest.mark.parametrize(
    ("engine", "address", "message"),
    [
        ("dask", None, "no engine called 'dask'; --engine takes local or ray"),
        ("local", "here:1", "--address is that of a Ray cluster; add --engine ray"),
    ],
)
def test_what_is_no_engine_is_refused(engine: str, address: str | None, message: str) -> None:
    with pytest.raises(TutelageError, match=message):
        asked_cluster(engine, address)


def test_an_engine_is_asked_for_by_its_name() -> None:
    pytest.importorskip("ray")
    assert asked_cluster("local", None) is None
    assert asked_cluster("ray", "here:1") == Ray("here:1")


def test_a_killed_process_costs_its_piece_of_work_another_beginning(
    cluster: Any, tmp_path: Path
) -> None:
    found = dict(Ray().map(partial(kills, tmp_path, 2), range(6), ONE))
    assert found == {number: number for number in range(6)}
    assert len(list(tmp_path.glob("death-*"))) == 2


def test_a_piece_of_work_that_kills_every_process_is_lost_and_the_others_are_done(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "RETRIES", 1)
    found = dict(Ray().map(partial(kills, tmp_path, 9), range(6), ONE))
    lost = found.pop(1)
    assert isinstance(lost, Lost)
    assert "died" in lost.reason
    assert "\n" not in lost.reason
    assert found == {number: number for number in (0, 2, 3, 4, 5)}


def test_a_node_of_another_version_is_refused(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "__version__", "0.0.1")
    with pytest.raises(TutelageError, match=r"has tutelage .*, and this command is 0\.0\.1"):
        list(Ray().map(partial(squares, tmp_path), range(2), ONE))


def test_a_node_without_tutelage_is_told(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = ModuleType("nowhere")
    exec("def _do(shared, version, item): return item", nowhere.__dict__)
    monkeypatch.setitem(sys.modules, "nowhere", nowhere)  # here, and in no other process
    monkeypatch.setattr(engines, "_do", nowhere._do)
    with pytest.raises(TutelageError, match=r"No module named 'nowhere'\); install tutelage \d"):
        list(Ray().map(fails, range(2), ONE))


def test_a_cluster_of_the_caller_stays(cluster: Any, tmp_path: Path) -> None:
    import ray

    list(Ray().map(partial(squares, tmp_path), range(2), ONE))
    assert ray.is_initialized()


@pytest.mark.parametrize("error", [ConnectionError("nobody there"), RuntimeError("no head")])
def test_a_cluster_that_does_not_answer_is_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def init(address: str, **options: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TutelageError, match=rf"answers at here:1 \({error}\); start one with: ray"):
        next(Ray("here:1").map(fails, range(2), ONE))
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_ray_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TutelageError, match=r'pip install "tutelage\[ray\]"'):
        next(Ray().map(fails, range(2), ONE))


def test_neither_the_base_install_nor_the_training_brings_ray() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for needed in (project["dependencies"], extras["train"], extras["demo"]):
        assert not [one for one in needed if re.match(r"ray\b|tutelage\[ray\]", one)]
    assert [one for one in extras["ray"] if one.startswith("ray")]
