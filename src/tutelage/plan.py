"""The planner: what fits into the minutes, decided before the work and pinned in the run folder.

The choices are steps of a ladder (sizes, views, numbers of steps), not continuous, and the speed
they rest on is measured once per machine: the same command plans the same work again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.config import RunConfig, Trunk
from tutelage.machine import Speed

SIZES = (224, 192, 160, 128, 96)
STEPS = (
    3000,
    2400,
    2000,
    1600,
    1200,
    1000,
    800,
    600,
    500,
    400,
    300,
    240,
    200,
    160,
    120,
    90,
    60,
    40,
)
FRACTIONS = (0.4, 0.6, 0.8, 1.0)  # round by round, of what the teacher is expected to get right
FOLDS = 4  # of the labels, that choices are made on
JUDGED_FOLDS = 2  # of them, on which a stage that trains the trunk is repeated to be judged
OVERHEAD_S = 35.0  # imports, decoding, export and its check, latency, report
SAFETY = 0.85  # of the budget is planned for: the rest is for a machine that others use too
LOOKS_SHARE = 0.4  # of the planned time, at most, goes into features and test figures
ENOUGH_PASSES = 5000  # images a student must see before larger views are worth their time
MOST_EPOCHS = 60  # of the student
MOST_TRANSFER_STEPS = 400  # on labels alone
STUDENT_BATCH = 32
TRAINED_BATCH = 64
TRAINED_SIZE = 128  # side in pixels at most, where the trunk is trained
# What a search for the strong view may look at; tune reads it, the planner counts it.
TUNE_SIZE = 128  # side in pixels at most
TUNE_POOL = 300
TUNE_LABELED = 60
TUNE_VIEWS = 4  # of each labelled image and candidate
TUNE_GRID: tuple[dict[str, Any], ...] = (
    {"augment": "none"},
    {"augment": "trivialaugment"},
    *({"num_ops": n, "magnitude": m} for n in (1, 2, 3) for m in (4, 9, 14, 20, 27)),
)
TUNE_CROPS = (0.1, 0.2, 0.6, 0.85)  # least area of the crop, tried for the best of the grid
TUNE_REFINED = 2  # how many those are
TUNE_FINALISTS = 3  # candidates that are checked on folds of the labels, besides the default
TUNE_MOST = len(TUNE_GRID) + TUNE_REFINED * len(TUNE_CROPS)  # candidates; the grid has the default
# Measured on two CPU cores with EfficientNet-lite0:
HEAD_FIT_S = 6e-5  # seconds per image, view, chain and round of fitting a head
VIEW_MS = 0.3  # milliseconds of making one strong, mixed 160-pixel view
TUNE_CANDIDATE_S = 0.3  # seconds of a candidate's figures, and its share of the folds
TEACHER_COST = 0.65  # of a full training step, with the first stages frozen
STUDENT_COST = 0.5  # the same for the cut student


@dataclass(frozen=True)
class Work:
    """One training: which trunk, how long, on views of which size.

    Attributes:
        trunk: "frozen" fits a head on features; "trained" and "online" train the trunk.
        steps: of the optimiser.
        batch_size: images a step.
        size: side of the views in pixels.
        fraction: of the pool images that the teacher is expected to get right, how many are
            accepted.
        frozen_stages: first stages of a trained trunk that stay as they are.
    """

    trunk: Trunk
    steps: int = 0
    batch_size: int = 32
    size: int = 0
    fraction: float = 1.0
    frozen_stages: int = 0


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        minutes: the budget.
        size: side in pixels of the views of the frozen trunk.
        views: views per image in the feature bank.
        folds: folds of the labels that choices are made on.
        judged_folds: folds on which a trained (not frozen) stage is repeated to be judged.
        transfer: the transfer stage.
        rounds: the rounds of self-training.
        student: the distilled student.
        estimated_seconds: what the planner expects of the machine.
    """

    minutes: float
    size: int
    views: int
    folds: int
    judged_folds: int
    transfer: Work
    rounds: tuple[Work, ...]
    student: Work
    estimated_seconds: float


@dataclass(frozen=True)
class Amounts:
    """How much there is of everything the planner counts."""

    labeled: int
    pool: int
    judged: int
    test: int
    canvas: int


def default_minutes(images: int) -> float:
    """3.5 minutes, plus 1 per 1,000 training images, at most 12."""
    return min(12.0, 3.5 + images / 1000)


