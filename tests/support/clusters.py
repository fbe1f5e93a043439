"""A Ray cluster of several nodes on this machine, each node some processes."""

import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent


@contextmanager
def running(nodes: int, cores: int = 1) -> Iterator[Any]:
    """A ``ray.cluster_utils.Cluster`` to which this process is connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)
    paths = os.environ.get("PYTHONPATH", "")
    # Its processes find what the tests pickle by name.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), *([paths] if paths else [])])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=cores)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(cluster.address, logging_level="error", log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ["PYTHONPATH"] = paths
        signal.signal(signal.SIGTERM, before)
