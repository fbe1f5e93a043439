"""Figures go where they were asked to, and a broken tracker never stops a run."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.system.errors import MissingExtra, TutelageError
from tutelage.system.tracking import Tracker, Tracking, open_trackers

SETTINGS = json.dumps({"seed": 3}, indent=2)


def keeping(
    told: list[Any], scalars: Callable[[Mapping[str, float], int], None] | None = None
) -> Tracker:
    def keep(*facts: Any) -> None:
        told.append(facts)

    return Tracker("Kept", scalars or keep, keep, lambda: told.append("closed"))


def tell(tracking: Tracking) -> None:
    tracking.event("settings", {"settings": {"seed": 3}})
    tracking.event("message", {"text": "hello"})
    metrics = {"loss": 0.5, "grad_norm": 2.0}
    tracking.event("progress", {"label": "fold 1, student", "done": 20, "metrics": metrics})
    figures = {"name": "student", "accepted": True, "test": {"accuracy": 0.9}, "val": None}
    tracking.event("result", {"stage": "student", "figures": figures})
    tracking.close()


def test_events_become_figures_and_a_tracker_that_fails_is_left_out_and_said_once() -> None:
    def broken(values: Mapping[str, float], step: int) -> None:
        raise ConnectionError("no route to host")

    kept: list[Any] = []
    lost: list[Any] = []
    said: list[str] = []
    tell(Tracking([keeping(lost, broken), keeping(kept)], said.append))
    assert kept == [
        ("settings", SETTINGS),
        ({"fold 1, student/loss": 0.5, "fold 1, student/grad_norm": 2.0}, 20),
        ({"student/test/accuracy": 0.9}, 0),
        "closed",
    ]
    assert said == ["Kept failed and gets no more figures: no route to host"]
    assert lost == [("settings", SETTINGS)]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb", "excel"])
def test_what_cannot_be_opened_is_refused_with_the_mend(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_trackers(None, tmp_path) == []
    if name == "excel":
        with pytest.raises(TutelageError, match="--track excel: expected tensorboard, mlflow, wan"):
            open_trackers(name, tmp_path)
        return
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"pip install \"tutelage\[{name}\]\""):
        open_trackers(name, tmp_path)
    if name == "wandb":
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: 1 / 0))
        with pytest.raises(TutelageError, match="--track wandb cannot be opened: division by zero"):
            open_trackers("wandb", tmp_path)


def test_tensorboard_reads_its_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tell(Tracking(open_trackers("tensorboard", tmp_path), pytest.fail))
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in found.Scalars("fold 1, student/loss")] == [(20, 0.5)]
    (accuracy,) = found.Scalars("student/test/accuracy")
    assert accuracy.value == pytest.approx(0.9)


def test_mlflow_gets_metrics_of_names_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    class Client:
        get_experiment_by_name = staticmethod(told.append)
        create_experiment = staticmethod(lambda name: "7")
        set_terminated = staticmethod(lambda run: told.append(("ended", run)))
        log_text = staticmethod(lambda *text: told.append(text))

        def create_run(self, experiment: str, run_name: str) -> Any:
            told.append((experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r"))

        def log_batch(self, run: str, metrics: list[Any]) -> None:
            told.extend((run, name, value, step) for name, value, _, step in metrics)

    entities = SimpleNamespace(Metric=lambda *parts: parts)
    fake = SimpleNamespace(entities=entities, MlflowClient=Client)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    tell(Tracking(open_trackers("mlflow", tmp_path / "first"), pytest.fail))
    assert told == [
        "tutelage",
        ("7", "first"),
        ("r", SETTINGS, "settings.txt"),
        ("r", "fold 1_ student/loss", 0.5, 20),
        ("r", "fold 1_ student/grad_norm", 2.0, 20),
        ("r", "student/test/accuracy", 0.9, 0),
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
    tell(Tracking(open_trackers("wandb", tmp_path / "first"), pytest.fail))
    label = "fold 1, student"
    assert told == [
        {"settings": SETTINGS},
        {f"{label}/loss": 0.5, f"{label}/grad_norm": 2.0, f"{label}/step": 20},
        {"student/test/accuracy": 0.9, "student/test/step": 0},
        "ended",
    ]
