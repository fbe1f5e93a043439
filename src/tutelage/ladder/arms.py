"""The arms of a ladder: a chain's stages, what they are compared with, the chain less a part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tutelage.chain import student
from tutelage.chain.frozen import PROBE_STRENGTH, fit_fold_heads
from tutelage.chain.pipeline import Pipeline
from tutelage.chain.plan import MOST_TRANSFER_STEPS, Plan, Work
from tutelage.chain.run import teach, teach_student
from tutelage.chain.trained import train_trunk
from tutelage.chain.types import Finished, Outcome, Run
from tutelage.data.runfolder import RunFolder
from tutelage.heads.probe import Head
from tutelage.models.zoo import build

RUNGS = (
    "scratch",
    "augment",
    "probe",
    "fine-tune",
    "transfer",
    "self-train",
    "student-alone",
    "student",
)
"""From the plainest to the whole chain."""
LEFT_OUT = ("no-augmentation", "no-transfer", "no-self-train")
"""The student of the whole chain less one part; without distillation it is "student-alone"."""
ARMS = (*RUNGS, *LEFT_OUT)
ALONE = ("scratch", "augment", "fine-tune", "student-alone")
"""Beside the chain, which learns nothing from them."""
_OF_THE_CHAIN = {"probe", "transfer", "self-train", "student", "no-self-train"}


@dataclass(frozen=True)
class Climbed:
    """One trained arm.

    Attributes:
        stage: the finished stage it stands for.
        seconds: of its own work.
        total: of that and of all that it builds on.
    """

    stage: Finished
    seconds: float
    total: float


def climb(chain: Pipeline, arms: Sequence[str]) -> dict[str, Climbed]:
    """Train the arms, and make every decision between them, without a look at test.

    Args:
        chain: nothing is finished in it yet; afterwards the stages of the arms are.
        arms: some of ``ARMS``.

    Returns:
        The trained arms in the order of ``ARMS``. Without unlabelled images or planned rounds
        there is no "self-train".
    """
    run = chain.run
    done: dict[str, Climbed] = {}
    rounds = "self-train" in arms and len(run.task.pool) > 0 and len(run.plan.rounds) > 0
    if _OF_THE_CHAIN & set(arms):
        teach(chain, self_training=rounds)
        done = _of_teachers(chain, rounds=rounds)
    for name, train in _SINGLE.items():
        if name in arms:
            stage = chain.arm(name, lambda train=train: train(chain))  # type: ignore[misc]
            done[name] = Climbed(stage, stage.seconds, stage.seconds)
    spent = sum(stage.seconds for stage in chain.finished)
    if "student" in arms:
        stage = teach_student(chain, [chain.teacher.outcome.model])
        done["student"] = Climbed(stage, stage.seconds, spent + stage.seconds)
    if "no-self-train" in arms:
        done["no-self-train"] = _no_self_train(chain, done)
    for name, change in _LESS.items():
        if name in arms:
            done[name] = _less(run, name, change, rounds=rounds)
    return {arm: done[arm] for arm in ARMS if arm in arms and arm in done}


def _of_teachers(chain: Pipeline, *, rounds: bool) -> dict[str, Climbed]:
    """The chain's own arms before its student."""
    done, total = {}, 0.0
    for stage in chain.finished:
        total += stage.seconds
        if stage.name in ARMS:
            done[stage.name] = Climbed(stage, stage.seconds, total)
    if rounds:
        seconds = sum(stage.seconds for stage in chain.finished if is_round(stage))
        done["self-train"] = Climbed(chain.teacher, seconds, total)
    return done


def is_round(stage: Finished) -> bool:
    """Whether it is a round of self-training."""
    return stage.name.startswith("self-train-")


def fine_tune_work(plan: Plan) -> Work:
    """The plan's own training of a trunk, on labels alone; if it has none, the student's steps."""
    trained = [work for work in (plan.transfer, *plan.rounds) if work.trunk != "frozen"]
    work = trained[0] if trained else plan.student
    return dataclasses.replace(work, trunk="trained", steps=min(work.steps, MOST_TRANSFER_STEPS))


def _labels_alone(run: Run) -> Run:
    """The run with all labels, no unlabelled images, and no fold that repeats a training."""
    return run.on(folds=run.task.folds[:1], pool=run.task.pool[:0])


def _fine_tune(chain: Pipeline) -> Outcome:
    """The trunk trained on the labels, from a plain head; nothing is judged."""
    run = _labels_alone(chain.run)
    plain = {"metric": "plain", "strength": PROBE_STRENGTH}
    heads = fit_fold_heads(run, chain.features, plain, [None])
    return train_trunk(run, heads, [None], fine_tune_work(run.plan), "fine-tune", judged_folds=0)


def _from_scratch(run: Run, name: str) -> Outcome:
    """As many steps as fine-tuning from random weights, all layers at the rate of the head."""
    rate = run.config.transfer.lr_head
    run = _labels_alone(without_weights(run)).changed("transfer", lr_trunk=rate, layer_decay=1.0)
    empty = Head(torch.zeros_like(run.base.head.weight), torch.zeros_like(run.base.head.bias))
    return train_trunk(run, [empty], [None], fine_tune_work(run.plan), name, judged_folds=0)


def _student_alone(chain: Pipeline) -> Outcome:
    return student.train_alone(chain.run, chain.run.plan.student)


_SINGLE: Mapping[str, Callable[[Pipeline], Outcome]] = {
    "scratch": lambda chain: _from_scratch(without_augmentation(chain.run), "scratch"),
    "augment": lambda chain: _from_scratch(chain.run, "augment"),
    "fine-tune": _fine_tune,
    "student-alone": _student_alone,
}


def without_augmentation(run: Run) -> Run:
    """The same run, but every training view is the evaluation view and nothing is mixed."""
    return run.changed("transfer", augment="center", mix="none")


def without_weights(run: Run) -> Run:
    """The same run from random weights, none of which is kept as it is."""
    torch.manual_seed(run.config.data.seed)
    base = build(run.base.spec)
    base.freeze_trunk()
    return dataclasses.replace(run.changed("data", weights="none"), base=base)


_LESS: Mapping[str, Callable[[Run], Run]] = {
    "no-augmentation": without_augmentation,
    "no-transfer": without_weights,
}


def _less(run: Run, name: str, change: Callable[[Run], Run], *, rounds: bool) -> Climbed:
    """The student of a changed chain, in a folder within the run's: same split, plan and seed."""
    run.console.say(f"{name}:")
    folder = RunFolder(run.folder.path / name)
    folder.claim({"command": "ladder", "arm": name, "settings": run.config.to_dict()})
    chain = Pipeline(change(dataclasses.replace(run, folder=folder, notes=[])))
    teach(chain, self_training=rounds)
    stage = teach_student(chain, [chain.teacher.outcome.model])
    total = sum(stage.seconds for stage in chain.finished)
    return Climbed(stage, total, total)


def _no_self_train(chain: Pipeline, done: Mapping[str, Climbed]) -> Climbed:
    """A student of the teacher before the rounds; where none was accepted, it is the student."""
    run = chain.run
    before = [stage for stage in chain.teachers if not is_round(stage)][-1]
    if before is chain.teachers[-1] and "student" in done:
        return done["student"]
    model = before.outcome.model
    stage = chain.arm("no-self-train", lambda: student.distill(run, [model], run.plan.student))
    first = sum(s.seconds for s in chain.finished if s.name in ("probe", "transfer"))
    return Climbed(stage, stage.seconds, first + stage.seconds)
