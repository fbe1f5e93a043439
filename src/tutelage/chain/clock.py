"""The clock of a run: what is spent of its minutes, and what each training may take of the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from tutelage.chain.plan import AFTER_SHARE, FOLD_STEPS, RunPlan, Work
from tutelage.config import ROUNDS, WITH_STUDENT
from tutelage.data.runfolder import RunFolder
from tutelage.system.console import Console
from tutelage.system.progress import Part
from tutelage.training.checkpoint import Checkpoints, Trainings
from tutelage.training.pace import Pace

LEAST = 0.25  # of the planned time; a stage that gets less is left out
TENTHS = 10  # by which the bar counts how much is written in the end
_SHORTENED = "shortened"  # in config.json: by training, what its pace decided


@dataclass(frozen=True)
class Share:
    """What a training has of the planned time: of this, it may have as much as there is left."""

    step: float  # planned seconds of one of its steps
    after: float  # planned seconds of the trainings that come after it


class Clock:
    """Counts the seconds of a run, and keeps its trainings within its minutes.

    Seconds are counted with the stages that took them, so that a kill buys no time. A slow machine
    takes from all trainings alike: each may take its planned share of what is left, and leaves the
    exports and the report the last ``after`` seconds of the ``budget``. An infinite budget shortens
    nothing. Which training was shortened, and by how much, is pinned in the run folder.
    """

    def __init__(
        self,
        folder: RunFolder,
        trainings: Trainings,
        console: Console,
        *,
        budget: float,
        after: float,
    ) -> None:
        self._folder, self._trainings, self._console = folder, trainings, console
        self.budget, self._after = budget, after
        self._finished: dict[str, float] = {}
        self._ending: float | None = None  # when the exports began

    def count(self, name: str, seconds: float) -> None:
        """Count what is finished, the preparation or a stage; each name once."""
        self._finished[name] = seconds

    def spent(self) -> float:
        """Seconds that the run has taken so far, the stage that is running included."""
        # A copy, as the bar's thread asks, too.
        return sum([*self._finished.values()]) + self._trainings.seconds()

    def left(self) -> float:
        """Seconds that the run may still take; never fewer than its exports and report need."""
        ended = 0.0 if self._ending is None else time.monotonic() - self._ending
        return max(self.budget - self.spent(), self._after) - ended

    def ending(self) -> None:
        """Note that the exports begin: from here on what is left falls with the time."""
        self._ending = time.monotonic()

    def late(self, plan: RunPlan, work: Work) -> bool:
        """Whether there is no time left: ``LEAST`` of what a trained trunk and the student need.

        A head on the frozen trunk costs next to nothing.
        """
        left = self.budget - self.spent()
        if not work.seconds:
            return left < 0
        return left - self._after < LEAST * (work.seconds + plan.student.seconds)

    def pace(self, checkpoints: Checkpoints | None, steps: int, share: Share | None) -> Pace:
        """The pace of a training, whose name is that of its ``checkpoints``.

        Without a share it makes all its steps.
        """
        if checkpoints is None or share is None or not share.step or math.isinf(self.budget):
            return Pace(steps)
        name = checkpoints.name
        allowed, keep = partial(self._allowed, share), partial(self._keep, name)
        return Pace(steps, allowed, decided=self._shortened().get(name, []), keep=keep)

    def made(self, training: str) -> int | None:
        """The steps that a training made, if it was shortened."""
        decided = self._shortened().get(training)
        return decided[-1][1] if decided else None

    def notes(self, told: Mapping[str, str]) -> list[str]:
        """A note for each stage that was shortened, in the words of ``told`` if it has some."""
        steps: dict[str, list[int]] = {}
        for name, decided in self._shortened().items():
            steps.setdefault(_stage(name), []).append(decided[-1][1])
        return [
            told.get(stage)
            or f"{stage} was trained for only {' and '.join(map(str, made))} steps, {self._why}"
            for stage, made in steps.items()
        ]

    @property
    def _why(self) -> str:
        """Why a training makes fewer steps, and why the run may end before its minutes are over."""
        return (
            f"to end within {in_minutes(self.budget)} (--minutes); {self._after:.0f} s are kept "
            "for the exports, the test and the report, which may take less"
        )

    def _allowed(self, share: Share, seconds: float, left: float) -> float:
        """Seconds for ``left`` more planned steps, which now take ``seconds`` each.

        What comes after the trainings is slowed down like them, within its share of the budget.
        """
        slower = max(1.0, seconds / share.step)
        after = min(self._after * slower, max(self._after, AFTER_SHARE * self.budget))
        rest = self.budget - self.spent() - after
        own = left * share.step
        return max(0.0, rest) * own / (own + share.after)

    def _keep(self, name: str, decided: list[tuple[int, int]]) -> None:
        stage, known = _stage(name), self._shortened()
        self._folder.pin(_SHORTENED, {**known, name: decided})
        if stage not in map(_stage, known):  # said once: the note in the end has the numbers
            fewer = "fewer steps than planned"
            self._console.say(f"{stage}: {fewer}, {self._why}", {fewer: "yellow"})

    def _shortened(self) -> dict[str, list[tuple[int, int]]]:
        found = self._folder.read_json("config.json").get(_SHORTENED, {})
        return {name: [(after, steps) for after, steps in pairs] for name, pairs in found.items()}


def in_minutes(seconds: float) -> str:
    """Minutes as a person says them: "about 5.6 minutes", "1 minute"."""
    minutes = round(seconds / 60, 1)
    about = "" if math.isclose(60 * minutes, seconds) else "about "
    return f"{about}{minutes:g} minute{'' if minutes == 1 else 's'}"


def _stage(training: str) -> str:
    """The stage that a training belongs to: it has one, or several that are numbered."""
    return training.partition(",")[0]


def later_seconds(plan: RunPlan, work: Work) -> float:
    """Planned seconds of the trainings that come after a stage's."""
    order = [plan.transfer, *plan.rounds, plan.student]
    at = next((i for i, planned in enumerate(order) if planned is work), len(order) - 1)
    return sum(planned.seconds for planned in order[at + 1 :])


def shares(work: Work, steps: Sequence[int], later: float) -> list[Share]:
    """The share of each training of a stage, which make so many ``steps`` one after the other."""
    step = work.seconds / max(1, sum(steps))
    return [Share(step, step * sum(steps[number + 1 :]) + later) for number in range(len(steps))]


def foreseen(plan: RunPlan, command: str, images: int) -> dict[str, Part]:
    """The parts of a run in order, each with what is planned for it, for the progress bar.

    ``images`` are those that are learned from, with and without labels.
    """

    def trained(works: Sequence[Work], folds: int) -> Part:
        steps = sum(work.steps for work in works) * (1 + FOLD_STEPS * folds)
        return Part(sum(work.seconds for work in works), amount=round(steps))

    parts = {}
    if command != "distill":
        parts["probe"] = Part(plan.frozen_seconds, amount=images * plan.views, unit="view")
        parts["transfer"] = trained([plan.transfer], plan.folds)
    if command in ROUNDS and plan.rounds:
        parts["rounds"] = trained(plan.rounds, plan.judged_folds)
    if command in WITH_STUDENT:
        first, work = plan.lesson_seconds, plan.student
        parts["student"] = Part(first + work.seconds, first=first, amount=work.steps)
    parts["report"] = Part(plan.after_seconds, amount=TENTHS, unit="tenth")
    return parts
