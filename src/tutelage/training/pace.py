"""A training held to its time: it measures its own speed and, if it must, makes fewer steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from tutelage.system.ranks import agreed

WARMING = 2  # first steps of a process, which are slower than those after them
FIRST_CHECK = 7  # the step after which the speed is looked at first
CHECKS = 8  # how often it is looked at in all, at about equal distances after that


class Pace:
    """How many steps a training makes, and how far each is in the schedule that was planned.

    A shortened training goes through the whole schedule of the planned one, in longer strides: its
    last learning rate is the planned one's last. What was decided is told to ``keep``, and a
    training that goes on from a checkpoint is given it again as ``decided``: then it makes the same
    steps, however fast the machine is by now.
    """

    def __init__(
        self,
        steps: int,
        allowed: Callable[[float, float], float] | None = None,
        *,
        decided: Sequence[tuple[int, int]] = (),
        keep: Callable[[list[tuple[int, int]]], None] = lambda decided: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Begin with the planned ``steps``.

        ``allowed`` maps measured seconds per step and the planned steps left to the seconds that
        this training may still take. A pair (after, steps) in ``decided`` says that after so many
        steps it was found that it makes so many in all; ``keep`` is told all pairs when one is new.
        """
        # ``self.steps`` is how many the training makes in all, as far as is known.
        self._planned = self.steps = steps
        self._allowed, self._keep = allowed, keep
        self._clock = clock or time.monotonic
        self._decided = [(after, fewer) for after, fewer in decided]
        self._bend = (0, 0.0)  # the last shortening: its step, and where that is in the plan
        self._made = 0  # steps of this process
        self._last = 0.0  # when the last of them ended
        self._times: list[float] = []  # seconds of those since the last check

    def planned_step(self, step: int) -> float:
        """Where ``step`` (from 1) is among the steps of the planned training."""
        at, planned = self._bend
        left = max(1, self.steps - at)
        return planned + (step - at) * (self._planned - planned) / left

    def resume(self, step: int) -> None:
        """Go on after ``step`` steps that another process made."""
        for after, fewer in self._decided:
            if after <= step:
                self._shorten(after, fewer)

    def after(self, step: int) -> None:
        """Note that ``step`` is done; at some steps, decide how many there are in all."""
        if self._allowed is not None:
            now = self._clock()
            self._made += 1
            if self._made > WARMING:
                self._times.append(now - self._last)
            self._last = now
        known = dict(self._decided)
        check = step == FIRST_CHECK or step % max(FIRST_CHECK, self._planned // CHECKS) == 0
        if step in known:
            self._shorten(step, known[step])
        elif check and step > max(known, default=0):
            self._decide(step)

    def _decide(self, step: int) -> None:
        """Make fewer steps, but at least one more, if the time is not enough for those left."""
        if self._allowed is None or not self._times or step >= self.steps:
            return
        # Not the mean: a kernel that is compiled or a checkpoint that is written comes but once.
        seconds = statistics.median(self._times)
        self._times.clear()
        left = self._planned - self.planned_step(step)
        in_time = int(self._allowed(seconds, left) / max(seconds, 1e-9))
        fewer = agreed(step + max(1, in_time))  # the lead's clock counts
        if fewer < self.steps:
            self._shorten(step, fewer)
            self._decided.append((step, fewer))
            self._keep(self._decided)

    def _shorten(self, step: int, fewer: int) -> None:
        self._bend = (step, self.planned_step(step))
        self.steps = fewer
