"""Every stage's figures on the test images, which are looked at here and nowhere else in a run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.chain.answers import evaluation_look
from tutelage.chain.types import Finished, Run
from tutelage.models.classifier import count_parameters
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Floats, metrics
from tutelage.training.loader import Rows


def predict_rows(run: Run, finished: Sequence[Finished], rows: Rows) -> dict[str, Floats]:
    """Each stage's calibrated probabilities (N, K) of the same images, by stage name.

    Stages that share the frozen trunk share its features: those of the model that looks at most
    of them, which begin with the trunk's own.
    """
    features: Tensor | None = None
    frozen = [done.outcome.model for done in finished if done.outcome.frozen]
    widest = max(frozen, key=lambda model: model.num_features, default=None)
    look = partial(evaluation_look, run.task.canvases, rows)
    out: dict[str, Floats] = {}
    for done in finished:
        model = done.outcome.model
        with run.progress(f"test, {done.name}", len(rows), "image") as tick:
            if widest is None or not done.outcome.frozen:
                logits = look(model, run.device, progress=tick)
            else:
                if features is None:
                    features = look(widest, run.device, "features", progress=tick)
                with torch.no_grad():
                    logits = model.head(features[:, : model.num_features])
        out[done.name] = softmax(logits.numpy().astype(np.float64), model.spec.temperature)
    return out


def measure(run: Run, finished: Sequence[Finished]) -> tuple[dict[str, Any], dict[str, Floats]]:
    """The content of metrics.json, and the test probabilities behind it."""
    rows = run.split.indices("test")
    probs = predict_rows(run, finished, rows) if len(rows) else {}
    truth = run.split.truth[rows]
    entries = [
        {
            "name": done.name,
            "accepted": done.accepted,
            "seconds": round(done.seconds, 2),
            "parameters": count_parameters(done.outcome.model),
            "val": _held_out(run, done),
            "test": metrics(probs[done.name], truth) if len(rows) else None,
        }
        for done in finished
    ]
    teachers = [entry for entry in entries if entry["accepted"] and entry["name"] != "student"]
    teacher = teachers[-1] if teachers else None
    final = entries[-1] if entries[-1]["name"] == "student" else teacher
    return {"stages": entries, "final": final, "teacher": teacher}, probs


def _held_out(run: Run, done: Finished) -> dict[str, Any] | None:
    beliefs = done.outcome.beliefs
    if not beliefs.known.any():
        return None
    probs = softmax(beliefs.judged[beliefs.known], done.outcome.model.spec.temperature)
    return metrics(probs, run.task.judged_labels[beliefs.known])
