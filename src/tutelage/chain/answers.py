"""What a model answers about images of the run, and how sure it may be of that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tutelage.augment import Center
from tutelage.chain.plan import MATCHED_IMAGES
from tutelage.chain.types import Beliefs, Run, Task
from tutelage.heads.bank import CLEAN_VIEWS, look
from tutelage.models.classifier import Classifier
from tutelage.models.forward import Forward
from tutelage.stats.calibrate import calibrated_losses, fit_temperature, softmax
from tutelage.stats.metrics import Floats
from tutelage.stats.pseudo_labels import PseudoLabels, revise
from tutelage.stats.unknown import energy, fit_limit, match_threshold
from tutelage.training.loader import Canvases, Rows, spaced


def evaluation_look(
    canvases: Canvases,
    rows: Rows,
    model: Classifier,
    device: torch.device,
    output: Literal["logits", "features"] = "logits",
    *,
    views: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Outputs (N, ...) on the view that the model is deployed with; leaves the model on the CPU.

    With 2 views, the mean of the outputs on that view and on its mirror image.
    """
    forward = Forward(model.to(device), output)
    center, size = Center(model.spec.crop_pct), model.spec.input_size
    sides = [
        look(canvases, rows, center, forward, size, mirrored=mirrored, progress=progress)
        for mirrored in (False, True)[:views]
    ]
    model.cpu()
    return torch.stack(sides).mean(dim=0)


def clean_logits(run: Run, model: Classifier, rows: Rows, *, views: int = CLEAN_VIEWS) -> Floats:
    """Mean logits (N, K) over the centre view and, with 2 views, its mirror image."""
    logits = evaluation_look(run.task.canvases, rows, model, run.device, views=views)
    return np.asarray(logits.numpy().astype(np.float64))


def some_images(task: Task, most: int) -> Rows:
    """At most so many images of the pool, or without one of the labelled images."""
    return spaced(task.pool if len(task.pool) else task.labeled, most)


def temperature_of(task: Task, beliefs: Beliefs) -> float:
    """The temperature that fits the held-out predictions."""
    known = beliefs.known
    targets = np.eye(task.n_classes)[task.judged_labels[known]]
    return fit_temperature(beliefs.judged[known], targets)


def mean_beliefs(task: Task, first: Beliefs, second: Beliefs) -> Beliefs:
    """The mean of two beliefs, each calibrated first, as logits.

    It is their logarithmic opinion pool with equal weights (Heskes 1998, "Selecting weighting
    factors in logarithmic opinion pools").
    """
    divisors = temperature_of(task, first), temperature_of(task, second)

    def mean(ours: Floats, theirs: Floats) -> Floats:
        return (ours / divisors[0] + theirs / divisors[1]) / 2

    pairs = zip(first.pool, second.pool, strict=True)
    pool = [None if a is None or b is None else mean(a, b) for a, b in pairs]
    return Beliefs(pool, mean(first.judged, second.judged))


def held_out_nll(task: Task, judged: Floats) -> Floats:
    """Negative log-likelihoods (J',) of held-out logits (J, K) at the fitted temperature."""
    known = Beliefs([], judged).known
    return calibrated_losses(judged[known], task.judged_labels[known])


def unknown_threshold_of(beliefs: Beliefs) -> float | None:
    """The energy that about 95% of held-out predictions stay below; None without any."""
    known = beliefs.known
    return fit_limit(energy(beliefs.judged[known])).value if known.any() else None


def set_calibration(model: Classifier, temperature: float, unknown_threshold: float | None) -> None:
    """Record the temperature and the threshold for unknown images in the model's spec."""
    model.spec = dataclasses.replace(
        model.spec, temperature=temperature, unknown_threshold=unknown_threshold
    )


def calibrate(task: Task, model: Classifier, beliefs: Beliefs) -> None:
    """Set the model's temperature and its threshold for unknown images by held-out predictions."""
    set_calibration(model, temperature_of(task, beliefs), unknown_threshold_of(beliefs))


def matched_temperature(
    run: Run, model: Classifier, labels: PseudoLabels, *, online: bool
) -> float:
    """The temperature at which the model is as confident about the pool as its labels are.

    Used where no label was held out. The labels of a round in legs are a mean of old and new
    beliefs already; those of an online round are still its teacher's, which knew less, so the
    model's own beliefs are averaged in.
    """
    labels = labels.some(MATCHED_IMAGES, run.seed)
    rows = run.task.pool[labels.accepted]
    logits = clean_logits(run, model, rows, views=1)
    if online:
        labels = revise(labels, softmax(logits))
    return fit_temperature(logits, labels.probs[labels.accepted])


def inherit_threshold(run: Run, model: Classifier, teacher: Classifier) -> None:
    """Give a model without held-out predictions its teacher's threshold for unknown images.

    An energy means something for one model only, so the model's own threshold is chosen such that
    as many images of the pool (or, without one, labelled ones) lie beyond it as lie beyond the
    teacher's.
    """
    threshold = teacher.spec.unknown_threshold
    if threshold is None:
        return
    rows = some_images(run.task, MATCHED_IMAGES)
    # Both on one view, as they are deployed and as the teacher's threshold was fitted.
    ours, theirs = (clean_logits(run, m, rows, views=1) for m in (model, teacher))
    threshold = match_threshold(energy(ours), energy(theirs), threshold)
    set_calibration(model, model.spec.temperature, threshold)