def make_plan(
    config: RunConfig, amounts: Amounts, speed: Speed, native_size: int, *, fixed: bool = False
) -> Plan:
    """Choose resolution, trunk, rounds and steps that fit the budget.

    Args:
        config: what the user fixed stays fixed.
        amounts: images in each role.
        speed: of the teacher's architecture on this machine.
        native_size: the size the pretrained weights were made for.
        fixed: the architecture takes no other size.
    """
    images = amounts.labeled + amounts.pool
    minutes = config.data.minutes or default_minutes(images)
    budget = minutes * 60 * SAFETY - OVERHEAD_S
    largest = min(native_size, max(96, 4 * amounts.canvas))  # beyond is only interpolation
    search = 0.0
    if config.transfer.augment == "auto" and amounts.pool:
        search = tune_seconds(amounts, speed, native_size if fixed else min(TUNE_SIZE, native_size))
    budget -= search

    def looks(size: int, views: int) -> float:
        count = images * views + amounts.judged + 2 * amounts.test
        return count * (speed.forward_ms(size) + _view_ms(size, speed)) / 1e3

    sizes = [size for size in SIZES if size <= largest] or [largest]
    if fixed or config.data.input_size:
        sizes = [config.data.input_size or native_size]
    size = _first(sizes, lambda s: looks(s, 2) <= LOOKS_SHARE * budget)
    views = _first((4, 2), lambda v: looks(size, v) <= LOOKS_SHARE * budget)
    fractions: tuple[float, ...] = FRACTIONS if amounts.pool else ()
    more = (config.self_train.rounds or 0) - len(fractions)
    fractions += FRACTIONS[-1:] * (more if amounts.pool else 0)
    spent = looks(size, views)
    spent += HEAD_FIT_S * images * views * (1 + FOLDS) * len(fractions)
    left = max(0.0, budget - spent)

    trained_size = size if len(sizes) == 1 else min(size, TRAINED_SIZE)
    trained = _trained(config, amounts, speed, trained_size, left / 2)
    repeats = 1 + JUDGED_FOLDS
    if trained is not None:
        left -= repeats * _trained_seconds(trained, speed)
    student = _student([s for s in sizes if s <= size], speed, images, left)
    alone = config.transfer.trunk == "trained" or amounts.pool == 0 or speed.device == "cuda"
    transfer = Work("frozen", size=size)
    if trained is not None and alone:
        steps = min(trained.steps, MOST_TRANSFER_STEPS)
        transfer = dataclasses.replace(trained, trunk="trained", steps=steps)
    rounds = [Work("frozen", size=size, fraction=fraction) for fraction in fractions]
    if trained is not None and amounts.pool:
        rounds.append(trained)
    if config.self_train.rounds is not None:
        kept = config.self_train.rounds
        rounds = rounds[len(rounds) - min(kept, len(rounds)) :]
    estimate = OVERHEAD_S + search + spent + _student_seconds(student, speed, size)
    estimate += sum(repeats * _trained_seconds(w, speed) for w in (*rounds, transfer))
    return Plan(
        minutes=minutes,
        size=size,
        views=views,
        folds=FOLDS,
        judged_folds=JUDGED_FOLDS,
        transfer=transfer,
        rounds=tuple(rounds),
        student=student,
        estimated_seconds=round(estimate, 1),
    )


def tune_seconds(amounts: Amounts, speed: Speed, size: int) -> float:
    """What the search for the strong view takes at most."""
    views = TUNE_VIEWS * (1 + TUNE_MOST) + 1
    looks = min(amounts.pool, TUNE_POOL) + min(amounts.labeled, TUNE_LABELED) * views
    return looks * (speed.forward_ms(size) + _view_ms(size, speed)) / 1e3 + (
        TUNE_CANDIDATE_S * TUNE_MOST
    )


def _first(choices: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The first choice that fits, else the last: the cheapest."""
    return next((choice for choice in choices if fits(choice)), choices[-1])


def _view_ms(size: int, speed: Speed) -> float:
    return 0.0 if speed.device == "cuda" else VIEW_MS * (size / 160) ** 2


def _frozen_stages(speed: Speed) -> int:
    """Stages whose weights stay: on a CPU they are half the cost of a step."""
    return 0 if speed.device == "cuda" else 3


def _trained_seconds(work: Work, speed: Speed) -> float:
    """Of training the teacher's trunk."""
    share = 1.0 if speed.device == "cuda" else TEACHER_COST
    step = share * speed.train_ms(work.size) + _view_ms(work.size, speed)
    if work.trunk == "online":
        step *= 2  # weak and strong view
    return work.steps * work.batch_size * step / 1e3


def _student_seconds(work: Work, speed: Speed, teacher_size: int) -> float:
    """Of distilling the student: both models' views, the teacher's forward, and the step."""
    share = 1.0 if speed.device == "cuda" else STUDENT_COST
    step = share * speed.train_ms(work.size) + _view_ms(work.size, speed)
    step += speed.forward_ms(teacher_size)
    if teacher_size != work.size:
        step += _view_ms(teacher_size, speed)
    return work.steps * work.batch_size * step / 1e3


def _student(sizes: Sequence[int], speed: Speed, images: int, left: float) -> Work:
    """The largest views that leave enough passes; then all the steps that fit.

    Args:
        sizes: to choose from, the teacher's first, then smaller ones.
        speed: of the teacher on this machine.
        images: in training.
        left: seconds.
    """
    most_steps = MOST_EPOCHS * images / STUDENT_BATCH

    def steps(size: int) -> int:
        one = _student_seconds(Work("trained", 1, STUDENT_BATCH, size), speed, sizes[0])
        return _first(STEPS, lambda s: s <= min(left / one, most_steps))

    enough = min(ENOUGH_PASSES / STUDENT_BATCH, most_steps)
    size = _first(sizes, lambda s: steps(s) >= enough)
    return Work("trained", steps(size), STUDENT_BATCH, size, frozen_stages=_frozen_stages(speed))


def _trained(
    config: RunConfig, amounts: Amounts, speed: Speed, size: int, left: float
) -> Work | None:
    """A stage that trains the trunk, or None where the time is better spent on the student."""
    if config.transfer.trunk == "frozen":
        return None
    on_gpu = speed.device == "cuda"
    kind: Trunk = "online" if on_gpu and amounts.pool else "trained"
    one = Work(kind, 1, TRAINED_BATCH, size, frozen_stages=_frozen_stages(speed))
    most = left / ((1 + JUDGED_FOLDS) * _trained_seconds(one, speed))
    passes = most * one.batch_size / max(1, amounts.labeled + amounts.pool)
    # Fewer than this moves a pretrained trunk no further than noise.
    if config.transfer.trunk == "auto" and not on_gpu and (most < 150 or passes < 1):
        return None
    return dataclasses.replace(one, steps=_first(STEPS, lambda s: s <= most))
