"""Figures of a run for TensorBoard, MLflow or Weights & Biases, beside ``events.jsonl``.

Each is an extra, imported when it is asked for. Their own settings say where they write
(``MLFLOW_TRACKING_URI``, ``WANDB_MODE`` and so on); TensorBoard's files are in the run folder.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tutelage.system.errors import TutelageError, need

PROJECT = "tutelage"  # the experiment of MLflow, the project of Weights & Biases


class Tracker(Protocol):
    """Where figures go."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Take figures of one step; the steps of each name rise."""

    def text(self, name: str, value: str) -> None:
        """Take a text, such as the settings as JSON."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files in the run folder: ``tensorboard --logdir RUN/tensorboard``."""

    def __init__(self, folder: Path) -> None:
        need("tensorboard", "tensorboard")
        writer = need("torch.utils.tensorboard", "train").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One curve a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, name: str, value: str) -> None:
        """A text of its own."""
        self._writer.add_text(name, value)

    def close(self) -> None:
        """Write the files."""
        self._writer.close()


class MLflow:
    """A run of the experiment "tutelage"."""

    def __init__(self, folder: Path) -> None:
        mlflow = need("mlflow", "mlflow")
        self._metric = mlflow.entities.Metric
        self._client = mlflow.MlflowClient()
        known = self._client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else self._client.create_experiment(PROJECT)
        self._run = self._client.create_run(experiment, run_name=folder.name).info.run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Metrics; MLflow allows fewer characters in a name."""
        now = int(1000 * time.time())
        named = {re.sub(r"[^\w./ -]", "_", name): value for name, value in values.items()}
        metrics = [self._metric(name, value, now, step) for name, value in named.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def text(self, name: str, value: str) -> None:
        """A file of the run."""
        self._client.log_text(self._run, value, f"{name}.txt")

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._run)


class WandB:
    """A run of the project "tutelage"; ``WANDB_MODE=offline`` keeps it on this machine."""

    def __init__(self, folder: Path) -> None:
        wandb = need("wandb", "wandb")
        self._run = wandb.init(project=PROJECT, name=folder.name, dir=str(folder))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Figures with their step beside them, since W&B's own steps may never go back."""
        groups = {name.rpartition("/")[0] for name in values}
        self._run.log({**values, **{f"{group}/step".lstrip("/"): step for group in groups}})

    def text(self, name: str, value: str) -> None:
        """Part of the run's configuration."""
        self._run.config.update({name: value})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}


class Tracking:
    """All trackers of a run. One that fails is left out with a complaint, and the run goes on."""

    def __init__(self, trackers: Sequence[Tracker], complain: Callable[[str], None]) -> None:
        self._trackers = list(trackers)
        self._complain = complain

    def event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Pass on the figures of an event of the run."""
        if kind == "progress":
            label = facts["label"]
            values = {f"{label}/{name}": value for name, value in facts["metrics"].items()}
            self._each(lambda tracker: tracker.scalars(values, facts["done"]))
        elif kind == "settings":
            text = json.dumps(facts["settings"], indent=2)
            self._each(lambda tracker: tracker.text("settings", text))
        elif kind == "result":
            values = {f"{facts['stage']}/{name}": v for name, v in _numbers(facts["figures"])}
            self._each(lambda tracker: tracker.scalars(values, 0))

    def close(self) -> None:
        """Close all."""
        self._each(lambda tracker: tracker.close())
        self._trackers = []

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                work(tracker)
            except Exception as error:  # of any kind: network, disk, quota
                self._trackers.remove(tracker)
                self._complain(f"{type(tracker).__name__} failed and gets no more figures: {error}")


def open_trackers(names: str | None, folder: Path) -> list[Tracker]:
    """The trackers of a comma-separated list."""
    wanted = [name.strip() for name in names.split(",")] if names else []
    if unknown := [name for name in wanted if name not in TRACKERS]:
        raise TutelageError(
            f"--track {unknown[0]}: expected {', '.join(TRACKERS)}, or several of them"
        )
    opened = []
    for name in wanted:
        try:
            opened.append(TRACKERS[name](folder))
        except TutelageError:
            raise
        except Exception as error:  # each package has exceptions of its own
            raise TutelageError(
                f"--track {name} cannot be opened: {error}; fix that, or leave it out"
            ) from error
    return opened


def _numbers(figures: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The numbers among nested figures, as (path, number) pairs."""
    found: list[tuple[str, float]] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found += [(f"{name}/{inner}", number) for inner, number in _numbers(value)]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((name, float(value)))
    return found
