"""scikit-learn's SelfTrainingClassifier (Yarowsky 1995) on features of the frozen trunk."""

from __future__ import annotations

import copy
import time
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from peers.common import Draw, Trained

THRESHOLD = 0.75  # scikit-learn's default
ROUNDS = 10  # scikit-learn's default


def self_training(
    draw: Draw,
    labeled: Tensor,
    pool: Tensor,
    criterion: Literal["threshold", "k_best"] = "threshold",
) -> Trained:
    """Logistic regression that takes on its confident answers about the pool, round by round.

    Args:
        draw: its labels.
        labeled: (n, D) features of the labelled images.
        pool: (M, D) features of the pool.
        criterion: accept what is above ``THRESHOLD``, or the best tenth of the pool each round.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from sklearn.semi_supervised import SelfTrainingClassifier

    began = time.monotonic()
    scaler = StandardScaler().fit(torch.cat([labeled, pool]).numpy())
    features = scaler.transform(torch.cat([labeled, pool]).numpy())
    targets = np.concatenate([draw.labels, np.full(len(pool), -1)])
    learner = SelfTrainingClassifier(
        LogisticRegression(max_iter=1000),
        threshold=THRESHOLD,
        criterion=criterion,
        k_best=max(1, len(pool) // ROUNDS),
        max_iter=ROUNDS,
    )
    learner.fit(features, targets)
    model = copy.deepcopy(draw.base)
    set_linear(model, learner.estimator_, scaler)
    return Trained(model, len(getattr(learner, "labeled_iter_", ())), time.monotonic() - began)


@torch.no_grad()
def set_linear(model: Any, fitted: Any, scaler: Any) -> None:
    """Write a fitted logistic regression on scaled features into the classifier's own head.

    Of two classes scikit-learn keeps the difference of their logits: half goes to each.
    """
    weight, bias = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:
        weight, bias = (np.concatenate([-part, part]) / 2 for part in (weight, bias))
    weight = weight / scaler.scale_
    bias = bias - weight @ scaler.mean_
    rows = torch.from_numpy(fitted.classes_)
    model.head.weight.zero_()
    model.head.bias.fill_(-1e4)  # a class that was never seen
    model.head.weight[rows] = torch.from_numpy(weight).float()
    model.head.bias[rows] = torch.from_numpy(bias).float()
