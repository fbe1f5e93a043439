"""A tiny data set to climb on, and trainings of four steps."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def quick(own_cache: Path) -> Iterator[None]:
    """A known machine, and trainings of four steps."""
    import silent_checks

    with silent_checks.quick():
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set; tests only read it."""
    import tiny

    return tiny.write_data(tmp_path_factory.mktemp("ladder") / "data")
