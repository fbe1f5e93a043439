"""A finished run of the test's own, to be reviewed, and how a page decides about it."""

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


@pytest.fixture
def suggested(photos: Path, tmp_path: Path) -> Path:
    """What ``tutelage suggest`` leaves that chose three images of a folder without labels."""
    folder = tmp_path / "suggested"
    folder.mkdir()
    data = str(photos / "unlabeled")
    request = {
        "command": "suggest",
        "data": data,
        "settings": {"data": {"decisions": None}, "table": {}},
    }
    (folder / "config.json").write_text(json.dumps({"request": request}))
    images = zip(("03.jpg", "01.jpg", "08.png"), ("the first", "the second", "last"), strict=True)
    rows = [{"image": name, "why": why} for name, why in images]
    content = {"classes": ["ant", "bee"], "suggested": rows}
    (folder / "suggest.json").write_text(json.dumps(content))
    return folder
