"""Runs stages in order, judges each against its predecessor, and keeps them in the run folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage.chain import pool
from tutelage.chain.answers import clean_logits
from tutelage.chain.frozen import PLAIN, Features, first_alone, make_features
from tutelage.chain.keep import is_whole, load_stage, save_stage
from tutelage.chain.types import ROUND, Finished, Outcome, Run, Task
from tutelage.stats.calibrate import softmax
from tutelage.stats.metrics import Comparison, Floats, compare
from tutelage.stats.unknown import Detection
from tutelage.system.ranks import by_lead, is_lead, wait


class Pipeline:
    """A chain of stages as far as it has come, and what its stages share."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.finished: list[Finished] = []  # its stages so far, rejected ones too

    @property
    def teachers(self) -> list[Finished]:
        """The accepted stages without the student, in order."""
        return [stage for stage in self.finished if stage.accepted and stage.name != "student"]

    @property
    def teacher(self) -> Finished:
        """The last of them."""
        return self.teachers[-1]

    @property
    def pool_logits(self) -> Floats:
        """The teacher's answers (M, K) to the pool; computed here if its stage kept none."""
        outcome = self.teacher.outcome
        known = outcome.beliefs.pool[0]
        if known is None:
            known = clean_logits(self.run, outcome.model, self.run.task.pool)
            outcome.beliefs.pool[0] = known
        return known

    @property
    def choice(self) -> dict[str, Any]:
        """What transfer chose on held-out labels for heads on the frozen trunk."""
        chosen = [s.outcome.choice for s in self.finished if s.outcome.choice]
        return chosen[-1] if chosen else PLAIN

    @property
    def start(self) -> dict[str, Any]:
        """What transfer chose for the head that a trained trunk starts from."""
        return dict(self.choice.get("trained", self.choice))

    @cached_property
    def features(self) -> Features:
        """The pretrained trunk's features; made when first asked for."""
        return make_features(self.run)

    @cached_property
    def trainee(self) -> tuple[Run, Features]:
        """What a training of the trunk works with: of several trunks the first alone."""
        return first_alone(self.run, self.features)

    @cached_property
    def detections(self) -> list[Detection | None]:
        """The pool images out of class, by the labels of each of the task's folds."""
        return pool.detect_unknown(self.run, self.features)

    @cached_property
    def clustered(self) -> pool.Clustered:
        """What the pool's clusters say, compared with the teacher of the first round."""
        teacher, metric = self.teacher.outcome, self.choice["metric"]
        temperature = teacher.model.spec.temperature
        return pool.ask_clusters(
            self.run, self.features, metric, teacher.beliefs, temperature, self.detections
        )

    def stage(self, name: str, work: Callable[[], Outcome], *, judged: bool = True) -> Finished:
        """Run a stage, or load it from its folder if it is finished."""
        done = self._load_or_run(name, work, judged=judged)
        self.run.clock.count(name, done.seconds)
        self.finished.append(done)
        return done

    def arm(self, name: str, work: Callable[[], Outcome]) -> Finished:
        """A stage to compare the chain with: it is kept in the folder, but never in the chain."""
        return self._load_or_run(name, work, judged=False)

    def _load_or_run(self, name: str, work: Callable[[], Outcome], *, judged: bool) -> Finished:
        folder = self.run.folder.stages / name
        if by_lead(lambda: is_whole(folder, self.run.console.say)):
            done = load_stage(folder, name)
        else:
            done = self._run_and_keep(name, folder, work, judged=judged)
        if is_lead():
            self.run.trainings.forget(folder)
        kept = "kept" if judged else "done"
        verdict, color = (kept, "green") if done.accepted else ("rejected", "yellow")
        self.run.console.say(
            f"{name}: {verdict} ({done.reason}), {done.seconds:.0f} s", {verdict: color}
        )
        return done

    def _run_and_keep(
        self, name: str, folder: Path, work: Callable[[], Outcome], *, judged: bool
    ) -> Finished:
        """Do a stage's work and keep it; every rank goes on with what the lead kept."""
        self.run.console.record("stage", name=name)
        part = "rounds" if name.startswith(ROUND) else name
        with self.run.part(part), self.run.part(name), self.run.trainings.of(folder) as seconds:
            outcome = work()
            comparison, accepted = None, True
            reason = "the first stage" if not self.finished else outcome.remark or "not compared"
            if judged and self.finished:
                comparison = judge(self.run.task, self.teacher.outcome, outcome)
                accepted, reason = comparison.accepted, comparison.reason
            done = Finished(name, accepted, reason, seconds(), comparison, outcome)
            if is_lead():
                save_stage(folder, done)
            wait()
        return done if is_lead() else load_stage(folder, name)


def judge(task: Task, before: Outcome, after: Outcome) -> Comparison:
    """Compare two outcomes' calibrated answers to the images that both were judged on."""
    both = before.beliefs.known & after.beliefs.known
    was, now = (
        softmax(outcome.beliefs.judged[both], outcome.model.spec.temperature)
        for outcome in (before, after)
    )
    # With a val split there are no folds: the model itself is judged.
    shortened = not after.frozen and len(task.folds) > 1
    return compare(was, now, task.judged_labels[both], shortened=shortened)
