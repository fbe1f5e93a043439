"""Figures go where they were asked to, and a broken tracker never stops a run."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.system.errors import MissingExtra, TutelageError
from tutelage.system.tracking import MLflow, Tracking, WandB, open_trackers


class Kept:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.told.append((dict(values), step))

    def text(self, name: str, value: str) -> None:
        self.told.append((name, value))

    def close(self) -> None:
        self.told.append("closed")


def tell(tracking: Tracking) -> None:
    tracking.event("settings", {"settings": {"seed": 3}})
    tracking.event("message", {"text": "hello"})
    tracking.event("progress", {"label": "student", "done": 20, "metrics": {"loss": 0.5}})
    figures = {"name": "student", "accepted": True, "test": {"accuracy": 0.9}, "val": None}
    tracking.event("result", {"stage": "student", "figures": figures})
    tracking.close()


def test_events_become_figures() -> None:
    kept = Kept()
    tell(Tracking([kept], pytest.fail))
    assert kept.told == [
        ("settings", json.dumps({"seed": 3}, indent=2)),
        ({"student/loss": 0.5}, 20),
        ({"student/test/accuracy": 0.9}, 0),
        "closed",
    ]


def test_one_that_fails_is_left_out_and_said_once() -> None:
    class Broken(Kept):
        def scalars(self, values: Mapping[str, float], step: int) -> None:
            raise ConnectionError("no route to host")

    kept, broken, said = Kept(), Broken(), []
    tell(Tracking([broken, kept], said.append))
    assert said == ["Broken failed and gets no more figures: no route to host"]
    assert len(kept.told) == 4
    assert broken.told == [("settings", json.dumps({"seed": 3}, indent=2))]


def test_names_that_are_none(tmp_path: Path) -> None:
    assert open_trackers(None, tmp_path) == []
    with pytest.raises(TutelageError, match="--track excel: expected tensorboard, mlflow, wandb"):
        open_trackers("excel", tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_names_its_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"pip install \"tutelage\[{name}\]\""):
        open_trackers(name, tmp_path)


def test_one_that_cannot_be_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**settings: Any) -> None:
        raise RuntimeError("not logged in")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    with pytest.raises(TutelageError, match="--track wandb cannot be opened: not logged in"):
        open_trackers("wandb", tmp_path)


def test_tensorboard_reads_its_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(Tracking(open_trackers("tensorboard", tmp_path), pytest.fail))
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in found.Scalars("student/loss")] == [(20, 0.5)]
    (accuracy,) = found.Scalars("student/test/accuracy")
    assert accuracy.value == pytest.approx(0.9)


def test_mlflow_gets_metrics_of_names_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            told.append(name)

        def create_experiment(self, name: str) -> str:
            return "7"

        def create_run(self, experiment: str, run_name: str) -> Any:
            told.append((experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r"))

        def log_batch(self, run: str, metrics: list[Any]) -> None:
            told.extend((run, name, value, step) for name, value, _, step in metrics)

        def log_text(self, run: str, value: str, path: str) -> None:
            told.append((run, value, path))

        def set_terminated(self, run: str) -> None:
            told.append(("ended", run))

    def metric(*parts: Any) -> Any:
        return parts

    entities = SimpleNamespace(Metric=metric)
    fake = SimpleNamespace(entities=entities, MlflowClient=Client)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    tracker = MLflow(tmp_path / "first")
    tracker.scalars({"fold 1, student/loss": 0.5}, 20)
    tracker.text("settings", "{}")
    tracker.close()
    assert told == [
        "tutelage",
        ("7", "first"),
        ("r", "fold 1_ student/loss", 0.5, 20),
        ("r", "{}", "settings.txt"),
        ("ended", "r"),
    ]


def test_wandb_gets_steps_beside_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    run = SimpleNamespace(
        log=told.append,
        config=SimpleNamespace(update=told.append),
        finish=lambda: told.append("ended"),
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **settings: run))
    tracker = WandB(tmp_path / "first")
    tracker.scalars({"student/loss": 0.5, "student/grad_norm": 2.0}, 20)
    tracker.text("settings", "{}")
    tracker.close()
    assert told == [
        {"student/loss": 0.5, "student/grad_norm": 2.0, "student/step": 20},
        {"settings": "{}"},
        "ended",
    ]
