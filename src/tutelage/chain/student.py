"""The small student: cut from the teacher or built by name, warmed up, trained, calibrated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.augment import Center
from tutelage.chain import stages, trunk
from tutelage.chain.plan import Work
from tutelage.chain.stages import Beliefs, Outcome, Task
from tutelage.chain.trunk import Workshop
from tutelage.config import RunConfig
from tutelage.heads.bank import bank_plans, look, make_bank
from tutelage.heads.probe import fit_head, plain_metric
from tutelage.models.classifier import Classifier, count_parameters
from tutelage.models.forward import Forward
from tutelage.models.zoo import count_stages, create, cut, residual_blocks
from tutelage.stats.calibrate import fit_temperature, softmax
from tutelage.stats.metrics import Floats
from tutelage.stats.unknown import energy, match_threshold
from tutelage.steps.distillation import DistillationStep
from tutelage.steps.supervised import supervised_step
from tutelage.steps.teachers import Teachers
from tutelage.system.errors import TutelageError
from tutelage.system.ranks import apart
from tutelage.training.batch import Step
from tutelage.training.loader import Loader, Rows, Views, spaced

SHARE = 0.25  # of the teacher's parameters that a cut student may have
NECKS = (256, 1024)  # least and greatest width of a cut student's 1x1 convolution
WARM_IMAGES = 500
WARM_VIEWS = 2
LEAST_UNSEEN = 50  # images that the warm start was not fitted to; of fewer all are compared on
RIDGE = 0.1  # penalty of a connector's weights, in units of the features' mean variance


def create_student(config: RunConfig, teacher: Classifier) -> Classifier:
    """The student before it learns: cut from the teacher's trunk, or a timm architecture.

    Raises:
        TutelageError: the architecture cannot be cut there, or is not known; or the settings
            cannot teach so few classes.
    """
    if config.distill.standardize == "yes" and len(teacher.spec.classes) < 3:
        raise TutelageError(
            "--standardize yes needs three classes or more: of two, all standardised logits are "
            "1 and -1, and nothing is left to learn; use --standardize no"
        )
    name = config.distill.student
    if name == "cut" or name.startswith("cut:"):
        if config.distill.student_weights is not None:
            raise TutelageError("--student-weights is for a named student, not for one that is cut")
        count = name[4:]
        if not count:
            return _quarter(teacher)
        if not count.isdigit():
            raise TutelageError(f"--student {name}: expected cut, cut:N or a timm architecture")
        return _named_cut(teacher, int(count))
    torch.manual_seed(config.data.seed)  # for --student-weights none
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

    Depth before width: a later stage's features are worth more than a wider neck, and more than
    the residual blocks before it (docs/log.md). Of those the first ones are kept that find room.
    """
    for count in range(count_stages(teacher), 1, -1):
        bare, blocks = cut(teacher, count), residual_blocks(teacher, count)
        size = count_parameters(bare.trunk) - sum(blocks.values())
        if _neck_width(teacher, bare, size) < NECKS[0]:
            continue
        skipped = []
        for name, more in blocks.items():
            if _neck_width(teacher, bare, size + more) >= NECKS[0]:
                size += more
            else:
                skipped.append(name)
        return _with_neck(teacher, count, _neck_width(teacher, bare, size), skipped)
    return _named_cut(teacher, 1)


def _named_cut(teacher: Classifier, count: int) -> Classifier:
    bare = cut(teacher, count)
    return _with_neck(teacher, count, _neck_width(teacher, bare, count_parameters(bare.trunk)))


def _with_neck(
    teacher: Classifier, count: int, width: int, skipped: Sequence[str] = ()
) -> Classifier:
    return cut(teacher, count, neck=min(max(width, NECKS[0]), NECKS[1]), skipped=skipped)


