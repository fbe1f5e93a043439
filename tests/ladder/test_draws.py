"""One draw of labels: its test images are looked at last."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks as checks
import tiny
from locked import is_locked

from tutelage import api
from tutelage.chain import pipeline, types
from tutelage.config import RunConfig, make_config
from tutelage.data.open import read_catalog
from tutelage.ladder import draws as drawing
from tutelage.ladder import draws as ladder
from tutelage.ladder.draws import Ladder
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.training.loader import Canvases

pytestmark = pytest.mark.usefixtures("quick")


def test_test_images_are_looked_at_after_the_last_stage_and_once_by_each(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []
    take, save = Canvases.take, pipeline.save_stage

    def watched(self: Canvases, rows: Any) -> Any:
        log.append([int(row) for row in rows])
        return take(self, rows)

    def noted(folder: Path, done: types.Finished) -> None:
        log.append(done.name)
        save(folder, done)

    monkeypatch.setattr(Canvases, "take", watched)
    monkeypatch.setattr(pipeline, "save_stage", noted)
    catalog, out = read_catalog(data), tmp_path / "run"
    config = make_config("ladder", checks.LADDER)
    asked = ladder.Ladder(catalog, str(data), out.parent, config, checks.CHAIN, [], 2)
    ladder.run_seed(asked, out, config, checks.CHAIN, Console(quiet=True))
    test = set(np.flatnonzero(catalog.splits == "test").tolist())
    last = max(place for place, entry in enumerate(log) if isinstance(entry, str))
    assert log[last] == "student"
    assert not any(test & set(entry) for entry in log[:last] if not isinstance(entry, str))
    looks = [entry for entry in log[last + 1 :] if test & set(entry)]
    # One for all heads on the untouched trunk, one each for fine-tune and the two students.
    assert len(looks) == 4
    assert all(set(look) == test for look in looks)


def test_a_draw_without_readable_test_images_lets_other_processes_in(
    data: Path, tmp_path: Path
) -> None:
    copy, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(data, copy)
    for path in (copy / "test").glob("*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(TutelageError, match="labelled test images that can be read"):
        api.ladder(copy, out, quiet=True, **checks.LADDER)
    assert not is_locked(out)
    assert not is_locked(out / "seed-0")


# --- known silent bugs


def test_ladder_draws_are_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[int, str]] = []

    def noted(_: Any, out: Path, config: RunConfig, *__: Any, **___: Any) -> Any:
        seeds.append((config.data.seed, out.name))
        return {}

    monkeypatch.setattr(drawing, "run_seed", noted)
    config = make_config("ladder", {"seed": 5})
    catalog = read_catalog(tiny.write_data(tmp_path / "d"))
    ladder = Ladder(catalog, "d", tmp_path / "out", config, ["probe"], [], 3)
    for draw in ladder.draws:
        drawing.train_draw(ladder, draw, Console(quiet=True))
    assert seeds == [(5, "seed-5"), (6, "seed-6"), (7, "seed-7")]
