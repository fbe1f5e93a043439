"""What every test shares: one thread, and the helper modules of ``tests/support``."""

import contextlib
import sys
from pathlib import Path

import pytest

# The tests are imported with importmode=importlib, which leaves sys.path alone.
sys.path.insert(0, str(Path(__file__).parent / "support"))
pytest.register_assert_rewrite("silent_checks")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Equal numbers on every machine, and no fight for the cores."""
    with contextlib.suppress(ModuleNotFoundError):  # the base install has none
        import torch

        torch.set_num_threads(1)
