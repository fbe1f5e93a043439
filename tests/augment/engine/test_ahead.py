"""The kernel is compiled beside the decoding, by a process that is waited for."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba")

from tutelage.augment import Strong, apply
from tutelage.augment.engine import ahead, kernel
from tutelage.augment.engine.precompile import compile_kernel

CANVASES = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)


def view(size: int = 8) -> torch.Tensor:
    plan = Strong().plan(torch.ones(2), torch.Generator().manual_seed(0))
    return apply(CANVASES, plan, size, backend="cpu")


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A process in the compiler's place, which takes a while to write this file."""
    done = tmp_path / "done"
    code = f"import time; time.sleep(1); open({str(done)!r}, 'w').close()"
    monkeypatch.setattr(ahead, "_started", [])
    monkeypatch.setattr(ahead, "_COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(ahead, "is_compiled", lambda: False)
    yield done
    ahead._end()


def test_training_needs_no_other_code_than_what_is_compiled_ahead() -> None:
    compile_kernel()
    compiled = len(kernel.render.signatures)
    view(16)
    assert len(kernel.render.signatures) == compiled


def test_what_is_compiled_is_known() -> None:
    compile_kernel()
    assert ahead.is_compiled()


def test_a_view_waits_for_the_compiler(other: Path) -> None:
    ahead.begin()
    assert not other.exists()  # begin returned at once
    view()
    assert other.exists()


def test_one_compiler_is_enough(other: Path) -> None:
    ahead.begin()
    ahead.begin()
    assert len(ahead._started) == 1


def test_what_is_compiled_is_not_compiled_again(
    other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "is_compiled", lambda: True)
    ahead.begin()
    assert not ahead._started


def test_a_compiler_that_fails_or_hangs_is_done_without(
    other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "PATIENCE_S", 0.1)
    monkeypatch.setattr(ahead, "_COMMAND", (sys.executable, "-c", "import time; time.sleep(600)"))
    ahead.begin()
    (process,) = ahead._started
    assert view().shape == (2, 3, 8, 8)
    assert process.poll() is not None


def test_the_module_compiles_when_it_is_run() -> None:
    done = subprocess.run(ahead._COMMAND, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
