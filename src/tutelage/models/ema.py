"""The average of a model over its training steps."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)
_UPDATES = "updates"  # beside the model's tensors


class EMA(Generic[Model]):
    """An exponential moving average of a model's parameters and buffers.

    Buffers are averaged too: batch-norm statistics that lag behind averaged weights describe
    another network. Early on the decay is ``(1 + t) / (10 + t)``, so that a short run is not
    dominated by its start.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.model.requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Move the average toward ``model``."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, currents = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in averages.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [averages[name] for name in floating],
            [currents[name] for name in floating],
            1.0 - decay,
        )
        for name in averages.keys() - set(floating):
            averages[name].copy_(currents[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged model's tensors, and how often it was updated."""
        return {**self.model.state_dict(), _UPDATES: torch.tensor(self.updates)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a ``state_dict``."""
        tensors = dict(state)
        self.updates = int(tensors.pop(_UPDATES))
        self.model.load_state_dict(tensors)