def _neck_width(teacher: Classifier, bare: Classifier, size: int) -> int:
    """The neck that uses up a cut student's share of the teacher's parameters; maybe negative.

    The teacher's weights on its middle stages do not count: its student is the same without them.

    Args:
        teacher: that the student is cut from.
        bare: the cut without a neck.
        size: parameters of its trunk, or of what will be left of it.
    """
    classes = len(teacher.spec.classes)
    whole = count_parameters(teacher) - classes * (teacher.num_features - teacher.own_features)
    room = SHARE * whole - size - classes
    width = int(room / (bare.num_features + 2 + classes))  # convolution, norm, head
    return width - width % 8


def distill(
    shop: Workshop, task: Task, teacher: Classifier, work: Work, others: Sequence[Classifier] = ()
) -> Outcome:
    """Stage "student": mimic the calibrated teacher on strong views of labels and pool.

    Args:
        shop: settings and device.
        task: the images.
        teacher: what a cut student is cut from.
        work: steps and sizes.
        others: more teachers; the student mimics the mean of all.

    Raises:
        TutelageError: as ``create_student``; the teachers' classes differ; the training diverged.
    """
    config = shop.config.distill
    models = [teacher, *others]
    teachers = Teachers([m.to(shop.device) for m in models])
    student = _begin(shop, task, teacher, work)
    _warm_up(shop, task, student, teachers)
    step = DistillationStep(
        teachers,
        temperature=config.temperature,
        alpha=config.alpha,
        kd=config.kd,
        standardize=config.standardize == "yes",
    )
    trained = _fit(shop, student, step, _loader(shop, task, student, work, teachers.sizes), work)
    for model in models:
        model.cpu()
    student, remark = _closer(shop, task, student.eval(), trained, models)
    return Outcome(student, _held_out(shop, task, student), frozen=False, remark=remark)


def train_alone(shop: Workshop, task: Task, base: Classifier, work: Work) -> Outcome:
    """What ``distill`` is to be compared with: the same student for as many steps, but no teacher.

    The student is cut from the pretrained trunk ``base``, its head is fitted to the labels, and
    it learns from the same kind of views and mixing of the labelled images alone. Only its new
    neck's norm is measured on pool images too, as in ``distill``. Its temperature is fitted on a
    ``val`` split, and 1 without one.

    Raises:
        TutelageError: as ``create_student``; the training diverged.
    """
    student = _begin(shop, task, base, work)
    everything = task.folds[0]
    labeled = stages.labeled_examples(task, everything)
    features = _warm_features(shop, task, labeled.rows, student)
    _set_warm_head(student, features, labeled.targets.repeat(WARM_VIEWS, 1))
    loader = Loader(
        task.canvases,
        labeled,
        None,
        _views(shop, student),
        batch_size=work.batch_size,
        labeled_per_batch=work.batch_size,
        seed=shop.seed,
    )
    student = _fit(shop, student, supervised_step, loader, work)
    beliefs = _held_out(shop, task, student)
    temperature = stages.temperature_of(task, beliefs)
    stages.set_calibration(student, temperature, stages.unknown_threshold_of(beliefs))
    return Outcome(student, beliefs, frozen=False)


def _begin(shop: Workshop, task: Task, teacher: Classifier, work: Work) -> Classifier:
    """The student with its size, its frozen parts and its norms, before its head is fitted."""
    student = create_student(shop.config, teacher)
    student.spec = dataclasses.replace(student.spec, input_size=work.size)
    if not shop.config.pretrained:
        return student
    student.freeze_stages(work.frozen_stages)
    if student.spec.cut is not None:
        # Statistics of strong views mislead a model that will see plain ones, and so few steps
        # cannot average them out: the pretrained ones stay (docs/log.md).
        _measure_neck(shop, task, student)
        student.freeze_norms()
    return student


def _fit(shop: Workshop, student: Classifier, step: Step, loader: Loader, work: Work) -> Classifier:
    """The trained student."""
    student.set_noise(shop.config.transfer.drop_rate, 0.0)
    rate = shop.config.distill.lr_student
    settings = trunk.train_config(shop.config, work, lr_trunk=rate, lr_head=rate, layer_decay=1.0)
    return trunk.fit(shop, student, step, loader, settings, "student")


