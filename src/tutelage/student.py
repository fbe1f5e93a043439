"""The distilled student: cut from the teacher or built by name, warmed up, trained, calibrated."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from tutelage import stages
from tutelage.augment import Center
from tutelage.bank import bank_plans, look, make_bank
from tutelage.calibrate import fit_temperature, softmax
from tutelage.config import RunConfig
from tutelage.errors import TutelageError
from tutelage.loader import Loader, Rows, Views
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.models.forward import Forward
from tutelage.models.zoo import count_stages, create, cut
from tutelage.plan import Work
from tutelage.probe import fit_head, plain_metric
from tutelage.stages import Beliefs, Outcome, Task, Workshop
from tutelage.steps.distillation import DistillationStep

SHARE = 0.25  # of the teacher's parameters that a cut student may have
NECKS = (256, 1024)  # least and greatest width of a cut student's 1x1 convolution
WARM_IMAGES = 500
WARM_VIEWS = 2


def create_student(config: RunConfig, teacher: Classifier) -> Classifier:
    """The student before it learns: cut from the teacher's trunk, or a timm architecture.

    Raises:
        TutelageError: the architecture cannot be cut there, or is not known.
    """
    name = config.distill.student
    if name == "cut" or name.startswith("cut:"):
        if config.distill.student_weights is not None:
            raise TutelageError("--student-weights is for a named student, not for one that is cut")
        count = name[4:]
        if not count:
            return _quarter(teacher)
        if not count.isdigit():
            raise TutelageError(f"--student {name}: expected cut, cut:N or a timm architecture")
        return _with_neck(teacher, int(count), _neck_width(teacher, int(count)))
    student = create(
        name,
        teacher.spec.classes,
        canvas=teacher.spec.canvas,
        input_size=config.data.input_size,
        weights=config.distill.student_weights,
    )
    student.unfreeze_trunk()
    return student


def _quarter(teacher: Classifier) -> Classifier:
    """The deepest cut that, with a neck, has at most a quarter of the teacher's parameters.

    Depth before width: a later stage's features are worth more than a wider neck.
    """
    for count in range(count_stages(teacher), 1, -1):
        width = _neck_width(teacher, count)
        if width >= NECKS[0]:
            return _with_neck(teacher, count, width)
    return _with_neck(teacher, 1, _neck_width(teacher, 1))


def _with_neck(teacher: Classifier, count: int, width: int) -> Classifier:
    return cut(teacher, count, neck=min(max(width, NECKS[0]), NECKS[1]))


def _neck_width(teacher: Classifier, count: int) -> int:
    """The neck that uses up a cut student's share of the teacher's parameters; maybe negative."""
    bare, classes = cut(teacher, count), len(teacher.spec.classes)
    room = SHARE * count_parameters(teacher) - count_parameters(bare.trunk) - classes
    width = int(room / (bare.num_features + 2 + classes))  # convolution, norm, head
    return width - width % 8


def distill(shop: Workshop, task: Task, teacher: Classifier, work: Work) -> Outcome:
    """Stage "student": mimic the calibrated teacher on strong views of labels and pool.

    Raises:
        TutelageError: as ``create_student``; or the training diverged.
    """
    config = shop.config
    student = create_student(config, teacher)
    student.spec = dataclasses.replace(student.spec, input_size=work.size)
    student.freeze_stages(work.frozen_stages)
    if student.spec.cut is not None:
        # Statistics of strong views mislead a model that will see plain ones, and so few steps
        # cannot average them out: the pretrained ones stay (docs/log.md).
        _measure_neck(task, student)
        student.freeze_norms()
    _warm_head(shop, task, student, teacher)
    student.set_noise(config.transfer.drop_rate, 0.0)
    forward = Forward(teacher.to(shop.device), "logits")
    temperature = teacher.spec.temperature

    def calibrated(images: Tensor) -> Tensor:
        return forward(images) / temperature

    step = DistillationStep(
        calibrated, temperature=config.distill.temperature, alpha=config.distill.alpha
    )
    rate = config.distill.lr_student
    settings = stages.train_config(config, work, lr_trunk=rate, lr_head=rate, layer_decay=1.0)
    loader = _loader(shop, task, work, teacher.spec.input_size)
    student = stages.fit(shop, student, step, loader, settings, "student")
    teacher.cpu()
    known = task.pool if len(task.pool) else task.labeled
    stages.set_temperature(student, _match_temperature(shop, task, student, teacher, known))
    return Outcome(student, _held_out(shop, task, student), frozen=False)


def _held_out(shop: Workshop, task: Task, student: Classifier) -> Beliefs:
    """The student's answers to a ``val`` split; folds of the labels it has all learned from."""
    unseen = task.chains[0].judges
    judged = np.full((len(task.judged), task.n_classes), np.nan)
    if len(unseen):
        rows = task.judged[unseen]
        judged[unseen] = stages.evaluation_look(task.canvases, rows, student, shop.device).numpy()
    return Beliefs([None] * len(task.chains), judged)


