"""What a training is made with, as the settings ask: its strong view, and the classes' balance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.augment import Center, Policy, RandAugment, Strong, TrivialAugment, Weak
from tutelage.config import TransferConfig
from tutelage.losses import inverse_frequency, log_prior


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