def _held_out(shop: Workshop, task: Task, student: Classifier) -> Beliefs:
    """The student's answers to a ``val`` split; folds of the labels it has all learned from."""
    unseen = task.folds[0].judges
    judged = np.full((len(task.judged), task.n_classes), np.nan)
    if len(unseen):
        rows = task.judged[unseen]
        judged[unseen] = stages.evaluation_look(task.canvases, rows, student, shop.device).numpy()
    return Beliefs([None] * len(task.folds), judged)


def _views(shop: Workshop, student: Classifier, teacher_sizes: tuple[int, ...] = ()) -> Views:
    transfer, spec = shop.config.transfer, student.spec
    strong = trunk.strong_policy(transfer, spec.crop_pct)
    return Views(strong, spec.input_size, mix=transfer.mix, teacher_sizes=teacher_sizes)


def _loader(
    shop: Workshop, task: Task, student: Classifier, work: Work, teacher_sizes: tuple[int, ...]
) -> Loader:
    """Batches of labelled and pool images together, each view at all models' sizes."""
    return Loader(
        task.canvases,
        stages.labeled_examples(task, task.folds[0]),
        stages.unlabeled(task, task.pool),
        _views(shop, student, teacher_sizes),
        batch_size=work.batch_size,
        labeled_per_batch=max(1, round(work.labeled_share * work.batch_size)),
        seed=shop.seed,
    )


def _some(task: Task) -> Rows:
    """At most ``WARM_IMAGES`` training images, evenly spaced."""
    return spaced(np.concatenate([task.labeled, task.pool]), WARM_IMAGES)


@torch.no_grad()
def _measure_neck(shop: Workshop, task: Task, student: Classifier) -> None:
    """Give a new neck's norm the statistics of clean views."""
    student.to(shop.device).eval()
    student.neck.train()
    momenta = {m: m.momentum for m in student.neck.modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in momenta:
        norm.momentum = None  # a plain average over the batches
    center = Center(student.spec.crop_pct)
    with apart():  # every rank's norm sees all batches
        look(task.canvases, _some(task), center, student, student.spec.input_size)
    student.cpu()
    for norm, momentum in momenta.items():
        norm.momentum = momentum


def _warm_up(shop: Workshop, task: Task, student: Classifier, teachers: Teachers) -> None:
    """Start the student's head where its untrained trunk already agrees best with the teacher.

    A head from zero first drags the warm trunk away from what it knows; a fitted one does not
    (measured on ants and bees: 0.83 -> 0.91 after the same training). Where the teacher gives
    hints, the student gets its connector here, and fitted for the same reason.
    """
    rows = _some(task)
    features = _warm_features(shop, task, rows, student)
    pairs = zip(teachers.members, teachers.sizes, strict=True)
    outputs = [_warm_outputs(shop, task, rows, student, ask, size) for ask, size in pairs]
    answer = teachers.combine(outputs)
    _set_warm_head(student, features, torch.softmax(answer.logits, dim=1))
    if answer.features is not None:
        student.connector = fit_connector(features, answer.features)


def _warm_features(shop: Workshop, task: Task, rows: Rows, student: Classifier) -> Tensor:
    """Features (V * N, D) of the untrained student."""
    forward = Forward(student.to(shop.device), "both")
    size = student.spec.input_size
    _logits, features = _warm_outputs(shop, task, rows, student, forward, size)
    student.cpu()
    return features


def _warm_outputs(
    shop: Workshop,
    task: Task,
    rows: Rows,
    student: Classifier,
    forward: Callable[[Tensor], tuple[Tensor, Tensor]],
    size: int,
) -> tuple[Tensor, Tensor]:
    """Logits (V * N, K) and features (V * N, D); the same views whatever model looks."""
    transfer, crop_pct = shop.config.transfer, student.spec.crop_pct
    strong = trunk.strong_policy(transfer, crop_pct)
    plans = bank_plans(WARM_VIEWS, crop_pct, strong, transfer.crop_scale)

    def joined(images: Tensor) -> Tensor:
        return torch.cat(forward(images), dim=1)

    bank = make_bank(task.canvases, rows, joined, size, plans, seed=shop.seed)
    both = torch.cat(bank.views)
    return both[:, : task.n_classes], both[:, task.n_classes :]


def _set_warm_head(student: Classifier, features: Tensor, targets: Tensor) -> None:
    """Fit the head to targets (V * N, K)."""
    weights = torch.full((len(features),), 1.0 / WARM_VIEWS)
    metric = plain_metric(features)
    head = fit_head(features, targets, weights, metric, strength=stages.PROBE_STRENGTH)
    stages.set_head(student, head)


def fit_connector(features: Tensor, hints: Tensor) -> nn.Linear:
    """The linear map of features (N, D) that foretells hints (N, D') best: ridge regression."""
    metric = plain_metric(features)
    inputs, mean = metric(features).double(), hints.mean(dim=0)
    n, width = inputs.shape
    penalty = RIDGE * n / width * torch.eye(width, dtype=torch.float64)  # of mean eigenvalue 1 / D
    solved = torch.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ (hints - mean).double())
    connector = nn.Linear(width, hints.shape[1])
    with torch.no_grad():
        connector.weight.copy_(solved.T * metric.factor)
        connector.bias.copy_(mean - connector.weight @ metric.mean)
    return connector


