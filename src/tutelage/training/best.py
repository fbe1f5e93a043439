"""The best state of a model on its way, by a measure that is taken a few times."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tutelage.models.classifier import Classifier

LOOKS = 4  # at equal distances; the last is after the last step


class Best:
    """Keeps the state in which a model was best, its start too, and ends a training in vain."""

    def __init__(self, measure: Callable[[Classifier], float], *, trial: int = 1) -> None:
        """Keep the state for which ``measure`` is lowest; it is the same on all ranks.

        A training has ``trial`` looks to make the model better than it was at its start.
        """
        self._measure, self._trial = measure, trial
        self.measured: list[float] = []  # first of the model before its first step
        self._state: dict[str, Tensor] = {}

    @property
    def in_vain(self) -> bool:
        """Whether the trial is over and the model was worse than at its start at every look."""
        start, *looks = self.measured or [0.0]
        return len(looks) == self._trial and min(looks) > start

    def begin(self, model: Classifier) -> None:
        """Look at the model before its first step."""
        self._look(model)

    def after(self, step: int, steps: int, model: Classifier) -> None:
        """Look at the model if it is time to, after one step of so many."""
        if step in [look_at(number, steps) for number in range(1, LOOKS + 1)]:
            self._look(model)

    def _look(self, model: Classifier) -> None:
        found = self._measure(model)
        if not self.measured or found < min(self.measured):
            values = model.state_dict().items()
            self._state = {name: value.detach().cpu().clone() for name, value in values}
        self.measured.append(found)

    def restore(self, model: Classifier) -> Classifier:
        """Put the model into its best state."""
        model.load_state_dict(self._state)
        return model

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, as tensors."""
        measured = torch.tensor(self.measured, dtype=torch.float64)
        return {"measured": measured, **{f"model.{n}": t for n, t in self._state.items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a ``state_dict``."""
        self.measured = state["measured"].tolist()
        self._state = {n.removeprefix("model."): t for n, t in state.items() if n != "measured"}


def look_at(number: int, steps: int) -> int:
    """After which of so many steps a model is looked at for this time."""
    return -(-steps * number // LOOKS)
