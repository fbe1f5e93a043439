"""A finished run of the test's own and a choice of suggest, to be reviewed, and their pages."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from reviewing import opened, write_choice
from starlette.testclient import TestClient

from tutelage.data.decisions import FILE, Decisions
from tutelage.review.items import open_run, open_suggested


@pytest.fixture
def reviewed(finished: Path, tmp_path: Path) -> Path:
    """A copy of the session's run: reviews write into it."""
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("config.json", "review.parquet", "review.json"):
        shutil.copy(finished / name, copy / name)
    return copy


@pytest.fixture
def suggested(photos: Path, tmp_path: Path) -> Path:
    """What ``tutelage suggest`` leaves that chose three images of a folder without labels."""
    chosen = {"03.jpg": "the first", "01.jpg": "the second", "08.png": "last"}
    return write_choice(tmp_path / "suggested", photos / "unlabeled", chosen)


@pytest.fixture
def page(reviewed: Path) -> Iterator[TestClient]:
    """The page of the run, in a browser that opened the printed address."""
    with Decisions(reviewed / FILE) as decisions:
        yield opened(open_run(reviewed), decisions)


@pytest.fixture
def labelling(suggested: Path) -> Iterator[TestClient]:
    """The page of the choice."""
    with Decisions(suggested / FILE) as decisions:
        yield opened(open_suggested(suggested), decisions)
