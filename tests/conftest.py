"""What every test shares: its place in the order, one thread, a finished run, ``tests/support``."""

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tutelage.chain import pipeline, types

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / "tests" / "support"
# The tests are imported with importmode=importlib, which leaves sys.path alone.
sys.path.insert(0, str(SUPPORT))
pytest.register_assert_rewrite("silent_checks")
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # a user's; huggingface_hub reads them once
    os.environ.pop(name, None)
# Equal numbers on every machine, and no fight for the cores: NumPy, torch and their child processes
# compute in one thread.
os.environ["OMP_NUM_THREADS"] = "1"


KEPT = 4  # finished runs, of so many states of the source


# Files whose tests take 5 s of a core and more: begun last, one of them would keep a process busy
# while the others are done. The second and third need neither what the first makes for all, nor the
# kernel that it compiles.
LONGEST = ("chain/test_run", "report/test_browser", "chain/test_student", "review/test_browser",
           "explore/test_browser", "test_shown_commands", "test_docs", "test_faults", "test_api",
           "deploy/test_webpage", "test_estimator", "ladder/test_command", "test_names",
           "ladder/test_arms", "deploy/test_label_files")  # fmt: skip

# Files that .ci/weekly runs, and parts of the names of their quick cases, which always run: what
# proves the checks, all architectures, the interpreted GPU kernel, other runtimes, the Ray cluster.
WEEKLY = {
    "augment/engine/test_cuda.py": ("test_every_", "test_images_", "[tiny]"),
    "ladder/test_cluster.py": ("_draw_takes_", "_locks_"),
    "models/test_families.py": ("test_the_families", "[ResNet]", "[EfficientNet-lite]"),
    "system/test_engines.py": ("[local", "[threads", "once_a_process[ray]", "_thread", "at_once",
                               "_closes_", "_by_its_name", "_ray"),
    "test_faults.py": ("_to_a_full_disk", "test_the_library"),
    "test_peers.py": ("test_distillation_is", "test_our_steps_are_those_of_usbs_own_loop[fix"),
    "test_ports.py": ("[python_port]",),
}  # fmt: skip

# In files that are quick otherwise, parts of the names of the cases beyond the first of their kind.
FURTHER = {
    "augment/engine/test_ahead.py": ("compiles_when_it_is_run",),
    "chain/test_run.py": ("[a trained", "[40:2:2]", "[12 images]", "[greyscale"),
    "chain/test_student.py": ("quarter[resnet50]", "lite0[swin", "lite0[coat"),
    "deploy/test_bench.py": ("test_larger_images", "test_memory_is_not_hidden"),
    "models/test_sizes.py": ("loaded_as_it_was[swin",),
    "models/test_zoo.py": ("features[swin", "features[hiera", "stages[ghostnet"),
    "report/test_browser.py": ("axe_finds_nothing[1200]",),
    "review/test_browser.py": ("shut_out[1200]",),
    "system/test_ranks.py": ("as_one_process_does[4]",),
    "test_docs.py": ("axe_finds_nothing[deployment", "axe_finds_nothing[scale"),
    "test_shown_commands.py": ("[deployment", "[gallery", "[labels", "[ladder", "[augmentation"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is weekly; the longest files first, the others in their order."""
    tests = Path(__file__).parent
    for item in items:
        file = item.path.relative_to(tests).as_posix()
        is_further = any(part in item.name for part in FURTHER.get(file, ()))
        if is_further or not any(part in item.name for part in WEEKLY.get(file, ("",))):
            item.add_marker(pytest.mark.weekly)
    order = {tests / f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Torch computes in one thread again, where a test or a command let it take more."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "types.Run":
    """A run on two coloured classes, ready for its first stage; its trunk stays frozen."""
    import silent_checks

    return silent_checks.prepared(tmp_path, monkeypatch, trunk="frozen")


@pytest.fixture
def chain(run: "types.Run") -> "pipeline.Pipeline":
    """Its chain, before the first stage."""
    from tutelage.chain import pipeline

    return pipeline.Pipeline(run)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with a core each; to start one takes 3 to 25 s."""
    pytest.importorskip("ray")
    import clusters

    with clusters.running(nodes=2) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the session's own in place of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for the tests of a file; a page that they open is theirs to close."""
    from browser import browser

    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def s3_server() -> Iterator[Any]:
    """An S3 server for the tests of a file, which takes long to start."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    from s3 import serving

    with serving() as door:
        yield door


@pytest.fixture
def door(s3_server: Any) -> Iterator[Any]:
    """The door to it, which a test may tell to fail."""
    yield s3_server
    s3_server.fault = None


@contextlib.contextmanager
def made_once(config: pytest.Config, factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that belongs to this source and these libraries, for one process at a time.

    The processes of a session share it, and so do later sessions where pytest keeps a cache.
    """
    from tutelage.system.files import locked

    known = hashlib.sha256()
    for path in sorted([*(ROOT / "src").rglob("*.py"), *SUPPORT.glob("*.py")]):
        known.update(path.read_bytes())
    for path in sorted(Path(pytest.__file__).parents[1].glob("*.dist-info")):
        known.update(path.name.encode())
    temporary = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker's own, within that of the session
        temporary = temporary.parent
    kept = hasattr(config, "cache")
    places = Path(config.cache.mkdir("finished")) if kept else temporary / "finished"
    folder = places / known.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(places.iterdir(), key=os.path.getmtime)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    with (folder / "lock").open("w") as lock:
        while locked(lock) is False:
            time.sleep(0.05)
        yield folder


@pytest.fixture(scope="session")
def photos(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images of three coloured shapes; tests only read them."""
    from shapes import write_shapes

    with made_once(pytestconfig, tmp_path_factory) as folder:
        if not (folder / "photos").exists():
            write_shapes(folder / "begun").rename(folder / "photos")
    return folder / "photos"


@pytest.fixture(scope="session")
def finished(
    photos: Path,
    own_cache: Path,
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of an undisturbed run on them; tests only read it."""
    from shapes import FINISHED, short_student

    from tutelage import api

    with made_once(pytestconfig, tmp_path_factory) as folder:
        if not (folder / "whole").exists():
            with pytest.MonkeyPatch.context() as patch, short_student():
                patch.setenv("TUTELAGE_CACHE", str(folder / "cache"))
                api.run(photos, folder / "run", quiet=True, **FINISHED)
            (folder / "whole").touch()
        shutil.copytree(folder / "cache", own_cache, dirs_exist_ok=True)
        return shutil.copytree(folder / "run", tmp_path_factory.mktemp("finished") / "run")
