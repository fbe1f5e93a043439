"""The planner: what fits into the minutes, decided before the work and pinned in the run folder.

The choices come from lists (of sizes, views, numbers of steps), and the speed that they rest on is
measured once per machine: the same command plans the same work again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tutelage.chain.machine import Speed
from tutelage.config import WITH_STUDENT, RunConfig, Trunk
from tutelage.heads.bank import CLEAN_VIEWS
from tutelage.models.sizes import fitting_sizes

SIZES = (224, 192, 160, 128, 96)
STUDENT_SIZES = (224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 72)
STEPS = (*range(3000, 1000, -100), *range(1000, 200, -20), *range(200, 35, -5))
ROUNDS = 4  # of self-training on the frozen trunk
FOLDS = 4  # of the labels; choices are made on them
FOLD_STEPS = 0.5  # of a stage that trains the trunk: a fold only shows harm, its model is not used
MIN_JUDGED = 50  # held-out labels; fewer tell nothing that is worth twice the time
BEFORE_S = 15.0  # imports, decoding
AFTER_S = 26.0  # export and its check, latency, test figures, report
# Of the budget, at most, for that: beside other jobs a run rather ends a little late than with a
# student that has hardly learned. Where up to 242 s were kept, it took 34 to 67 s.
AFTER_SHARE = 0.4
OFFERS_S = 12.0  # exporting and timing the students to choose from (EfficientNet-lite0)
SAFETY = 0.95  # share of the budget that is planned; on a slower machine trainings are shortened
LOOKS_SHARE = 0.5  # of the planned time, at most, for features and test figures
MORE_VIEWS_SHARE = 0.25  # the same for more than two views: a large pool varies enough by itself
# Images that a student must see before larger views are worth their time: so many, or so many times
# those there are.
ENOUGH_PASSES, ENOUGH_EPOCHS = 3000, 4
LEAST_STUDENT_SHARE = 0.55  # of its teacher's side: smaller views lose more than steps gain
MOST_EPOCHS = 60  # of training a student
MOST_TRAINED_EPOCHS = 20  # of training a teacher's trunk
MOST_TRANSFER_STEPS = 400  # of training on labels alone
BATCH = 32  # images in a step
STUDENT_IMAGES = 1000  # at most, that its head and its temperature are fitted to
STUDENT_LOOKS = 4.0  # forwards of a teacher at each, or what takes as long
KNOWN_LOOKS = 5.0  # forwards of the student, where the teacher's answers are known
MATCHED_IMAGES = 500  # pool images, at most, on which a temperature or threshold is matched
UNJUDGED_LOOKS = 3  # at each, to match both where no label judges a trained round
ONLINE_BATCH = 64
TRAINED_SHARE = 0.6  # of the time that is left after the frozen rounds; the rest is the student's
TRAINED_SIZE = 160  # side in pixels, at most, of the views on which a trunk is trained
TRAINED_SCALE = 3  # that side is at most so many times the canvas's
LEAST_TRAINED = 2000  # images in all steps; fewer move a pretrained trunk no further than noise
LEGS = (3, 6)  # least and most, each about a pass over the pool, which is relabelled in between
LABELED_SHARE = (0.125, 0.5)  # of a batch, and of the weight, at least and at most, for true labels
LABEL_PASSES = 30  # over the true labels, within those shares: few steps must not miss them
TRANSFER_SHARE = 0.3  # of a trained round's time, for training on the labels before it
# Measured on two CPU cores with EfficientNet-lite0:
HEAD_FIT_S = 6e-5  # seconds per image, view, fold and round of fitting a head
VIEW_MS = 0.3  # milliseconds of making one strong, mixed 160-pixel view
# One image through an exported model takes as long as the square of the view's side, the network
# alone, and CALL + RESIZE * canvas^2 pixels more:
CALL = 1600.0
RESIZE = 0.09
STUDENT_TIME = 0.67  # of its teacher's time on the same view: it keeps the large first maps
FROZEN_COST = 0.65  # of a full training step, with the first stages frozen
STUDENT_COST = 0.5  # the same for the cut student, of a full step of its teacher


@dataclass(frozen=True)
class Work:
    """One training: which trunk, how long, on views of which size."""

    trunk: Trunk  # "frozen" fits a head on features; "trained" and "online" train the trunk
    steps: int = 0  # of the optimiser
    batch_size: int = 32  # images in a step
    size: int = 0  # side of the views in pixels
    frozen_stages: int = 0  # first stages of a trained trunk that stay as they are
    revisions: int = 0  # how often, at equal distances, the pool is labelled anew meanwhile
    labeled_share: float = LABELED_SHARE[0]  # of a batch, and so of the weight: for true labels
    restarts: bool = False  # the learning rates start anew whenever the pool is labelled anew
    seconds: float = 0.0  # that all trainings of the stage take on the machine as measured

    @property
    def labeled_per_batch(self) -> int:
        """True labels in a batch, at least one."""
        return max(1, round(self.labeled_share * self.batch_size))


@dataclass(frozen=True)
class RunPlan:
    """What a run will do."""

    minutes: float  # the budget
    size: int  # side in pixels of the frozen trunk's views
    views: int  # views per image in the feature bank
    folds: int  # folds of the labels that choices are made on
    judged_folds: int  # folds on which a trained (not frozen) stage is repeated to be judged
    transfer: Work  # the transfer stage
    rounds: tuple[Work, ...]  # the rounds of self-training
    student: Work  # the distilled student
    estimated_seconds: float  # what the planner expects of the machine
    after_seconds: float = AFTER_S  # of them those for exports, test figures and the report
    frozen_seconds: float = 0.0  # for the frozen trunk's features and its heads
    lesson_seconds: float = 0.0  # for what the student is told before it is trained


@dataclass(frozen=True)
class Amounts:
    """How much there is of everything the planner counts."""

    labeled: int  # images with a label to learn from
    pool: int  # images without one
    judged: int  # images that stages are compared on
    test: int  # images that are looked at once, at the end
    canvas: int  # side in pixels of the stored images
    folds: int = FOLDS  # how many times a stage is repeated to be judged; 0 with a val split
    teachers: int = 1  # how many teachers a student has
    trunks: int = 1  # how many trunks look at each image, each with a head of its own


@dataclass(frozen=True)
class StudentCost:
    """What a student costs, as shares of its teacher's time for the same view, and its sizes."""

    forward: float  # of the teacher's time for a forward
    train: float  # of the teacher's time for a full training step
    size: int  # side in pixels of the views that it was made for
    step: int | None  # sides are multiples of this; None: it takes no other than ``size``


