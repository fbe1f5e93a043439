"""A Ray cluster of several nodes on this machine, each node some processes."""

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).parent


@contextmanager
def running(nodes: int, cores: int = 1) -> Iterator[Any]:
    """A ``ray.cluster_utils.Cluster`` to which this process is connected."""
    import ray

    before = signal.getsignal(signal.SIGTERM)  # Ray puts its own in its place, more than once
    with _started(nodes, cores) as cluster:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(cluster.address, logging_level="error", log_to_driver=False)
            signal.signal(signal.SIGTERM, before)
            yield cluster
        finally:
            ray.shutdown()


@contextmanager
def _started(nodes: int, cores: int) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for _ in range(nodes):
            add_node(cluster, cores)
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Any, cores: int = 1) -> None:
    """Add a node, whose processes find what the tests pickle by name; the first is the head.

    Ray waits for 30 s, which is too short where other work keeps all cores busy.
    """
    paths = [str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        for _ in range(2):
            with suppress(Exception):  # Ray raises no subclass
                cluster.add_node(num_cpus=cores)
                return
        cluster.add_node(num_cpus=cores)
