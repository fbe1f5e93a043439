"""The arms of a ladder: the chain's stages, its rivals, and the chain without one of its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tutelage.chain import stages, student
from tutelage.chain.frozen import PLAIN, fit_fold_heads
from tutelage.chain.pipeline import Pipeline
from tutelage.chain.plan import MOST_TRANSFER_STEPS, RunPlan, Work
from tutelage.chain.run import teach, teach_student
from tutelage.chain.trained import train_trunk
from tutelage.chain.types import Finished, Outcome, Run, is_round
from tutelage.data.runfolder import RunFolder
from tutelage.heads.probe import Head
from tutelage.ladder.request import ARMS
from tutelage.models.zoo import build, first_trunk

_CHAIN_ARMS = {"probe", "transfer", "self-train", "student", "no-self-train"}


@dataclass(frozen=True)
class TrainedArm:
    """One arm in one draw."""

    stage: Finished  # whose model it is
    seconds: float  # its own work took
    total: float  # seconds of that and of all that it builds on


def train_arms(chain: Pipeline, arms: Sequence[str]) -> dict[str, TrainedArm]:
    """Train some of ``ARMS``, and make every decision between them, without a look at test.

    Without unlabelled images or planned rounds there is no "self-train". Afterwards the new
    ``chain`` holds the arms' finished stages.
    """
    run = chain.run
    done: dict[str, TrainedArm] = {}
    rounds = "self-train" in arms and len(run.task.pool) > 0 and len(run.plan.rounds) > 0
    if _CHAIN_ARMS & set(arms):
        teach(chain, self_training=rounds)
        done = _teachers(chain, rounds=rounds)
    for name, train in _RIVALS.items():
        if name in arms:
            stage = chain.arm(name, lambda train=train: train(chain))  # type: ignore[misc]
            done[name] = TrainedArm(stage, stage.seconds, stage.seconds)
    spent = sum(stage.seconds for stage in chain.finished)
    if "student" in arms:
        stage = teach_student(chain, [chain.teacher.outcome.model])
        done["student"] = TrainedArm(stage, stage.seconds, spent + stage.seconds)
    if "no-self-train" in arms:
        done["no-self-train"] = _no_self_train(chain, done)
    for name, change in _CHANGES.items():
        if name in arms:
            done[name] = _changed_student(run, name, change, rounds=rounds)
    return {arm: done[arm] for arm in ARMS if arm in arms and arm in done}


def _teachers(chain: Pipeline, *, rounds: bool) -> dict[str, TrainedArm]:
    """The chain's own arms before its student, from its finished stages."""
    done, total = {}, 0.0
    for stage in chain.finished:
        total += stage.seconds
        if stage.name in ARMS:
            done[stage.name] = TrainedArm(stage, stage.seconds, total)
    if rounds:
        seconds = sum(stage.seconds for stage in chain.finished if is_round(stage))
        done["self-train"] = TrainedArm(chain.teacher, seconds, total)
    return done


def fine_tune_work(plan: RunPlan) -> Work:
    """Fine-tuning's share: as much as the plan trains a trunk, or the student if it trains none."""
    trained = [work for work in (plan.transfer, *plan.rounds) if work.trunk != "frozen"]
    work = trained[0] if trained else plan.student
    return dataclasses.replace(work, trunk="trained", steps=min(work.steps, MOST_TRANSFER_STEPS))


def _labels_alone(run: Run) -> Run:
    """The run with all labels, no unlabelled images, and no folds to repeat a training on."""
    return run.on(folds=run.task.folds[:1], pool=run.task.pool[:0])


def _fine_tune(chain: Pipeline) -> Outcome:
    """The trunk trained on the labels, starting with a plain head; nothing is judged."""
    alone, features = chain.trainee
    run = _labels_alone(alone)
    heads = fit_fold_heads(run, features, PLAIN, [None])
    return train_trunk(run, heads, [None], fine_tune_work(run.plan), "fine-tune", judged_folds=0)


def _from_scratch(run: Run, name: str) -> Outcome:
    """As many steps as fine-tuning, from random weights, with the head's rate for all layers."""
    rate = run.config.transfer.lr_head
    run = dataclasses.replace(run, base=first_trunk(run.base))
    run = _labels_alone(without_weights(run)).changed("transfer", lr_trunk=rate, layer_decay=1.0)
    empty = Head(torch.zeros_like(run.base.head.weight), torch.zeros_like(run.base.head.bias))
    return train_trunk(run, [empty], [None], fine_tune_work(run.plan), name, judged_folds=0)


_RIVALS: Mapping[str, Callable[[Pipeline], Outcome]] = {
    "scratch": lambda chain: _from_scratch(without_augmentation(chain.run), "scratch"),
    "augment": lambda chain: _from_scratch(chain.run, "augment"),
    "fine-tune": _fine_tune,
    "student-alone": lambda chain: student.train_alone(chain.run, chain.run.plan.student),
}
ALONE = tuple(_RIVALS)
"""Trained beside the chain, which learns nothing from them."""


def without_augmentation(run: Run) -> Run:
    """The same run, but with the evaluation view as every training view and no mixing."""
    return run.changed("transfer", augment="center", mix="none")


def without_weights(run: Run) -> Run:
    """The same run, but from random weights, all of which learn."""
    torch.manual_seed(run.seed)
    base = build(run.base.spec)
    base.freeze_trunk()
    return dataclasses.replace(run.changed("data", weights="none"), base=base)


_CHANGES: Mapping[str, Callable[[Run], Run]] = {
    "no-augmentation": without_augmentation,
    "no-transfer": without_weights,
}


def _changed_student(
    run: Run, name: str, change: Callable[[Run], Run], *, rounds: bool
) -> TrainedArm:
    """The student of a changed chain with the same split, plan and seed, in a folder of its own."""
    run.console.say(f"{name}:")
    folder = RunFolder(run.folder.path / name)
    folder.claim({"command": "ladder", "arm": name, "settings": run.config.to_dict()})
    try:
        chain = Pipeline(change(dataclasses.replace(run, folder=folder, notes=[])))
        teach(chain, self_training=rounds)
        stage = teach_student(chain, [chain.teacher.outcome.model])
    finally:
        folder.unlock()
    total = sum(stage.seconds for stage in chain.finished)
    return TrainedArm(stage, total, total)


def _no_self_train(chain: Pipeline, done: Mapping[str, TrainedArm]) -> TrainedArm:
    """A student of the teacher before the rounds: "student" itself where no round was kept."""
    before = [stage for stage in chain.teachers if not is_round(stage)][-1]
    if before is chain.teachers[-1] and "student" in done:
        return done["student"]
    model = before.outcome.model
    stage = chain.arm("no-self-train", lambda: stages.student(chain, [model]))
    first = sum(s.seconds for s in chain.finished if s.name in ("probe", "transfer"))
    return TrainedArm(stage, stage.seconds, first + stage.seconds)
