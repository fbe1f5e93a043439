"""A finished run of the test's own, to be reviewed."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def reviewed(finished: Path, tmp_path: Path) -> Path:
    """A copy of the session's run: reviews write into it."""
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.json", "review.parquet", "review.json"):
        shutil.copy(finished / name, copy / name)
    return copy


def request_of(run: Path) -> dict[str, object]:
    """What the run was asked for."""
    content: dict[str, object] = json.loads((run / "config.json").read_text())["request"]
    return content
