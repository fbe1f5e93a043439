"""The arms of a ladder: a chain's stages, what they are compared with, the chain less a part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tutelage.chain import pipeline, stages, student, trunk
from tutelage.chain.pipeline import Finished, Pipeline
from tutelage.chain.plan import MOST_TRANSFER_STEPS, Plan, Work
from tutelage.chain.runs import Run
from tutelage.chain.stages import Outcome, Task
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
        pipeline.teach(chain, rounds=rounds)
        done = _of_teachers(chain, rounds=rounds)
    for name, train in _SINGLE.items():
        if name in arms:
            stage = chain.arm(name, lambda train=train: train(chain))  # type: ignore[misc]
            done[name] = Climbed(stage, stage.seconds, stage.seconds)
    spent = sum(stage.seconds for stage in chain.finished)
    if "student" in arms:
        stage = pipeline.student_stage(chain, chain.teacher.outcome.model)
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


def _labels_alone(run: Run) -> Task:
    """All labels, no unlabelled images, and no fold that a training is repeated on."""
    task = run.task
    return dataclasses.replace(task, folds=task.folds[:1], pool=task.pool[:0])


def _fine_tune(chain: Pipeline) -> Outcome:
    """The trunk trained on the labels, from a plain head; nothing is judged."""
    run, task = chain.run, _labels_alone(chain.run)
    plain = {"metric": "plain", "strength": stages.PROBE_STRENGTH}
    heads = stages.fit_chain_heads(task, chain.frozen, plain, run.config, [None])
    work = fine_tune_work(run.plan)
    return trunk.train_trunk(run.shop, task, run.base, heads, [None], work, 0, "fine-tune")


def _from_scratch(run: Run, name: str) -> Outcome:
    """As many steps as fine-tuning from random weights, all layers at the rate of the head."""
    run, task = without_weights(run), _labels_alone(run)
    rate = run.config.transfer.lr_head
    even = run.config.changed("transfer", lr_trunk=rate, layer_decay=1.0)
    run = dataclasses.replace(run, config=even)
    empty = Head(torch.zeros_like(run.base.head.weight), torch.zeros_like(run.base.head.bias))
    work = fine_tune_work(run.plan)
    return trunk.train_trunk(run.shop, task, run.base, [empty], [None], work, 0, name)


def _student_alone(chain: Pipeline) -> Outcome:
    run = chain.run
    return student.train_alone(run.shop, run.task, run.base, run.plan.student)


_SINGLE: Mapping[str, Callable[[Pipeline], Outcome]] = {
    "scratch": lambda chain: _from_scratch(without_augmentation(chain.run), "scratch"),
    "augment": lambda chain: _from_scratch(chain.run, "augment"),
    "fine-tune": _fine_tune,
    "student-alone": _student_alone,
}


def without_augmentation(run: Run) -> Run:
    """The same run, but every training view is the evaluation view and nothing is mixed."""
    plain = run.config.changed("transfer", augment="center", mix="none")
    return dataclasses.replace(run, config=plain)


def without_weights(run: Run) -> Run:
    """The same run from random weights, none of which is kept as it is."""
    torch.manual_seed(run.config.data.seed)
    base = build(run.base.spec)
    base.freeze_trunk()
    return dataclasses.replace(run, base=base, config=run.config.changed("data", weights="none"))


_LESS: Mapping[str, Callable[[Run], Run]] = {
    "no-augmentation": without_augmentation,
    "no-transfer": without_weights,
}


def _less(run: Run, name: str, change: Callable[[Run], Run], *, rounds: bool) -> Climbed:
    """The student of a changed chain, in a folder within the run's: same split, plan and seed."""
    run.console.say(f"{name}:")
    folder = RunFolder(run.folder.path / name)
    folder.claim({"command": "ladder", "arm": name, "settings": run.config.to_dict()})
    try:
        chain = Pipeline(change(dataclasses.replace(run, folder=folder, notes=[])))
        pipeline.teach(chain, rounds=rounds)
        stage = pipeline.student_stage(chain, chain.teacher.outcome.model)
    finally:
        folder.unlock()
    total = sum(stage.seconds for stage in chain.finished)
    return Climbed(stage, total, total)


def _no_self_train(chain: Pipeline, done: Mapping[str, Climbed]) -> Climbed:
    """A student of the teacher before the rounds; where none was accepted, it is the student."""
    run = chain.run
    before = [stage for stage in chain.teachers if not is_round(stage)][-1]
    if before is chain.teachers[-1] and "student" in done:
        return done["student"]
    model = before.outcome.model
    stage = chain.arm(
        "no-self-train", lambda: student.distill(run.shop, run.task, model, run.plan.student)
    )
    first = sum(s.seconds for s in chain.finished if s.name in ("probe", "transfer"))
    return Climbed(stage, stage.seconds, first + stage.seconds)
