"""The models a student learns from, asked together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tutelage.models.classifier import Classifier
from tutelage.models.forward import Forward
from tutelage.steps.distillation import Answer
from tutelage.system.errors import TutelageError

Both = tuple[Tensor, Tensor]


class Teachers:
    """Frozen snapshots of one or more models -> one ``Answer``.

    The logits are the log of the mean of the models' calibrated probabilities, each model at its
    own resolution, normalisation and temperature (averaged as in Hinton et al. 2015, section 3).
    For one model these are its log-probabilities.

    Attributes:
        sizes: side in pixels of the view that each model wants, in the order of the call's views.
        members: each model alone: views (B, 3, size, size) -> calibrated logits (B, K) and
            features (B, D).
    """

    def __init__(self, models: Sequence[Classifier], *, hints: bool = False) -> None:
        """Take the snapshots; each answers from the device that its model is on.

        Args:
            models: at least one, of the same classes in the same order.
            hints: whether answers hold features: the models' (B, D), side by side.

        Raises:
            TutelageError: the models' classes differ.
        """
        require_same_classes(models)
        self.sizes = tuple(model.spec.input_size for model in models)
        self.members = tuple(_calibrated(model) for model in models)
        self._hints = hints

    def __call__(self, *views: Tensor) -> Answer:
        """Ask each model about its view (B, 3, size, size) of the same B images."""
        return self.combine([ask(view) for ask, view in zip(self.members, views, strict=True)])

    def combine(self, outputs: Sequence[Both]) -> Answer:
        """One answer of what each of the ``members`` said."""
        logits, features = zip(*outputs, strict=True)
        return Answer(mean_logits(logits), torch.cat(features, dim=1) if self._hints else None)


def _calibrated(model: Classifier) -> Callable[[Tensor], Both]:
    forward, temperature = Forward(model, "both"), model.spec.temperature

    def ask(images: Tensor) -> Both:
        logits, features = forward(images)
        return logits / temperature, features

    return ask


def mean_logits(logits: Sequence[Tensor]) -> Tensor:
    """Log (B, K) of the mean of the probabilities of several models' logits (B, K) each."""
    # Log-softmax of half precision would round away small probabilities.
    log_probs = torch.stack([torch.log_softmax(each.float(), dim=1) for each in logits])
    return log_probs.logsumexp(dim=0) - math.log(len(logits))


def require_same_classes(models: Sequence[Classifier]) -> None:
    """Refuse teachers whose outputs mean different things.

    Raises:
        TutelageError: naming the first that differs, and how.
    """
    first = models[0].spec.classes
    for number, model in enumerate(models[1:], start=2):
        if model.spec.classes != first:
            raise TutelageError(
                f"teacher {number} knows {', '.join(model.spec.classes)}, the first knows "
                f"{', '.join(first)}; all must know the same classes in the same order"
            )
