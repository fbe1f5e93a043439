"""The online methods by their names."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from tutelage.steps.fixmatch import FixMatch, OnlineStep
from tutelage.steps.mean_teacher import MeanTeacherStep
from tutelage.steps.thresholds import FlexMatch, FreeMatch, SoftMatch
from tutelage.training.batch import Step

MOMENTUM = 0.99  # the papers' 0.999 is for a million steps, not for thousands


def make_online_step(
    method: str, prior: Tensor, *, n_pool: int, steps: int, threshold: float, hard: bool
) -> Step:
    """The step of one online method, with its statistics at their initial values.

    ``prior`` (K,) is the estimated class distribution of the pool of ``n_pool`` images, on the
    run's device; ``threshold`` is FixMatch's, or that of FlexMatch's best class; ``hard`` trains on
    the most probable classes (Mean Teacher has none); ``steps`` is the length of the training.
    """
    if method == "mean-teacher":
        # The authors ramp up for 40,000 of 150,000 steps.
        return MeanTeacherStep(ramp_steps=steps * 4 // 15)
    k, device = len(prior), prior.device
    online = partial(OnlineStep, hard=hard, momentum=MOMENTUM)
    if method == "fixmatch":
        return online(prior, FixMatch(threshold))
    if method == "flexmatch":
        return online(prior, FlexMatch(k, n_pool, threshold, device))
    if method == "freematch":
        free = FreeMatch(k, momentum=MOMENTUM, device=device)
        return online(prior, free, penalty=free.fairness)
    if method == "softmatch":
        uniform = torch.full_like(prior, 1 / k)
        return online(uniform, SoftMatch(k, momentum=MOMENTUM, device=device))
    raise ValueError(f"'{method}' is not an online method")
