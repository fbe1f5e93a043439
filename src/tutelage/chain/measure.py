"""Every stage's figures on the test images, which are looked at here and nowhere else in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tutelage.chain.answers import evaluation_look
from tutelage.chain.types import Finished, Run
from tutelage.models.classifier import count_parameters
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Floats, Ints, metrics
from tutelage.stats.results import Figures, Leakage, RunMetrics, Stage
from tutelage.training.loader import Rows


@dataclass(frozen=True)
class Tested:
    """What the stages answered about the N test images."""

    rows: Rows  # (N,) in the catalog, without those that were streamed and lost on the way
    labels: Ints  # (N,)
    probs: dict[str, Floats]  # stage -> (N, K), calibrated; empty without test images


def predict_test(run: Run, finished: Sequence[Finished]) -> Tested:
    """Let each stage look at the test images.

    Stages that share the frozen trunk share its features: those of the model that looks at most
    of them, which begin with the trunk's own.
    """
    rows = run.split.indices("test")
    if not len(rows):
        return Tested(rows, run.split.truth[rows], {})
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
    there = np.array([run.catalog.names[row] not in run.store.reasons for row in rows])
    rows = rows[there]
    probs = {name: answers[there] for name, answers in out.items()}
    return Tested(rows, run.split.truth[rows], probs if len(rows) else {})


def measure(run: Run, finished: Sequence[Finished]) -> tuple[RunMetrics, Tested]:
    """The content of metrics.json, and the answers behind it."""
    tested = predict_test(run, finished)
    entries: list[Stage] = [
        {
            "name": done.name,
            "accepted": done.accepted,
            "seconds": round(done.seconds, 2),
            "parameters": count_parameters(done.outcome.model),
            "val": _held_out(run, done),
            "test": metrics(tested.probs[done.name], tested.labels) if tested.probs else None,
        }
        for done in finished
    ]
    teachers = [entry for entry in entries if entry["accepted"] and entry["name"] != "student"]
    teacher = teachers[-1] if teachers else None
    final = entries[-1] if teacher is None or entries[-1]["name"] == "student" else teacher
    leaks = leakage(run, tested)
    return {"stages": entries, "final": final, "teacher": teacher, "leakage": leaks}, tested


def leakage(run: Run, tested: Tested) -> Leakage:
    """What copies there are, and each stage's figures without the copied test images."""
    copies, labels = run.copies, tested.labels
    leaking = copies.leaking("test")
    clean = np.array([run.catalog.names[row] not in leaking for row in tested.rows], dtype=bool)
    return {
        "test": int((~clean).sum()),
        "val": len(copies.leaking("val")),
        "two_labels": sum(pair.contradicts for pair in copies.found),
        "left_out": len(copies.left_out),
        "pairs": len(copies.found),
        "without": {name: metrics(p[clean], labels[clean]) for name, p in tested.probs.items()}
        if clean.any() and not clean.all()
        else {},
    }


def _held_out(run: Run, done: Finished) -> Figures | None:
    beliefs = done.outcome.beliefs
    if not beliefs.known.any():
        return None
    probs = softmax(beliefs.judged[beliefs.known], done.outcome.model.spec.temperature)
    return metrics(probs, run.task.judged_labels[beliefs.known])
