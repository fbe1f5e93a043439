"""What a training is made with, as the settings ask: its strong view, and the classes' balance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.augment import Center, Policy, RandAugment, Strong, TrivialAugment, Weak
from tutelage.chain.types import Task
from tutelage.config import TransferConfig
from tutelage.losses import inverse_frequency, log_prior
from tutelage.stats.metrics import Floats

IMBALANCED = 2.0  # times as many labels in the largest class as in the smallest


def strong_policy(config: TransferConfig, crop_pct: float = Center.crop_pct) -> Policy:
    """The strong view; ``crop_pct`` is that of the evaluation view, which "center" trains on."""
    if config.augment == "center":
        return Center(crop_pct)
    view = Weak(scale=(config.crop_scale, 1.0))
    if config.augment == "none":
        return view
    if config.augment == "trivialaugment":
        return Strong(augment=TrivialAugment(view=view))
    augment = RandAugment(config.num_ops, float(config.magnitude), view=view)
    return Strong(augment=augment)


@dataclass(frozen=True)
class Balancing:
    """How the loss is changed; never a part of the model."""

    class_weights: Tensor | None = None  # (K,) weight of each class in the loss, or None
    log_prior: Tensor | None = None  # (K,) to add to the logits in the loss, or None

    def targets(self, targets: Tensor) -> Tensor:
        """Targets (N, K) times the weight of each class."""
        return targets if self.class_weights is None else targets * self.class_weights

    def to(self, device: torch.device) -> Balancing:
        """The same on ``device``."""
        parts = (self.class_weights, self.log_prior)
        return Balancing(*(None if part is None else part.to(device) for part in parts))


def balance_of(balance: str, counts: Tensor) -> Balancing:
    """The balancing called ``balance`` for ``counts`` (K,) images of each class in training."""
    if balance == "weights":
        return Balancing(class_weights=inverse_frequency(counts))
    if balance == "logit-adjustment":
        return Balancing(log_prior=log_prior(counts))
    return Balancing()


def balances(setting: str, task: Task) -> tuple[str, ...]:
    """The balances to try; "auto" tries an adjustment only where the labels are imbalanced."""
    if setting != "auto":
        return (setting,)
    counts = np.bincount(task.labels, minlength=task.n_classes)
    imbalanced = counts.max() >= IMBALANCED * counts.min()
    return ("none", "logit-adjustment") if imbalanced else ("none",)


def chosen_balance(config: TransferConfig, choice: dict[str, Any]) -> str:
    """The user's balance or, if that is "auto", the one that transfer chose."""
    return str(choice.get("balance", "none")) if config.balance == "auto" else config.balance


def judged_weights(task: Task) -> Floats:
    """Weights (J',) of the judged images by which every class counts the same; their mean is 1."""
    judges = np.unique(np.concatenate([fold.judges for fold in task.folds]))
    labels = task.judged_labels[judges]
    counts = torch.from_numpy(np.bincount(labels, minlength=task.n_classes)).double()
    return np.asarray(inverse_frequency(counts).numpy()[labels])