def default_minutes(images: int) -> float:
    """3.5 minutes, plus 1 per 1,000 training images, at most 12."""
    return min(12.0, 3.5 + images / 1000)


def make_plan(
    config: RunConfig,
    amounts: Amounts,
    speed: Speed,
    native_size: int,
    *,
    step: int | None = 1,
    command: str = "run",
    student_size: int | None = None,
    student: StudentCost | None = None,
    lost: float = 0.0,
) -> RunPlan:
    """Choose resolution, trunk, rounds and steps that fit the budget.

    Sides of the views, in pixels, are multiples of ``step``; with None there is none but
    ``native_size``, which the pretrained weights were made for. ``student_size`` is chosen if it
    is None, and ``student`` is then one that is cut from the teacher. Decoding took ``lost``
    seconds more than is usual.
    """
    with_student = command in WITH_STUDENT
    minutes = config.data.minutes or default_minutes(amounts.labeled + amounts.pool)
    after = min(AFTER_S * speed.busy, AFTER_SHARE * minutes * 60)
    before = lost + after + BEFORE_S
    if with_student and config.distill.limited:
        before += OFFERS_S * speed.busy
    budget = minutes * 60 * SAFETY - before
    sizes = [sharpest_size(config, native_size, amounts.canvas, step)]
    if step is not None and not config.data.input_size:
        smaller = [size for size in SIZES if size <= sizes[0]]
        sizes = fitting_sizes(smaller or sizes, step)
    most, more = LOOKS_SHARE * budget, MORE_VIEWS_SHARE * budget
    size = _first(sizes, lambda s: _look_seconds(amounts, speed, s, 2) <= most)
    views = _first((4, 2), lambda v: _look_seconds(amounts, speed, size, v) <= more)
    asked = 0 if command in ("transfer", "distill") else config.self_train.rounds
    rounds = asked != 0 and amounts.pool > 0
    judged_folds = int(amounts.folds > 0 and amounts.judged / amounts.folds >= MIN_JUDGED)
    left, transfer, trained = max(0.0, budget), None, None
    spent = seconds = 0.0
    teacher_size = min(native_size, sizes[0])  # that of a given teacher
    # Of several trunks the first alone is trained, and may be the teacher then; all count alike.
    first = dataclasses.replace(speed, forward=speed.forward / amounts.trunks)
    unjudged = False
    if command != "distill":
        fits = (1 + amounts.folds) * (ROUNDS if rounds else 1) * amounts.trunks
        heads = HEAD_FIT_S * speed.busy * (amounts.labeled + amounts.pool) * views * fits
        spent = _look_seconds(amounts, speed, size, views) + heads
        before, left = before + spent, max(0.0, budget - spent)
        largest = min(size, TRAINED_SIZE, max(96, TRAINED_SCALE * amounts.canvas))
        trained_size = _first(sizes, lambda s: s <= largest)
        keeps_detail = trained_size >= min(size, amounts.canvas)
        share = TRAINED_SHARE if with_student else 1.0
        transfer, trained, seconds = _trainings(
            config, amounts, first, trained_size, judged_folds, keeps_detail, rounds, share * left
        )
        # A round that nothing judges becomes the teacher; a judged one may be rejected.
        unjudged = trained is not None and amounts.folds > 0 and not judged_folds
        teacher_size = trained_size if unjudged else size
    trainings = [work for work in (transfer, trained) if work]
    train = 1.0 if speed.device == "cuda" else STUDENT_COST
    cost = student or StudentCost(STUDENT_TIME / amounts.trunks, train, sizes[0], step)
    if trainings:  # its teacher may be the first trunk alone, of whose time it takes more
        cost = dataclasses.replace(cost, forward=cost.forward * amounts.trunks)
    distilled, taught = _student(
        amounts,
        first if unjudged else speed,
        teacher_size,
        min([teacher_size, *(work.size for work in trainings)]),
        cost,
        known=command != "distill" and trained is None,
        given=student_size or config.data.input_size,
        left=left - seconds,
    )
    if not with_student:
        distilled, taught = dataclasses.replace(distilled, seconds=0.0), 0.0
    last = [trained] if trained else []  # counted among those that were asked for
    frozen = [Work("frozen", size=size)] * (ROUNDS if asked is None else asked - len(last))
    return RunPlan(
        minutes=minutes,
        size=size,
        views=views,
        folds=FOLDS,
        judged_folds=judged_folds,
        transfer=transfer or Work("frozen", size=size),
        rounds=(*frozen, *last) if rounds else (),
        student=distilled,
        estimated_seconds=round(before + seconds + taught, 1),
        after_seconds=round(after, 1),
        frozen_seconds=round(spent, 1),
        lesson_seconds=round(max(0.0, taught - distilled.seconds), 1),
    )


