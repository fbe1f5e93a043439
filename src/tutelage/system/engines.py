"""Where pieces of work are done: in this process, or on a Ray cluster.

A piece of work leaves its result in a file, which is its checkpoint: a command that is repeated
leaves out what is there. So an engine need not remember anything.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from tutelage._version import __version__
from tutelage.system.errors import TutelageError, need

Item = TypeVar("Item")
Result = TypeVar("Result")

Opening = Callable[[], AbstractContextManager[Callable[[Item], Result]]]
"""Opens what every piece of work needs, a model say, and gives the function that does one."""

ENGINES = ("local", "ray")
RETRIES = 5  # of a piece of work whose process or node is lost
WAITING = 1000  # pieces of work that a cluster knows of at once; its autoscaler counts them


@dataclass(frozen=True)
class Resources:
    """What one piece of work takes of a cluster, or what a node of it has."""

    cores: float = 1
    gpus: float = 0


def with_gpu(nodes: Sequence[Resources], gpus: float) -> Resources | None:
    """So much of a GPU, and as much of a node's cores; None if no node has that much.

    Of several nodes, that with the fewest cores a GPU decides for all.
    """
    able = [node.cores * gpus / node.gpus for node in nodes if node.gpus >= gpus]
    return Resources(int(max(1, min(able))), gpus) if able else None


@dataclass(frozen=True)
class Lost:
    """In the place of a result: every process that began this piece of work died."""

    reason: str


@dataclass(frozen=True)
class Local:
    """This process, with so many pieces of work at once, each in a thread; one needs no thread."""

    at_once: int = 1

    def map(
        self, opening: Opening[Item, Result], items: Sequence[Item], resources: Resources
    ) -> Generator[tuple[Item, Result | Lost], None, None]:
        """Do each piece of work, and give it with its result as soon as that is there.

        To close the generator ends the work; what is not begun is left out. What the work raises is
        raised here, and the rest is not begun.
        """
        with ExitStack() as stack:
            if self.at_once == 1:
                work = stack.enter_context(opening())
                yield from ((item, work(item)) for item in items)
                return
            threads = stack.enter_context(ThreadPoolExecutor(self.at_once))
            work = stack.enter_context(opening())  # closed first, so that the threads may end
            for item, future in _as_done(
                lambda one: threads.submit(work, one), items, self.at_once
            ):
                yield item, future.result()


def _as_done(
    submit: Callable[[Item], Future[Result]], items: Sequence[Item], at_once: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item when it is done; at most ``at_once`` are submitted and not done."""
    running: dict[Future[Result], Item] = {}
    left = iter(items)
    while True:
        for item in itertools.islice(left, at_once - len(running)):
            running[submit(item)] = item
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield running.pop(future), future


@dataclass(frozen=True)
class Ray:
    """A Ray cluster: that at ``address``, or one of this machine alone.

    A piece of work is a Ray task, so Ray decides where it runs, asks for more nodes where it can
    get them, and begins it again elsewhere when its process or node is lost. A process does one
    task after the other, and opens what they need for the first.
    """

    address: str | None = None  # as ``ray.init`` takes it; $RAY_ADDRESS counts as well

    def map(
        self, opening: Opening[Item, Result], items: Sequence[Item], resources: Resources
    ) -> Generator[tuple[Item, Result | Lost], None, None]:
        """Do each piece of work, as ``Local.map`` does, with so much of the cluster for each."""
        ray = need("ray", "ray")
        with self.connected():
            task = ray.remote(_do).options(
                num_cpus=resources.cores,
                num_gpus=resources.gpus,
                max_retries=RETRIES,
                scheduling_strategy="SPREAD",
            )
            shared = [ray.put(opening)]  # in a list, or Ray would unpack it for each task anew
            running: dict[Future[Result], Any] = {}

            def submit(item: Item) -> Future[Result]:
                reference = task.remote(shared, __version__, item)
                future: Future[Result] = reference.future()
                running[future] = reference
                return future

            try:
                for item, future in _as_done(submit, items, WAITING):
                    del running[future]
                    yield item, _result(ray, future)
            finally:
                for reference in running.values():
                    ray.cancel(reference)

    @contextmanager
    def connected(self) -> Iterator[list[Resources]]:
        """Stay connected to the cluster meanwhile, and know what each of its nodes has."""
        ray = need("ray", "ray")
        if ray.is_initialized():  # by the caller, whose cluster it stays
            yield _nodes(ray)
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to Ray's makers
        try:
            with _own_sigterm():
                ray.init(
                    self.address,
                    include_dashboard=False,
                    logging_level="error",
                    log_to_driver=False,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = self.address or os.environ.get("RAY_ADDRESS", "this machine")
            raise TutelageError(
                f"no Ray cluster answers at {where} ({error}); start one with: ray start --head, "
                "and the same versions of Python and Ray on every machine"
            ) from error
        try:
            yield _nodes(ray)
        finally:
            ray.shutdown()  # what this command began on the cluster ends with it


Engine: TypeAlias = Local | Ray


def _nodes(ray: Any) -> list[Resources]:
    """What each node has that works; a head often has no cores, and only knows of the others."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [Resources(node.get("CPU", 0), node.get("GPU", 0)) for node in found]
    return [node for node in nodes if node.cores]


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, in whose place Ray puts one that exits at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, ours)


def _result(ray: Any, future: Future[Any]) -> Any:
    """The result of a task; Lost if its processes died; what the work raised is raised."""
    try:
        return future.result()
    except ray.exceptions.RayTaskError as error:
        if "failed to import on the worker" in str(error.cause):  # Ray has no class for it
            missing = str(error.cause).strip().rpartition("\n")[2]
            raise TutelageError(
                f"a node of the cluster cannot do this work ({missing}); install tutelage "
                f"{__version__} with the same extras on all nodes"
            ) from error
        raise error.cause from error
    except ray.exceptions.RayError as error:  # its process was killed, or its node went away
        return Lost(str(error).strip().partition("\n")[0])


def asked_cluster(engine: str, address: str | None) -> Ray | None:
    """The cluster that ``--engine`` and ``--address`` ask for; None is this process."""
    if engine not in ENGINES:
        raise TutelageError(f"no engine called {engine!r}; --engine takes {' or '.join(ENGINES)}")
    if engine == "local":
        if address is not None:
            raise TutelageError("--address is that of a Ray cluster; add --engine ray")
        return None
    need("ray", "ray")
    return Ray(address)


_opened = ExitStack()  # what this process of a cluster has opened
_work: tuple[Any, Any] = None, None  # the reference to its ``Opening``, and what that gave


def _do(shared: Sequence[Any], version: str, item: Any) -> Any:
    """One piece of work in a process of a cluster."""
    global _work
    if version != __version__:
        raise TutelageError(
            f"a node of the cluster has tutelage {__version__}, and this command is {version}; "
            "install the same everywhere"
        )
    if shared[0] != _work[0]:
        _opened.close()
        opening = need("ray", "ray").get(shared[0])
        _work = shared[0], _opened.enter_context(opening())
    return _work[1](item)
