"""The planner: what fits into the minutes, decided before the work and pinned in the run folder.

The choices are steps of a ladder (sizes, views, numbers of steps), not continuous, and the speed
they rest on is measured once per machine: the same command plans the same work again.
"""

from __future__ import annotations

from dataclasses import dataclass

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
FRACTIONS = (0.3, 0.5, 0.7, 0.9)
OVERHEAD_S = 35.0  # imports, decoding, export and its check, latency, report
SAFETY = 0.8  # of the budget is planned for: the rest is for a machine that others use too
HEAD_FIT_S = 6e-5  # seconds per image, view, chain and round of fitting a head (measured, 2 cores)


@dataclass(frozen=True)
class Work:
    """One training: which trunk, how long, on views of which size."""

    trunk: Trunk
    steps: int = 0
    batch_size: int = 32
    size: int = 0
    fraction: float = 1.0


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
    """3 minutes, plus 1 per 1,000 training images, at most 12."""
    return min(12.0, 3.0 + images / 1000)


def make_plan(config: RunConfig, amounts: Amounts, speed: Speed, native_size: int) -> Plan:
    """Choose resolution, trunk, rounds and steps that fit the budget.

    Args:
        config: what the user fixed stays fixed.
        amounts: images in each role.
        speed: of the teacher's architecture on this machine.
        native_size: the size the pretrained weights were made for.
    """
    images = amounts.labeled + amounts.pool
    minutes = config.data.minutes or default_minutes(images)
    budget = minutes * 60 * SAFETY - OVERHEAD_S
    on_gpu = speed.device == "cuda"
    largest = max(96, 4 * amounts.canvas)  # more pixels than that are only interpolation

    def look(size: int, views: int) -> float:
        looks = images * views + amounts.judged + 2 * amounts.test
        return looks * speed.forward_ms(size) / 1e3

    sizes = [s for s in SIZES if s <= min(largest, native_size)] or [min(largest, native_size)]
    size = config.data.input_size or next(
        (s for s in sizes if look(s, 2) <= 0.3 * budget), sizes[-1]
    )
    views = next((v for v in (8, 6, 4, 2) if look(size, v) <= 0.3 * budget), 2)
    folds = 4
    fractions = FRACTIONS if amounts.pool else ()
    spent = look(size, views)
    spent += HEAD_FIT_S * images * views * (1 + folds) * len(fractions)
    left = max(0.0, budget - spent)

    batch_size = 64 if on_gpu or size <= 128 else 32
    student_work, left = _student(config, speed, size, batch_size, left)
    trained, judged_folds = _trained(config, amounts, speed, min(size, 128), left, on_gpu)
    transfer = Work("frozen", size=size)
    if trained is not None and (amounts.pool == 0 or on_gpu or config.transfer.trunk == "trained"):
        steps = min(trained.steps, 400)
        transfer = Work("trained", steps, trained.batch_size, trained.size)
    rounds = [Work("frozen", size=size, fraction=f) for f in fractions]
    if trained is not None and amounts.pool:
        rounds.append(trained)
    if config.self_train.rounds is not None:
        rounds = rounds[len(rounds) - min(len(rounds), config.self_train.rounds) :]
    estimate = OVERHEAD_S + spent + _seconds(student_work, speed, student=True)
    repeats = 1 + judged_folds
    estimate += sum(repeats * _seconds(work, speed, student=False) for work in (*rounds, transfer))
    return Plan(
        minutes=minutes,
        size=size,
        views=views,
        folds=folds,
        judged_folds=judged_folds,
        transfer=transfer,
        rounds=tuple(rounds),
        student=student_work,
        estimated_seconds=round(estimate, 1),
    )


STUDENT_COST = 0.65  # of the teacher's training step: the cut trunk and its neck (measured)
VIEW_MS = 2.5  # making one 160-pixel view on a CPU core pair (measured)


def _per_image_ms(work: Work, speed: Speed, *, student: bool) -> float:
    views = 0.0 if speed.device == "cuda" else VIEW_MS * (work.size / 160) ** 2
    if student:
        return views + STUDENT_COST * speed.train_ms(work.size) + speed.forward_ms(work.size)
    forwards = 3 if work.trunk == "online" else 1
    return views * forwards + speed.train_ms(work.size) * (2 if work.trunk == "online" else 1)


def _seconds(work: Work, speed: Speed, *, student: bool) -> float:
    return work.steps * work.batch_size * _per_image_ms(work, speed, student=student) / 1e3


def _student(
    config: RunConfig, speed: Speed, size: int, batch_size: int, left: float
) -> tuple[Work, float]:
    """The student's training: half of what is left, all of it where no trunk can be trained."""
    share = 0.9 if config.transfer.trunk == "frozen" else 0.5
    one = Work("trained", 1, batch_size, size)
    most = left * share / _seconds(one, speed, student=True)
    steps = next((s for s in STEPS if s <= most), STEPS[-1])
    work = Work("trained", steps, batch_size, size)
    return work, left - _seconds(work, speed, student=True)


def _trained(
    config: RunConfig, amounts: Amounts, speed: Speed, size: int, left: float, on_gpu: bool
) -> tuple[Work | None, int]:
    """A stage that trains the trunk, or None where the time is better spent on the student."""
    if config.transfer.trunk == "frozen":
        return None, 0
    judged_folds = 2
    kind: Trunk = "online" if on_gpu and amounts.pool else "trained"
    one = Work(kind, 1, 64, size, fraction=1.0)
    most = left / ((1 + judged_folds) * _seconds(one, speed, student=False))
    passes = most * one.batch_size / max(1, amounts.labeled + amounts.pool)
    # Fewer than this moves a pretrained trunk no further than noise (measured on 2 cores).
    if config.transfer.trunk == "auto" and not on_gpu and (most < 150 or passes < 1):
        return None, 0
    steps = next((s for s in STEPS if s <= most), STEPS[-1])
    return Work(kind, steps, one.batch_size, size), judged_folds