def _loader(shop: Workshop, task: Task, work: Work, teacher_size: int) -> Loader:
    """Batches of labelled and pool images together, each view at both models' sizes."""
    n, m = len(task.labeled), len(task.pool)
    fair = 2 * work.batch_size * n / (n + m)  # labels come twice as often as they are frequent
    share = min(stages.LABELED_SHARE * work.batch_size, fair)
    return Loader(
        task.canvases,
        stages.labeled_examples(task, task.chains[0]),
        stages.unlabeled(task),
        Views(
            stages.strong_policy(shop.config.transfer),
            work.size,
            mix=shop.config.transfer.mix,
            teacher_size=teacher_size,
        ),
        batch_size=work.batch_size,
        labeled_per_batch=max(1, round(share)),
        seed=shop.seed,
    )


def _some(task: Task) -> Rows:
    """At most ``WARM_IMAGES`` training images, evenly spaced."""
    rows = np.concatenate([task.labeled, task.pool])
    return rows[:: -(-len(rows) // WARM_IMAGES)]


@torch.no_grad()
def _measure_neck(task: Task, student: Classifier) -> None:
    """Give a new neck's norm the statistics of clean views."""
    student.eval()
    student.neck.train()
    momenta = {m: m.momentum for m in student.neck.modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in momenta:
        norm.momentum = None  # a plain average over the batches
    center = Center(student.spec.crop_pct)
    look(task.canvases, _some(task), center, student, student.spec.input_size)
    for norm, momentum in momenta.items():
        norm.momentum = momentum


def _warm_head(shop: Workshop, task: Task, student: Classifier, teacher: Classifier) -> None:
    """Start the student's head where its untrained trunk already agrees best with the teacher.

    A head from zero first drags the warm trunk away from what it knows; a fitted one does not
    (measured on ants and bees: 0.83 -> 0.91 after the same training).
    """
    strong = stages.strong_policy(shop.config.transfer)
    plans = bank_plans(WARM_VIEWS, student.spec.crop_pct, strong, shop.config.transfer.crop_scale)
    rows = _some(task)

    def outputs(forward: Forward[Tensor], size: int) -> Tensor:
        # One seed: both models look at the same views.
        return torch.cat(make_bank(task.canvases, rows, forward, size, plans, seed=shop.seed).views)

    features = outputs(Forward(student.to(shop.device), "features"), student.spec.input_size)
    logits = outputs(Forward(teacher.to(shop.device), "logits"), teacher.spec.input_size)
    student.cpu()
    teacher.cpu()
    targets = torch.softmax(logits / teacher.spec.temperature, dim=1)
    weights = torch.full((len(features),), 1.0 / WARM_VIEWS)
    head = fit_head(
        features, targets, weights, plain_metric(features), strength=stages.PROBE_STRENGTH
    )
    stages.set_head(student, head)


def _match_temperature(
    shop: Workshop, task: Task, student: Classifier, teacher: Classifier, rows: Rows
) -> float:
    """The temperature at which the student is as confident as its calibrated teacher.

    Fitted on at most 1,000 images against the teacher's own draws, so it needs no labels.
    """
    rows = rows[:: max(1, len(rows) // 1000)]
    ours, theirs = (
        stages.evaluation_look(task.canvases, rows, model, shop.device).numpy().astype(np.float64)
        for model in (student, teacher)
    )
    return fit_temperature(ours, softmax(theirs, teacher.spec.temperature))
