"""Figures of a run for TensorBoard, MLflow or Weights & Biases, beside ``events.jsonl``.

Each is an extra, imported when it is asked for. Their own settings say where they write
(``MLFLOW_TRACKING_URI``, ``WANDB_MODE`` and so on); TensorBoard's files are in the run folder.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.system.errors import TutelageError, need

PROJECT = "tutelage"  # the experiment of MLflow, the project of Weights & Biases


@dataclass(frozen=True)
class Tracker:
    """Where figures go."""

    name: str
    scalars: Callable[[Mapping[str, float], int], object]  # of one step; the steps of a name rise
    text: Callable[[str, str], object]  # a name and its text, such as the settings as JSON
    close: Callable[[], object]


def tensorboard(folder: Path) -> Tracker:
    """Event files in the run folder: ``tensorboard --logdir RUN/tensorboard``."""
    need("tensorboard", "tensorboard")
    writer = need("torch.utils.tensorboard", "train").SummaryWriter(str(folder / "tensorboard"))

    def scalars(values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Tracker("TensorBoard", scalars, writer.add_text, writer.close)


def mlflow(folder: Path) -> Tracker:
    """A run of the experiment "tutelage"; its texts are files of the run."""
    package = need("mlflow", "mlflow")
    client = package.MlflowClient()
    known = client.get_experiment_by_name(PROJECT)
    experiment = known.experiment_id if known else client.create_experiment(PROJECT)
    run = client.create_run(experiment, run_name=folder.name).info.run_id

    def scalars(values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        allowed = {re.sub(r"[^\w./ -]", "_", name): value for name, value in values.items()}
        metrics = [package.entities.Metric(name, v, now, step) for name, v in allowed.items()]
        client.log_batch(run, metrics=metrics)

    def text(name: str, value: str) -> None:
        client.log_text(run, value, f"{name}.txt")

    return Tracker("MLflow", scalars, text, lambda: client.set_terminated(run))


def wandb(folder: Path) -> Tracker:
    """A run of the project "tutelage"; ``WANDB_MODE=offline`` keeps it on this machine."""
    run = need("wandb", "wandb").init(project=PROJECT, name=folder.name, dir=str(folder))

    def scalars(values: Mapping[str, float], step: int) -> None:
        """Log the step as a figure, too, since W&B's own steps may never go back."""
        groups = {name.rpartition("/")[0] for name in values}
        run.log({**values, **{f"{group}/step".lstrip("/"): step for group in groups}})

    return Tracker("WandB", scalars, lambda name, text: run.config.update({name: text}), run.finish)


TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "tensorboard": tensorboard,
    "mlflow": mlflow,
    "wandb": wandb,
}


class Tracking:
    """All trackers of a run. One that fails is left out with a complaint, and the run goes on."""

    def __init__(self, trackers: Sequence[Tracker], complain: Callable[[str], None]) -> None:
        self._trackers = list(trackers)
        self._complain = complain

    def event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Pass on the figures of an event of the run."""
        if kind == "progress":
            values, step = _numbers(facts["metrics"], facts["label"]), facts["done"]
            self._each(lambda tracker: tracker.scalars(values, step))
        elif kind == "settings":
            text = json.dumps(facts["settings"], indent=2)
            self._each(lambda tracker: tracker.text("settings", text))
        elif kind == "result":
            values = _numbers(facts["figures"], facts["stage"])
            self._each(lambda tracker: tracker.scalars(values, 0))

    def close(self) -> None:
        """Close all."""
        self._each(lambda tracker: tracker.close())
        self._trackers = []

    def _each(self, work: Callable[[Tracker], object]) -> None:
        for tracker in list(self._trackers):
            try:
                work(tracker)
            except Exception as error:  # of any kind: network, disk, quota
                self._trackers.remove(tracker)
                self._complain(f"{tracker.name} failed and gets no more figures: {error}")


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


def _numbers(figures: Mapping[str, Any], inside: str) -> dict[str, float]:
    """The numbers among nested figures, by their paths."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        path = f"{inside}/{name}"
        if isinstance(value, Mapping):
            found |= _numbers(value, path)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[path] = float(value)
    return found