def _first(choices: Sequence[int], fits: Callable[[int], bool]) -> int:
    """The first choice that fits, else the last: the cheapest."""
    return next((choice for choice in choices if fits(choice)), choices[-1])


def sharpest_size(config: RunConfig, native_size: int, canvas: int, step: int | None) -> int:
    """Side in pixels of the views where time is no matter: the given one, or the native one."""
    if step is None or config.data.input_size:
        return config.data.input_size or native_size
    largest = min(native_size, max(96, 4 * canvas))  # beyond it is only interpolation
    return fitting_sizes([largest], step)[0]


def _look_seconds(amounts: Amounts, speed: Speed, size: int, views: int) -> float:
    """Seconds that the features of all images and the test figures take."""
    images = amounts.labeled + amounts.pool
    judged = 0 if amounts.folds else CLEAN_VIEWS * amounts.judged  # with folds they are labelled
    count = images * views + judged + 2 * amounts.test
    return count * (speed.forward_ms(size) + _view_ms(size, speed)) / 1e3


def _view_ms(size: int, speed: Speed) -> float:
    return 0.0 if speed.device == "cuda" else VIEW_MS * speed.busy * (size / 160) ** 2


def _frozen_stages(speed: Speed) -> int:
    """Stages whose weights stay: on a CPU they are half the cost of a step."""
    return 0 if speed.device == "cuda" else 3


# --- training the teacher's trunk