def _closer(
    shop: Workshop,
    task: Task,
    start: Classifier,
    trained: Classifier,
    teachers: Sequence[Classifier],
) -> tuple[Classifier, str]:
    """The student before or after its training, calibrated, and which it is in words.

    Strong views can teach what plain ones contradict: on solar cells a crop without the crack is
    still called defective, and training took the student away from its teacher. No labels are
    needed to see that: the student that deviates less from the teacher's beliefs about images
    that its start was not fitted to is kept.
    """
    rows = task.pool if len(task.pool) else task.labeled
    unseen = np.setdiff1d(rows, _some(task))
    rows = spaced(unseen if len(unseen) >= LEAST_UNSEEN else rows, trunk.MATCHED_IMAGES)
    before, after, *theirs = (
        trunk.clean_logits(shop, task, model, rows, views=1)
        for model in (start, trained, *teachers)
    )
    specs = [teacher.spec for teacher in teachers]
    pairs = zip(theirs, specs, strict=True)
    believed = np.mean([softmax(logits, spec.temperature) for logits, spec in pairs], axis=0)
    threshold = specs[0].unknown_threshold
    was = _calibrate(start, before, believed, theirs[0], threshold)
    now = _calibrate(trained, after, believed, theirs[0], threshold)
    change = f"KL {was:.3f} to {now:.3f}"
    if was < now:
        return start, f"as it started; training took it away from its teacher ({change})"
    return trained, f"training brought it closer to its teacher ({change})"


def _calibrate(
    student: Classifier, ours: Floats, believed: Floats, first: Floats, threshold: float | None
) -> float:
    """Make the student as confident as its teachers' mean, and as often sure of no class.

    Fitted against what the teachers believe, so it needs no labels. An energy means something for
    one model only, so its threshold is matched to the first teacher's.

    Args:
        student: its spec is replaced.
        ours: (N, K) its logits.
        believed: (N, K) what the teachers believe of the same images, their mean.
        first: (N, K) logits of the first teacher.
        threshold: of the first teacher for images of no class, if it has one.

    Returns:
        Mean KL divergence of the calibrated student from what is believed, in nats.
    """
    if threshold is not None:
        threshold = match_threshold(energy(ours), energy(first), threshold)
    temperature = fit_temperature(ours, believed)
    stages.set_calibration(student, temperature, threshold)
    ratio = np.clip(believed, 1e-12, 1.0) / np.clip(softmax(ours, temperature), 1e-12, 1.0)
    return float((believed * np.log(ratio)).sum(axis=1).mean())
