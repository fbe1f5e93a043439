"""What cannot be suggested is refused before torch is imported or an image is decoded."""

from pathlib import Path
from typing import Any

import pytest

from tutelage import api
from tutelage.system.errors import TutelageError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "every training image of .* has a label already; its classes are disc, square, tri"),
        ({"budget": 0}, "--budget is 0, expected at least 1 image to label"),
        ({"decisions": "chosn"}, "no decisions in chosn"),
    ],
)
def test_refused_before_anything_heavy(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr(api, "need_training", lambda: pytest.fail("torch would be imported"))
    data = photos if "decisions" in options else photos / "train"
    with pytest.raises(TutelageError, match=said):
        api.suggest(data, tmp_path / "s", **{"budget": 4, **options})


def test_classes_that_clash_with_those_of_the_data_are_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "need_training", lambda: pytest.fail("torch would be imported"))
    with pytest.raises(TutelageError, match="--classes: the classes 'Disc' and 'disc'"):
        api.suggest(photos, tmp_path / "s", budget=4, classes=["Disc"])