def _trainings(
    config: RunConfig,
    amounts: Amounts,
    speed: Speed,
    size: int,
    judged_folds: int,
    keeps_detail: bool,
    rounds: bool,
    left: float,
) -> tuple[Work | None, Work | None, float]:
    """Training on labels alone, a round of self-training, and the seconds of both.

    On a CPU, if rounds follow, the former gets time only where the user asks for it. All folds
    repeat it: it is compared with the head on the frozen trunk, and rounds need its answers on
    each. Where views that a CPU can train on show less than those of the frozen trunk
    (``keeps_detail``), no round trains it: on solar cells that lost 4 points, on ants and bees
    nothing was gained (benchmarks/log.md).
    """
    transfer, trained, seconds = None, None, 0.0
    asked, cuda = config.transfer.trunk, speed.device == "cuda"
    longest = partial(_longest, asked, amounts, speed, size)
    passes = MOST_TRAINED_EPOCHS * amounts.labeled
    if not rounds or asked == "trained" or cuda:
        most = min(MOST_TRANSFER_STEPS, passes // BATCH)
        transfer = longest(
            "trained", TRANSFER_SHARE * left if rounds else left, amounts.folds, most
        )
    if transfer is not None:
        seconds = _stage_seconds(amounts, speed, transfer, amounts.folds)
    if rounds and (asked != "auto" or cuda or keeps_detail):
        online = asked == "online" or (asked == "auto" and cuda)
        most = (passes + MOST_TRAINED_EPOCHS * amounts.pool) // BATCH
        trained = (
            longest("online", left - seconds, judged_folds, STEPS[0])
            if online
            else longest("trained", left - seconds, judged_folds, most, pool=amounts.pool)
        )
    if trained is not None:
        seconds += _stage_seconds(amounts, speed, trained, judged_folds)
    return transfer, trained, seconds


def _longest(
    asked: str,
    amounts: Amounts,
    speed: Speed,
    size: int,
    trunk: Trunk,
    left: float,
    folds: int,
    most: int,
    *,
    pool: int = 0,
) -> Work | None:
    """All the steps that fit, or None if those are too few and the user did not ask for it.

    Between its legs a ``pool`` of so many images is labelled anew.
    """
    if asked == "frozen":
        return None
    batch = ONLINE_BATCH if trunk == "online" else BATCH
    for steps in STEPS:
        share = labeled_share(amounts, steps * batch) if pool else LABELED_SHARE[0]
        passes = round((1 - share) * steps * batch / pool) if pool else 0
        work = Work(
            trunk,
            steps,
            batch,
            size,
            frozen_stages=_frozen_stages(speed),
            revisions=min(max(passes, LEGS[0]), LEGS[1]) - 1 if pool else 0,
            labeled_share=share,
            # With few labels every leg has to move away from its teacher, so it is a round of its
            # own; more of them lead, and short schedules only slow them down (benchmarks/log.md).
            restarts=pool > 0 and share == LABELED_SHARE[0],
        )
        seconds = round(_stage_seconds(amounts, speed, work, folds), 1)
        work = dataclasses.replace(work, seconds=seconds)
        if steps <= most and seconds <= left:
            return work if asked == trunk or steps * batch >= LEAST_TRAINED else None
    return work if asked == trunk else None


def _stage_seconds(amounts: Amounts, speed: Speed, work: Work, folds: int) -> float:
    """Seconds of a stage that trains the trunk and is repeated on ``folds``."""
    look = speed.forward_ms(work.size) / 1e3
    share = 1.0 if speed.device == "cuda" else FROZEN_COST
    step_ms = share * speed.train_ms(work.size) + _view_ms(work.size, speed)
    if work.trunk == "online":
        step_ms = 2 * step_ms  # weak and strong view
    seconds = work.steps * work.batch_size * step_ms / 1e3
    seconds += work.revisions * pool_share(work, amounts.pool) * look
    seconds *= 1 + FOLD_STEPS * folds
    answers = amounts.judged * (folds / amounts.folds if amounts.folds else 1)
    if work.trunk == "trained" and not work.revisions:
        answers += (1 + folds) * amounts.pool  # the rounds after it ask for them
    seconds += CLEAN_VIEWS * answers * look
    if amounts.folds and not folds:
        seconds += UNJUDGED_LOOKS * min(MATCHED_IMAGES, amounts.pool) * look
    return seconds


def labeled_share(amounts: Amounts, images: int) -> float:
    """The share of a training on ``images`` in all that goes to the true labels.

    Each is seen ``LABEL_PASSES`` times, within ``LABELED_SHARE``, and as often as any image.
    """
    least, most = LABELED_SHARE
    wanted = LABEL_PASSES * amounts.labeled / images
    frequent = amounts.labeled / (amounts.labeled + amounts.pool)
    return max(min(max(wanted, least), most), frequent)


def pool_share(work: Work, pool: int) -> int:
    """Pool images that a training of ``1 + revisions`` legs learns from: each leg sees all once."""
    images = work.steps // (1 + work.revisions) * work.batch_size
    return min(pool, round((1 - work.labeled_share) * images))


# --- the student


def measured_cost(student: Speed, teacher: Speed, size: int, step: int | None) -> StudentCost:
    """The cost of a student that is no cut of its teacher, from the measured speeds of both."""
    frozen = 1.0 if student.device == "cuda" else FROZEN_COST
    return StudentCost(
        forward=student.forward_ms(size) / teacher.forward_ms(size),
        train=frozen * student.train_ms(size) / teacher.train_ms(size),
        size=size,
        step=step,
    )


def tells_enough(labeled: int, pool: int) -> bool:
    """Whether a student's head can be fitted to answers about the pool alone."""
    return pool >= max(1, min(STUDENT_IMAGES, labeled))


def offered_sizes(plan: RunPlan, step: int | None) -> list[int]:
    """Sides of the views, falling, at which students may be offered in place of the planned one."""
    if step is None:
        return [plan.student.size]
    teachers = min(work.size for work in (plan.transfer, *plan.rounds))
    largest = max(plan.student.size, teachers)
    smaller = fitting_sizes((size for size in STUDENT_SIZES if size <= largest), step)
    return sorted({plan.student.size, *smaller}, reverse=True)


def half_time(teacher_size: int, canvas: int, share: float = STUDENT_TIME) -> float:
    """Side in pixels at which a student's latency is half its teacher's, all included.

    ``share`` is what its network takes of its teacher's time on the same view.
    """
    fixed = CALL + RESIZE * canvas**2
    return math.sqrt(max(0.0, (teacher_size**2 - fixed) / 2 / share))


def _student(
    amounts: Amounts,
    speed: Speed,
    teacher_size: int,
    smallest: int,
    cost: StudentCost,
    *,
    known: bool,
    given: int | None,
    left: float,
) -> tuple[Work, float]:
    """The student's training that fits into ``left`` seconds, and what all of its stage takes.

    ``speed`` is its teacher's, and ``teacher_size`` the side of that one's views; the ``smallest``
    of all stages' must not be faster than the student's. ``known`` says whether its teacher's
    answers about the pool are kept. The side of its views is ``given``, or else the largest that
    leaves enough passes; then come all steps that fit.
    """
    images = amounts.labeled + amounts.pool
    if given or cost.step is None:
        sizes = [given or cost.size]
    else:  # those that keep detail, at half of its teacher's time, or nearly
        least, most = (
            LEAST_STUDENT_SHARE * smallest,
            half_time(smallest, amounts.canvas, cost.forward),
        )
        detailed = [size for size in STUDENT_SIZES if least <= size <= smallest] or [smallest]
        quick = [size for size in detailed if size <= most] or detailed[-1:]
        sizes = fitting_sizes(quick, cost.step)
    # Its head and temperature are fitted to its teachers' answers. Where these are known it looks
    # itself; else it is they who are asked.
    if known and tells_enough(amounts.labeled, amounts.pool):
        look = cost.forward * speed.forward_ms(sizes[0]) + _view_ms(sizes[0], speed)
        looks = KNOWN_LOOKS * min(STUDENT_IMAGES, amounts.pool) * look / 1e3
    else:
        look = speed.forward_ms(teacher_size) + _view_ms(teacher_size, speed)
        looks = STUDENT_LOOKS * min(STUDENT_IMAGES, images) * amounts.teachers * look / 1e3

    def step_seconds(size: int) -> float:
        """The models' views, the teachers' forwards, and the student's own step."""
        step = cost.train * speed.train_ms(size) + _view_ms(size, speed)
        step += amounts.teachers * speed.forward_ms(teacher_size)
        if teacher_size != size:
            step += _view_ms(teacher_size, speed)
        return BATCH * step / 1e3

    def steps(size: int) -> int:
        most = min((left - looks) / step_seconds(size), MOST_EPOCHS * images / BATCH)
        return _first(STEPS, lambda s: s <= most)

    enough = min(ENOUGH_PASSES, ENOUGH_EPOCHS * images) / BATCH
    size = _first(sizes, lambda s: steps(s) >= enough)
    seconds = steps(size) * step_seconds(size)
    work = Work(
        "trained",
        steps(size),
        BATCH,
        size,
        frozen_stages=_frozen_stages(speed),
        labeled_share=labeled_share(amounts, steps(size) * BATCH),
        seconds=round(seconds, 1),
    )
    return work, looks + seconds
