"""One check for each known silent training bug: nothing crashes, the model is merely worse.

``test_silent_bugs.py`` runs them on the package, ``test_mutations.py`` on the package with the bug
put in, where each must fail.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import tiny
import torch
import torch.nn.functional as F
import trainings
from processes import on_ranks
from torch import Tensor, nn

from tutelage.augment import Center, Strong, Weak
from tutelage.augment.mix import draw_cutmix
from tutelage.chain import (
    answers,
    frozen,
    pipeline,
    plan,
    pool,
    prepare,
    rounds,
    student,
    trained,
    types,
)
from tutelage.chain.answers import evaluation_look
from tutelage.chain.evidence import pseudo_rows
from tutelage.chain.machine import Speed, choose_device
from tutelage.chain.plan import Work
from tutelage.chain.run import teach
from tutelage.config import RunConfig, TrainConfig, make_config
from tutelage.data import stream
from tutelage.data.open import read_catalog
from tutelage.data.store import open_store
from tutelage.deploy.graph import Deployed
from tutelage.heads.bank import Bank, look
from tutelage.heads.probe import fit_head, plain_metric
from tutelage.ladder import draws as drawing
from tutelage.ladder.draws import Ladder
from tutelage.ladder.figures import summarise
from tutelage.losses import kd_loss
from tutelage.models import forward
from tutelage.models.ema import EMA
from tutelage.models.folder import load_model, save_model
from tutelage.models.forward import Forward
from tutelage.models.joint import Columns, members_of
from tutelage.models.zoo import create
from tutelage.stats import unknown as outofclass
from tutelage.stats.calibrate import softmax
from tutelage.stats.pseudo_labels import PseudoLabels, select
from tutelage.stats.unknown import (
    MOST,
    Detection,
    detect,
    fit_limit,
    held_out_distances,
    mean_distances,
)
from tutelage.steps.distillation import DistillationStep, Teachers
from tutelage.steps.fixmatch import FixMatch, OnlineStep, Targets, WeakViews
from tutelage.steps.mean_teacher import MeanTeacherStep
from tutelage.steps.supervised import supervised_step
from tutelage.steps.thresholds import FlexMatch, FreeMatch, SoftMatch
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.training.batch import Batch
from tutelage.training.best import Best
from tutelage.training.loader import Canvases, Loader, Views, deal
from tutelage.training.loop import learning_rate_factor, train
from tutelage.training.pace import Pace

Check = Callable[[Path, pytest.MonkeyPatch], None]
SPEED = Speed("cpu", forward=0.05, train=0.15, forward_size=128, train_size=128)
SETTINGS = {
    "teacher": "test_efficientnet",
    "weights": "none",
    "input_size": 32,
    "canvas": 32,
    "labels_per_class": 4,
    "student": "cut:2",
    "rounds": 1,
}
LADDER = {**SETTINGS, "minutes": 0.7, "trunk": "frozen"}
CHAIN = ("probe", "fine-tune", "transfer", "self-train", "student-alone", "student")
"""The arms that a ladder trains on one pretrained trunk."""


@dataclass
class Fit:
    """One call of the training loop that a stage wanted to make."""

    run: Any
    model: Any
    step: Any
    loader: Loader
    settings: TrainConfig


def untraced(*_: Any) -> None:
    """In the place of a session of onnxruntime: torch answers.

    To trace a model takes longer than all that tests ask of it; tests/models/test_forward.py and
    the run that tests share do trace.
    """


@contextmanager
def quick() -> Iterator[pytest.MonkeyPatch]:
    """A known machine, and trainings of four steps; what patches it, for more of that kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "current_speed", lambda *_: SPEED)
        patch.setattr(plan, "STEPS", (4,))
        patch.setattr(forward, "_session", untraced)
        yield patch


@contextmanager
def quickly(opening: Callable[[], Any], cache: Path) -> Iterator[Any]:
    """The same as ``opening``, in a process of a cluster that knows nothing of these tests."""
    with quick() as patch:
        patch.setenv("TUTELAGE_CACHE", str(cache))
        with opening() as work:
            yield work


def prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "run", **settings: Any
) -> types.Run:
    """A run on a tiny data set, ready for its first stage."""
    data = tmp_path / "data"
    if not data.exists():
        tiny.write_data(data)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "current_speed", lambda *_: SPEED)
    monkeypatch.setattr(forward, "_session", untraced)
    config = make_config("run", {**SETTINGS, **settings})
    return prepare.prepare(
        "run", read_catalog(data), str(data), tmp_path / name, config, quiet=True
    )


def captured_fits(monkeypatch: pytest.MonkeyPatch) -> list[Fit]:
    """What stages give to the training loop from now on; models come back untrained."""
    fits: list[Fit] = []

    def note(
        run: Any, model: Any, step: Any, loader: Any, settings: Any, label: str, *rest: Any
    ) -> Any:
        fits.append(Fit(run, model, step, loader, settings))
        after = copy.deepcopy(model).eval()
        for best in rest[1:]:
            if best is not None:
                best.begin(after)
        return after

    monkeypatch.setattr(trained, "fit", note)
    return fits


def some_beliefs(task: types.Task, seed: int = 0) -> np.ndarray:
    """Made-up logits over the pool."""
    return np.random.default_rng(seed).normal(size=(len(task.pool), task.n_classes))


def half_foreign(task: types.Task, monkeypatch: pytest.MonkeyPatch) -> frozen.Features:
    """Made-up features: the two classes apart, every other pool image apart from both.

    The eight labels of these tests are enough to see it: more would only take longer.
    """
    monkeypatch.setattr(outofclass, "FEW", 4)
    number = np.arange(len(task.pool))
    return made_up(np.where(number % 2, 2, number // 2 % 2), task.labels, width=3, noise=0.05)


def made_up(
    unlabeled: np.ndarray, labeled: np.ndarray, *, width: int = 4, noise: float = 0.1
) -> frozen.Features:
    """Features in which an image's cluster is the number given for it."""
    rng = np.random.default_rng(0)

    def bank(kinds: np.ndarray) -> Bank:
        views = np.eye(width)[kinds] + noise * rng.normal(size=(2, len(kinds), width))
        return Bank(tuple(torch.from_numpy(views).float()))

    labels, images = bank(labeled), bank(unlabeled)
    center = torch.cat([labels.views[0], images.views[0]])
    found = frozen.feature_metrics(center, Columns(slice(width), slice(0)), None)
    metrics = {name: (metric,) for name, metric in found.items()}
    return frozen.Features(labels, images, labels, metrics)


def label_pool(
    run: types.Run,
    chain: pipeline.Pipeline,
    teacher: types.Beliefs,
    temperature: float = 1.0,
) -> list[Any]:
    """Pseudo-labels as a round of the chain makes them."""
    return pool.label_pool(run, teacher, temperature, chain.detections)


def trunk_fit(
    run: types.Run, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> tuple[Fit, PseudoLabels]:
    """What a trained round of self-training gives to the loop."""
    fits = captured_fits(monkeypatch)
    known = np.eye(run.task.n_classes)[run.task.judged_labels] + 0.1
    folds = [some_beliefs(run.task, seed) for seed in range(len(run.task.folds))]
    beliefs = types.Beliefs(list(folds), known)
    detections = pool.detect_unknown(run, half_foreign(run.task, monkeypatch))
    labels = pool.label_pool(run, beliefs, 1.0, detections)[:1]
    weight = torch.randn(run.base.head.weight.shape, generator=torch.Generator().manual_seed(0))
    head = frozen.Head(weight, torch.zeros(run.task.n_classes))
    work = Work(kind, steps=2, batch_size=8, size=32)
    alone = run.on(folds=run.task.folds[:1])
    outcome = trained.train_trunk(alone, [head], labels, work, "round", judged_folds=0)
    assert outcome.pseudo_labels is not None
    return fits[0], outcome.pseudo_labels


def student_fit(run: types.Run, monkeypatch: pytest.MonkeyPatch, teacher: Any = None) -> Fit:
    """What distillation gives to the loop."""
    fits = captured_fits(monkeypatch)
    work = dataclasses.replace(run.plan.student, batch_size=8)
    run.plan = dataclasses.replace(run.plan, student=work)
    teacher = copy.deepcopy(run.base) if teacher is None else teacher
    student.distill(run, [teacher], work)
    return fits[0]


# --- weights that never change


def trained_weights_move(_: Path, __: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = create("test_efficientnet", ["a", "b"], canvas=32, input_size=32, weights="none")
    before = copy.deepcopy(model.state_dict())
    config = TrainConfig(4, lr_head=1e-2, lr_trunk=1e-2, layer_decay=0.8, log_every=1)
    result = train(model, tiny.batches(4), supervised_step, config, device=tiny.CPU)
    for one in (model, result.model):
        for name, value in one.state_dict().items():
            assert not torch.equal(value, before[name]), f"{name} never changed"


def frozen_weights_stay(_: Path, __: pytest.MonkeyPatch) -> None:
    model = tiny.classifier()
    model.freeze_trunk()
    before = copy.deepcopy(model.state_dict())
    result = train(model, tiny.batches(3), supervised_step, TrainConfig(3), device=tiny.CPU)
    for one in (model, result.model):
        for name, value in one.state_dict().items():
            moved = not torch.equal(value, before[name])
            assert moved == name.startswith("head."), f"{name}: moved is {moved}"


# --- the distillation loss


def kd_loss_keeps_its_scale(_: Path, __: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator)
    for temperature in (1.0, 4.0):
        expected = temperature**2 * F.kl_div(
            torch.log_softmax(student / temperature, dim=1),
            torch.softmax(teacher / temperature, dim=1),
            reduction="batchmean",
        )
        found = kd_loss(student, teacher, temperature=temperature)
        torch.testing.assert_close(found, expected)
        weighted = kd_loss(student, teacher, temperature=temperature, weights=torch.full((6,), 0.5))
        torch.testing.assert_close(weighted, 0.5 * expected)


def distillation_step_uses_the_loss_as_it_is(_: Path, __: pytest.MonkeyPatch) -> None:
    student, teacher = tiny.classifier(seed=1).eval(), tiny.classifier(seed=2).eval()
    batch = tiny.batches(1)[0]
    weights = torch.tensor([1.0] * 3 + [0.0] * 5)
    batch = dataclasses.replace(batch, teacher_images=(batch.images,), weights=weights)
    step = DistillationStep(teacher, temperature=3.0, alpha=0.6)
    loss, _metrics = step(student, batch)
    logits, wanted = student(batch.images), teacher(batch.images)
    hard = F.cross_entropy(logits, batch.targets, reduction="none")
    soft = 9.0 * F.kl_div(
        torch.log_softmax(logits / 3, dim=1), torch.softmax(wanted / 3, dim=1), reduction="none"
    ).sum(dim=1)
    labeled = weights > 0
    by_hand = torch.where(labeled, 0.4 * hard + 0.6 * soft, soft).mean()
    torch.testing.assert_close(loss, by_hand)


# --- the teacher


def teacher_gets_no_gradient(_: Path, __: pytest.MonkeyPatch) -> None:
    student, teacher = tiny.classifier(seed=1), tiny.classifier(seed=2)
    asked: list[bool] = []

    def watched(images: Tensor) -> Tensor:
        asked.append(torch.is_grad_enabled())
        return teacher(images)

    batch = tiny.batches(1)[0]
    batch = dataclasses.replace(batch, teacher_images=(batch.images,))
    step = DistillationStep(watched, temperature=2.0, alpha=0.5)
    loss, _metrics = step(student, batch)
    loss.backward()
    assert asked == [False]
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def losses_give_the_teacher_no_gradient(_: Path, __: pytest.MonkeyPatch) -> None:
    student = torch.randn(4, 3, requires_grad=True)
    teacher = torch.randn(4, 3, requires_grad=True)
    kd_loss(student, teacher, temperature=2.0).backward()
    assert student.grad is not None
    assert teacher.grad is None


def several_teachers_are_the_mean_of_calibrated_probabilities(
    _: Path, __: pytest.MonkeyPatch
) -> None:
    models = [tiny.classifier(seed=seed).eval() for seed in (1, 2)]
    for model, temperature in zip(models, (3.0, 0.5), strict=True):
        model.spec = dataclasses.replace(model.spec, temperature=temperature)
    images = tiny.batches(1)[0].images
    with torch.no_grad():
        each = [torch.softmax(m(images) / m.spec.temperature, dim=1) for m in models]
    found = torch.softmax(Teachers(models)(images, images), dim=1)
    torch.testing.assert_close(found, (each[0] + each[1]) / 2, atol=1e-4, rtol=1e-3)


def a_joint_teacher_is_the_mean_of_its_trunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("test_efficientnet", "test_resnet")  # of unlike normalisations
    run = prepared(tmp_path, monkeypatch, teacher=",".join(names))
    save_model(frozen.probe(run, frozen.make_features(run)).model, tmp_path / "teacher")
    task, view = run.task, tiny.batches(1)[0].images
    expected = []
    for name, member in zip(names, members_of(run.base), strict=True):
        config = timm.get_pretrained_cfg(name)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (config.mean, config.std))

        @torch.no_grad()
        def features(images: Tensor, member: Any = member, norm: Any = (mean, std)) -> Tensor:
            return member.trunk((images - norm[0]) / norm[1])

        center, size = Center(run.base.spec.crop_pct), run.base.spec.input_size
        labeled, unlabeled = (
            look(task.canvases, rows, center, features, size) for rows in (task.labeled, task.pool)
        )
        targets = types.one_hot(task.labels, task.n_classes)
        metric = plain_metric(torch.cat([labeled, unlabeled]))
        strength = frozen.PROBE_STRENGTH
        head = fit_head(labeled, targets, torch.ones(len(targets)), metric, strength=strength)
        expected.append(head(features(view)))
    with torch.no_grad():
        found = load_model(tmp_path / "teacher")(view)
    torch.testing.assert_close(found, (expected[0] + expected[1]) / 2, atol=0.02, rtol=0.02)


def a_training_goes_on_from_the_first_trunks_own_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path, monkeypatch, teacher="test_efficientnet,test_resnet")
    chain = pipeline.Pipeline(run)
    alone, features = chain.trainee
    assert alone.base.spec.architecture == "test_efficientnet"
    for name in features.metrics:
        none: list[Any] = [None] * len(run.task.folds)
        head = frozen.fit_fold_heads(alone, features, {**frozen.PLAIN, "metric": name}, none)[0]
        start = frozen.with_head(alone.base, head)
        found = evaluation_look(run.task.canvases, run.task.pool, start, run.device)
        torch.testing.assert_close(found, head(features.pool.views[0]), atol=0.02, rtol=0.02)


def student_alone_sees_labels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, monkeypatch)
    taught = student_fit(run, monkeypatch)
    fits = captured_fits(monkeypatch)
    student.train_alone(run, run.plan.student)
    (alone,) = fits
    assert alone.step is supervised_step
    assert alone.settings == taught.settings
    assert len(alone.loader.streams) == 1
    ((labeled, count),) = alone.loader.streams
    assert (labeled.rows.tolist(), count) == (run.task.labeled.tolist(), 8)
    assert alone.loader.views == dataclasses.replace(taught.loader.views, teacher_sizes=())
    taught_state = taught.model.state_dict()
    for name, value in alone.model.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(value, taught_state[name]), name
    learning = {n for n, p in alone.model.named_parameters() if p.requires_grad}
    assert learning == {n for n, p in taught.model.named_parameters() if p.requires_grad}
    alone.model.train()
    taught.model.train()
    modes = [[m.training for m in model.modules()] for model in (alone.model, taught.model)]
    assert modes[0] == modes[1]


def forward_is_an_evaluation_snapshot(_: Path, __: pytest.MonkeyPatch) -> None:
    images = tiny.batches(1)[0].images
    for backend in ("torch", "onnxruntime"):
        model = tiny.classifier().train()
        model.set_noise(0.5, 0.0)
        before = copy.deepcopy(model.state_dict())
        expected = copy.deepcopy(model).eval()(images)
        forward = Forward(model, "logits", backend)
        for _again in range(2):
            found = forward(images)
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
            assert not found.requires_grad
        assert model.training
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), f"the snapshot changed {name}"
        with torch.no_grad():
            model.head.weight.add_(1.0)
        torch.testing.assert_close(forward(images), expected, atol=1e-4, rtol=1e-4)


def pipeline_teacher_is_in_evaluation_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, monkeypatch)
    teacher = copy.deepcopy(run.base)
    teacher.unfreeze_trunk()
    teacher.set_noise(0.5, 0.0)
    with torch.no_grad():
        teacher.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    teacher.spec = dataclasses.replace(teacher.spec, temperature=2.0)
    teacher.train()
    before, still = copy.deepcopy(teacher.state_dict()), copy.deepcopy(teacher).eval()
    fit = student_fit(run, monkeypatch, teacher)
    batch = fit.loader.batch(0)
    with torch.no_grad():
        expected = torch.log_softmax(still(*batch.teacher_images) / 2.0, dim=1)
    for _again in range(2):
        found = fit.step.teacher(*batch.teacher_images)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    loss, _metrics = fit.step(fit.model.train(), batch)
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), f"distillation changed the teacher's {name}"
    of_teacher = {p.data_ptr() for p in teacher.parameters()}
    assert not any(p.data_ptr() in of_teacher for p in fit.model.parameters())


# --- views


def _small_of(large: Tensor) -> Tensor:
    return F.avg_pool2d(large, 2)


def _paired_loader(mix: str, seed: int = 3) -> Loader:
    images = tiny.smooth_images(24, 96)
    data = tiny.canvases(images, np.linspace(0.7, 1.4, 24, dtype=np.float32))
    views = Views(Strong(), 96, mix=mix, mix_share=1.0, teacher_sizes=(192,))
    labeled = tiny.examples(np.arange(24), np.arange(24) % 2)
    return Loader(data, labeled, None, views, batch_size=16, labeled_per_batch=16, seed=seed)


def teacher_and_student_see_the_same_views(_: Path, __: pytest.MonkeyPatch) -> None:
    batch = _paired_loader("none").batch(0)
    (large,) = batch.teacher_images
    gap = (_small_of(large) - batch.images).abs().flatten(1).mean(dim=1)
    other = (batch.images.roll(1, 0) - batch.images).abs().flatten(1).mean(dim=1)
    assert float(gap.max()) < 0.05
    assert float(gap.median()) < 0.01 < 0.1 < float(other.median())


def teacher_and_student_see_the_same_mixing(_: Path, __: pytest.MonkeyPatch) -> None:
    for mix in ("cutmix", "mixup"):
        batch = _paired_loader(mix).batch(1)
        (large,) = batch.teacher_images
        gap = (_small_of(large) - batch.images).abs().flatten(1).mean(dim=1)
        assert float(gap.max()) < 0.05, mix
        assert float(gap.median()) < 0.01, mix


def pipeline_gives_both_the_same_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, monkeypatch)
    teacher = copy.deepcopy(run.base)
    teacher.spec = dataclasses.replace(teacher.spec, input_size=64)
    batch = student_fit(run, monkeypatch, teacher).loader.batch(0)
    (view,) = batch.teacher_images
    assert view.shape[-1] == 64
    # Noise pictures: other pixels of the same picture agree only in their mean colour.
    small, large = batch.images, _small_of(view)
    pairs = zip(small.flatten(1), large.flatten(1), strict=True)
    alike = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]
    assert np.median(alike) > 0.9


def each_model_normalises_with_its_own_numbers(_: Path, __: pytest.MonkeyPatch) -> None:
    batch = _paired_loader("none").batch(0)
    assert 0.0 <= float(batch.images.min()) < 0.3 < 0.7 < float(batch.images.max()) <= 1.0
    seen: dict[str, Tensor] = {}

    def spy(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[name] = inputs[0].detach()

        return note

    numbers = {"student": (0.5, 0.5), "teacher": (0.4, 0.2)}
    models = {n: tiny.classifier(mean=(m,) * 3, std=(s,) * 3) for n, (m, s) in numbers.items()}
    for name, model in models.items():
        model.trunk.register_forward_pre_hook(spy(name))
    teacher = models["teacher"].eval()
    DistillationStep(teacher, temperature=1.0, alpha=1.0)(models["student"].eval(), batch)
    for name, images in (("student", batch.images), ("teacher", batch.teacher_images[0])):
        mean, std = numbers[name]
        torch.testing.assert_close(seen[name], (images - mean) / std)


# --- mixing


def cutmix_share_is_the_clipped_box(_: Path, __: pytest.MonkeyPatch) -> None:
    n = 256
    mix = draw_cutmix(n, torch.Generator().manual_seed(0))
    own = torch.arange(n, dtype=torch.float32)
    mixed = mix.images(own.view(n, 1, 1, 1).expand(n, 1, 64, 64).contiguous())
    kept = (mixed == own.view(n, 1, 1, 1)).float().mean(dim=(1, 2, 3))
    others = mix.perm != torch.arange(n)
    torch.testing.assert_close(mix.lam[others], kept[others])
    targets, weights = mix.weighted(torch.eye(n), torch.ones(n))
    torch.testing.assert_close(targets.diagonal()[others], kept[others])
    torch.testing.assert_close(weights, torch.ones(n))


# --- the average


def ema_averages_the_buffers(_: Path, __: pytest.MonkeyPatch) -> None:
    model = tiny.classifier()
    ema = EMA(model, decay=0.5)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(3)
    ema.update(model)
    decay = min(0.5, 2 / 11)
    after = ema.model.state_dict()
    names = [name for name in after if "running" in name]
    assert len(names) == 2
    for name in [*names, "head.weight", "trunk.0.weight"]:
        torch.testing.assert_close(after[name], before[name] + 3 * (1 - decay))
    assert int(after["trunk.1.num_batches_tracked"]) == 3


# --- one forward


class _Counted(nn.Module):
    """Counts forwards; its batch norm remembers whose statistics it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm2d(3, momentum=1.0)
        self.head = nn.Linear(3, 2)
        self.forwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        out: Tensor = self.head(self.norm(images).flatten(2).square().mean(dim=2))
        return out


def _one_forward(step: Any, batch: Batch, seen: Tensor) -> None:
    model = _Counted().train()
    step(model, batch)
    assert model.forwards == 1
    assert model.norm.running_mean is not None
    torch.testing.assert_close(model.norm.running_mean, seen.mean(dim=(0, 2, 3)))


def _labeled_and_pool() -> Batch:
    """Three labelled images and five of the pool, whose statistics differ."""
    batch = tiny.batches(1)[0]
    weights = torch.tensor([1.0] * 3 + [0.0] * 5)
    scale = torch.where(weights > 0, 1.0, 0.3)[:, None, None, None]
    images = batch.images * scale
    second = images.flip(3) * 0.9
    return Batch(
        images,
        batch.targets,
        weights,
        teacher_images=(images,),
        weak=second,
        strong=second[3:],
        ids=torch.arange(5),
    )


def online_step_makes_one_forward(_: Path, __: pytest.MonkeyPatch) -> None:
    batch = _labeled_and_pool()
    assert batch.strong is not None
    step = OnlineStep(torch.full((2,), 0.5), FixMatch(0.5))
    _one_forward(step, batch, torch.cat([batch.images, batch.strong]))


def mean_teacher_step_makes_one_forward(_: Path, __: pytest.MonkeyPatch) -> None:
    batch = _labeled_and_pool()
    _one_forward(MeanTeacherStep(ramp_steps=0), batch, batch.images)


def supervised_step_makes_one_forward(_: Path, __: pytest.MonkeyPatch) -> None:
    batch = _labeled_and_pool()
    _one_forward(supervised_step, batch, batch.images)


def distillation_step_makes_one_forward(_: Path, __: pytest.MonkeyPatch) -> None:
    batch = _labeled_and_pool()
    teacher = tiny.classifier().eval()
    _one_forward(DistillationStep(teacher, 2.0, 0.5), batch, batch.images)


# --- thresholds


def online_counter_counts_what_the_loss_uses(_: Path, __: pytest.MonkeyPatch) -> None:
    n = 8
    weights = torch.tensor([1.0, 1.0] + [0.0] * 6)
    weak = torch.tensor([[2.0, 0], [0, 2], [2, 0], [1.2, 0], [0.5, 0], [0, 0.2], [0, 0.6], [0, 3]])
    strong = torch.linspace(-1, 1, 2 * n).view(n, 2)[2:].requires_grad_()
    targets = F.one_hot(torch.tensor([0, 1] + [0] * 6), 2).float()
    images = torch.zeros(n, 3, 2, 2)
    batch = Batch(images, targets, weights, strong=images[2:], ids=torch.arange(6))
    prior = torch.tensor([0.2, 0.8])
    step = OnlineStep(prior, FixMatch(0.7))
    step.marginal = torch.tensor([0.6, 0.4])

    class Fixed(nn.Module):
        def forward(self, _images: Tensor) -> Tensor:
            return torch.cat([weak, strong])

    loss, metrics = step(Fixed(), batch)
    probs = torch.softmax(weak, dim=1)
    marginal = 0.99 * torch.tensor([0.6, 0.4]) + 0.01 * probs[2:].mean(dim=0)
    aligned = probs * prior / marginal
    aligned = aligned / aligned.sum(dim=1, keepdim=True)
    taken = aligned.amax(dim=1)[2:] >= 0.7
    unaligned = probs.amax(dim=1)[2:] >= 0.7
    assert not torch.equal(taken, unaligned)  # else the order could not be told
    assert int(taken.sum()) != int(unaligned.sum())
    assert float(metrics["pseudo_labeled"]) == pytest.approx(float(taken.float().mean()))
    beliefs = aligned.argmax(dim=1)[2:]
    each = F.cross_entropy(strong, beliefs, reduction="none")
    by_hand = F.cross_entropy(weak[:2], targets[:2]) + (each * taken).mean()
    torch.testing.assert_close(loss, by_hand)
    (gradient,) = torch.autograd.grad(loss, strong)
    learned = gradient.abs().sum(dim=1) > 0
    assert torch.equal(learned, taken)


def _weak_views(rows: list[list[float]]) -> WeakViews:
    probs = torch.tensor(rows)
    return WeakViews(probs, probs, torch.arange(len(rows)))


def flexmatch_counts_sure_images(_: Path, __: pytest.MonkeyPatch) -> None:
    flex = FlexMatch(2, 4, 0.8)
    flex(_weak_views([[0.9, 0.1], [0.3, 0.7], [0.1, 0.9]]))
    # One sure image a class; image 1 is unsure and 3 unseen, so 2 are unused: beta = 1/2, M = 1/3.
    low, high = 0.8 / 3 - 0.01, 0.8 / 3 + 0.01
    probs = torch.tensor([[low, 0.0], [high, 0.0], [0.0, low], [0.0, high]])
    found = flex(WeakViews(probs, probs, torch.tensor([0, 0, 0, 0])))
    assert found.weights.tolist() == [0.0, 1.0, 0.0, 1.0]


def freematch_asks_the_global_threshold_of_the_largest_class(
    _: Path, __: pytest.MonkeyPatch
) -> None:
    free = FreeMatch(2, momentum=0.0)
    rows = [[0.9, 0.1], [0.75, 0.25], [0.15, 0.85], [0.8, 0.2]]
    found = free(_weak_views(rows))
    # confidence 0.825, marginal (0.65, 0.35), thresholds 0.825 and 0.444
    assert found.weights.tolist() == [1.0, 0.0, 1.0, 0.0]
    strong = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]).log()
    free.marginal, free.histogram = torch.tensor([0.6, 0.4]), torch.tensor([0.75, 0.25])
    by_hand = 0.01 * (math.log(0.85 / 2.15) / 3 + 2 * math.log(1.3 / 2.15) / 3)
    assert float(free.fairness(strong, torch.ones(3))) == pytest.approx(by_hand)


def softmatch_weighs_down_only_what_is_below_the_mean(_: Path, __: pytest.MonkeyPatch) -> None:
    soft = SoftMatch(2, momentum=0.0)
    found = soft(_weak_views([[0.6, 0.4], [0.2, 0.8], [1.0, 0.0]]))
    # mean 0.8, variance 0.08 / 2: a sigma of 0.2
    assert found.weights.tolist() == pytest.approx([math.exp(-0.5), 1.0, 1.0])


def online_statistics_are_not_in_half_precision(_: Path, __: pytest.MonkeyPatch) -> None:
    seen: list[WeakViews] = []

    def spy(weak: WeakViews) -> Targets:
        seen.append(weak)
        return Targets(weak.aligned, torch.ones(len(weak.aligned)))

    step = OnlineStep(torch.full((2,), 0.5), spy, momentum=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        step(tiny.classifier().eval(), _labeled_and_pool())
    exact = seen[0].probs.mean(dim=0)
    torch.testing.assert_close(step.marginal, exact, atol=1e-6, rtol=0.0)


def mean_teacher_is_a_snapshot_of_the_average(_: Path, __: pytest.MonkeyPatch) -> None:
    model, batch = tiny.classifier().train(), _labeled_and_pool()
    step = MeanTeacherStep(ramp_steps=0, consistency_weight=1.0, decay=0.1)
    before = copy.deepcopy(model).eval()
    step(model, batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average = copy.deepcopy(before)
    for mine, first, last in zip(
        average.state_dict().values(),
        before.state_dict().values(),
        model.state_dict().values(),
        strict=True,
    ):
        mine.copy_(0.1 * first + 0.9 * last)
    loss, metrics = step(model.eval(), batch)
    teacher, student = (
        torch.softmax(network(images).detach(), dim=1)
        for network, images in ((average, batch.weak), (model, batch.images))
    )
    torch.testing.assert_close(metrics["consistency"], (teacher - student).square().mean())
    labels = batch.targets[:3].argmax(dim=1)
    supervised = F.cross_entropy(model(batch.images)[:3], labels)
    torch.testing.assert_close(loss, supervised + metrics["consistency"])


def round_trains_on_what_the_report_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, monkeypatch)
    fit, labels = trunk_fit(run, monkeypatch, "trained")
    assert 0 < labels.accepted.sum() < len(labels.accepted)
    (labeled, _count), (learned, _rest) = fit.loader.streams
    assert learned.rows.tolist() == run.task.pool[labels.accepted].tolist()
    assert labeled.rows.tolist() == run.task.labeled.tolist()
    assert learned.targets.argmax(dim=1).tolist() == labels.labels[labels.accepted].tolist()
    outcome = types.Outcome(run.base, types.Beliefs([None], np.zeros((0, 2))), False, labels)
    done = types.Finished("self-train-1", True, "", 0.0, None, outcome)
    assert sum(row["selected"] for row in pseudo_rows(run, [done])) == len(learned)


def online_round_leaves_out_of_class_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path, monkeypatch)
    fit, labels = trunk_fit(run, monkeypatch, "online")
    (_labeled, _count), (learned, _rest) = fit.loader.streams
    assert 0 < labels.outside.sum() < len(labels.outside)
    assert learned.rows.tolist() == run.task.pool[~labels.outside].tolist()
    prior = torch.from_numpy(labels.probs[~labels.outside].mean(axis=0)).float()
    torch.testing.assert_close(fit.step.prior, prior)


def images_out_of_class_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, monkeypatch)
    run = run.on(folds=run.task.folds[:1])
    task = run.task
    features, known = half_foreign(task, monkeypatch), np.eye(2)[task.judged_labels]
    logits = some_beliefs(task)
    odd = np.arange(len(logits)) % 2 == 1
    found = []
    for foreign in (-9.0, 9.0):
        changed = logits.copy()
        changed[odd] = [0.0, foreign]
        beliefs = types.Beliefs([changed], known)
        detections = pool.detect_unknown(run, features)
        found.append(pool.label_pool(run, beliefs, 1.0, detections)[0])
    one, other = found
    for labels in found:
        assert np.array_equal(labels.outside, odd)
        assert not labels.accepted[odd].any()
        assert labels.accepted.any()
        reasons = np.array(labels.reasons())
        assert all(reason.startswith("out of class: distance ") for reason in reasons[odd])
        assert not any(reason.startswith("out of class") for reason in reasons[~odd])
    np.testing.assert_array_equal(one.probs[~odd], other.probs[~odd])
    np.testing.assert_array_equal(one.accepted, other.accepted)


def limit_comes_from_held_out_images(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outofclass, "FEW", 4)
    rng = np.random.default_rng(0)
    means = 0.5 * rng.normal(size=(2, 60))
    labels, classes = np.arange(12) % 2, np.arange(400) % 2
    features = means[labels] + rng.normal(size=(12, 60))
    pool = means[classes] + rng.normal(size=(400, 60))
    alone = [
        mean_distances(np.delete(features, i, 0), np.delete(labels, i), features[[i]])[0]
        for i in range(12)
    ]
    np.testing.assert_allclose(held_out_distances(features, labels), alone)
    found = detect(features, labels, pool)
    assert not found.outside.any()
    seen = fit_limit(mean_distances(features, labels, features))
    assert seen.share < (found.distances > seen.value).mean() <= MOST  # else the bug does not show


def judged_images_are_no_part_of_their_folds_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path, monkeypatch)
    task = run.task
    features = half_foreign(task, monkeypatch)
    fold = task.folds[1]
    views = tuple(view.clone() for view in features.labeled.views)
    for view in views:
        view[torch.from_numpy(fold.judges)] += 5.0
    moved = dataclasses.replace(features, labeled=Bank(views))
    found = [pool.detect_unknown(run, f) for f in (features, moved)]
    for number, same in ((1, True), (0, False)):
        before, after = (detections[number] for detections in found)
        assert before is not None
        assert after is not None
        assert np.array_equal(before.distances, after.distances) == same
        assert not same or before.limit == after.limit


# --- batches


def few_labels_are_repeated_not_dropped(_: Path, __: pytest.MonkeyPatch) -> None:
    images = tiny.smooth_images(8)
    labeled = tiny.examples(np.arange(3), np.array([0, 1, 0]))
    pool = tiny.examples(np.arange(3, 8), np.full(5, -1))
    for others, per_batch in ((None, 16), (pool, 12)):
        loader = Loader(
            tiny.canvases(images),
            labeled,
            others,
            Views(Weak(), 32),
            batch_size=16,
            labeled_per_batch=12,
            seed=0,
        )
        counts: list[int] = []
        for step in range(2):
            batch = loader.batch(step)
            assert len(batch.images) == 16
            assert int((batch.weights > 0).sum()) == per_batch
            counts.append(int(batch.targets[batch.weights > 0][:, 1].sum()))
        total = 2 * per_batch / 3
        assert math.floor(total) <= sum(counts) <= math.ceil(total)


# --- the split


def streamed_passes_are_shuffled_anew_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, window = 1003, 512  # blocks of four
    stream._windows.cache_clear()
    stream._shuffled.cache_clear()
    passes = [deal(n, n, step, (0, 1), window) for step in range(2)]
    for one in passes:
        assert sorted(one) == list(range(n)), "images are left out or doubled"
        assert np.ptp(one[: window // 2]) > n // 2, "a window is of one place"
        assert (np.abs(np.diff(one)) == 1).mean() < 0.1, "images come in the order of the data"
    assert not np.array_equal(*passes)


def streamed_images_are_the_stored_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny.smooth_images(40)
    streamed = stream.StreamedImages(lambda row: (images[row], 1.0, ""), 40, 32, print)
    data = Canvases(
        dataclasses.replace(tiny.store(images), images=streamed), np.arange(40), tiny.CPU
    )
    batches = [np.random.default_rng(step).permutation(40)[:8] for step in range(12)]
    for rows, _ in zip(batches, data.ahead(batches), strict=False):
        assert np.array_equal(data.take(rows)[0].numpy(), images[rows])


def labeled_images_leave_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, monkeypatch)
    task = run.task
    roles = {r: set(run.split.indices(r).tolist()) for r in ("labeled", "unlabeled", "test")}
    assert len(task.labeled) == 8
    assert len(task.pool) == 28  # 12 train images that lost their label, 16 that never had one
    assert set(task.labeled.tolist()) == roles["labeled"]
    assert set(task.pool.tolist()) == roles["unlabeled"]
    assert not set(task.labeled.tolist()) & set(task.pool.tolist())
    assert not (roles["labeled"] | roles["unlabeled"]) & roles["test"]
    assert (run.split.labels[task.pool] == -1).all()
    for fold in task.folds[1:]:
        assert len(fold.judges)
        assert not fold.keep[fold.judges].any()


def copies_are_not_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a test image trains nothing; nor does one of a labelled image, in the pool."""
    data = tiny.write_data(tmp_path / "data")
    train, test, pool = (data / name for name in ("train", "test", "unlabeled"))
    shutil.copy(test / "ant" / "ant0.png", train / "ant" / "same.png")
    shutil.copy(test / "bee" / "bee0.png", pool / "same.png")
    shutil.copy(train / "ant" / "ant1.png", pool / "labelled.png")
    shutil.copy(train / "ant" / "ant2.png", train / "bee" / "wrong.png")
    gone = {"train/ant/same.png", "unlabeled/same.png", "unlabeled/labelled.png"}
    gone |= {"train/bee/wrong.png", "train/ant/ant2.png"}
    everything = {"labels_per_class": None, "rounds": 1, "trunk": "frozen"}
    run = prepared(tmp_path, monkeypatch, **everything)
    names = np.array(run.catalog.names)
    assert {*names[run.split.indices("unused")].tolist()} == gone
    assert not {*names[run.task.labeled].tolist(), *names[run.task.pool].tolist()} & gone
    assert len(run.split.indices("test")) == 12
    assert any("leakage" in note for note in run.notes)
    again = prepared(tmp_path, monkeypatch, **everything)  # goes on in the same folder
    assert again.copies == run.copies
    np.testing.assert_array_equal(again.split.roles, run.split.roles)


def held_out_labels_are_not_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, monkeypatch)
    fits = captured_fits(monkeypatch)
    task = run.task
    heads = [
        frozen.Head(torch.zeros_like(run.base.head.weight), torch.zeros(2)) for _ in task.folds
    ]
    work = Work("trained", steps=2, batch_size=8, size=32)
    none: list[Any] = [None] * len(heads)
    trained.train_trunk(run, heads, none, work, "transfer", judged_folds=1)
    assert len(fits) == 2
    held_out = set(task.judged[task.folds[1].judges].tolist())
    used = {int(row) for examples, _ in fits[1].loader.streams for row in examples.rows}
    assert held_out
    assert not held_out & used


# --- test data


def the_test_split_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for seed in (0, 1):
        root = tmp_path / f"decisions{seed}"
        tiny.write_data(root / "data")
        if seed:  # other pixels, and every test label turned round
            for name in ("ant", "bee"):
                for i in range(6):
                    picture = tiny.smooth_image(32, 40, np.random.default_rng(i))
                    path = root / "data" / "test" / name / f"{name}{i}.png"
                    tiny.Image.fromarray(picture).save(path)
        run = prepared(root, monkeypatch, trunk="frozen", rounds=2)
        if seed:
            test = run.split.indices("test")
            run.split.truth[test] = 1 - run.split.truth[test]
            run.task = prepare.make_task(run, run.plan)
        chain = pipeline.Pipeline(run)
        teach(chain, self_training=True)
        found.append(chain.finished)
    for before, after in zip(*found, strict=True):
        assert before.name == after.name
        assert before.accepted == after.accepted
        assert before.reason == after.reason
        assert before.outcome.choice == after.outcome.choice
        assert before.outcome.model.spec == after.outcome.model.spec
        np.testing.assert_array_equal(before.outcome.beliefs.judged, after.outcome.beliefs.judged)
        weights = after.outcome.model.state_dict()
        for name, value in before.outcome.model.state_dict().items():
            assert torch.equal(value, weights[name]), f"{before.name}: {name}"


# --- the ladder


def an_arm_never_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, monkeypatch)
    captured_fits(monkeypatch)
    chain = pipeline.Pipeline(run)
    model = copy.deepcopy(run.base)
    beliefs = types.Beliefs([None], np.full((len(run.task.judged), 2), np.nan))
    chain.stage("probe", lambda: types.Outcome(run.base, beliefs, frozen=False))
    done = chain.arm("fine-tune", lambda: types.Outcome(model, beliefs, frozen=False))
    assert done.outcome.model is model
    assert chain.teacher.name == "probe"
    assert [stage.name for stage in chain.finished] == ["probe"]


def ladder_differences_are_paired(_: Path, __: pytest.MonkeyPatch) -> None:
    def drawn(seed: int, **accuracy: float) -> dict[str, Any]:
        shared = {"kept": None, "seconds": 1.0, "total_seconds": 1.0, "parameters": 1,
                  "latency_ms": None}  # fmt: skip
        arms = [
            {"arm": arm, "test": {"n": 100, "accuracy": value, "ece": 0.1}, **shared}
            for arm, value in accuracy.items()
        ]
        return {"seed": seed, "arms": arms}

    draws = [drawn(0, probe=0.7, transfer=0.8), drawn(1, probe=0.5, transfer=0.61),
             drawn(2, probe=0.6, transfer=0.69)]  # fmt: skip
    (change,) = summarise(draws)[1]
    assert change.each == pytest.approx([0.1, 0.11, 0.09])
    half = 4.302653 * 0.01 / 3**0.5
    assert change.mean == pytest.approx((0.1, 0.1 - half, 0.1 + half), abs=1e-6)


def ladder_draws_are_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[tuple[int, str]] = []

    def noted(_: Any, out: Path, config: RunConfig, *__: Any, **___: Any) -> Any:
        seeds.append((config.data.seed, out.name))
        return {}

    monkeypatch.setattr(drawing, "run_seed", noted)
    config = make_config("ladder", {"seed": 5})
    catalog = read_catalog(tiny.write_data(tmp_path / "d"))
    ladder = Ladder(catalog, "d", tmp_path / "out", config, ["probe"], [], 3)
    for draw in ladder.draws:
        drawing.train_draw(ladder, draw, Console(quiet=True))
    assert seeds == [(5, "seed-5"), (6, "seed-6"), (7, "seed-7")]


# --- one resize rule


def training_and_export_see_the_same_view(tmp_path: Path, _: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    shapes = [(60, 90), (90, 60), (40, 40), (33, 100)]
    pictures = [tiny.textured_image(*shape, rng) for shape in shapes]
    for i, picture in enumerate(pictures):
        folder = tmp_path / "resize" / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        tiny.Image.fromarray(picture).save(folder / f"{i}.png")
    catalog = read_catalog(tmp_path / "resize")
    store = open_store(catalog, canvas=48, cache=tmp_path / "cache")
    data = Canvases(store, np.arange(4), tiny.CPU)
    model = tiny.classifier(canvas=48, crop_pct=0.8)
    evaluated = tiny.Recorder()
    look(data, np.arange(4), Center(0.8), evaluated, 32)
    deployed = Deployed(model)
    exported = tiny.Recorder()
    deployed.model.model = exported
    order = [int(name.split("/")[-1].split(".")[0]) for name in catalog.names]
    for position, number in enumerate(order):
        deployed(torch.from_numpy(pictures[number])[None])
        gap = (exported.seen[-1][0] - evaluated.seen[0][position]).abs()
        assert float(gap.max()) < 2.5 / 255, shapes[number]


# --- settings

CHANGED: dict[str, Any] = {
    "labels_per_class": 2,
    "limit": 5,
    "decisions": "no-such-run",
    "duplicates": "keep",
    "seed": 7,
    "device": "cpu",
    "minutes": 0.5,
    "teacher": "test_resnet",
    "weights": "no-such-file.safetensors",
    "track": "no-such-tracker",
    "checkpoint_seconds": 0.0,
    "input_size": 64,
    "canvas": 48,
    "store_gb": 0.0,
    "image_column": "picture",
    "label_column": "kind",
    "image_root": "other",
    "trunk": "trained",
    "features": "last",
    "lr_head": 0.5,
    "lr_trunk": 0.5,
    "layer_decay": 0.5,
    "weight_decay": 0.5,
    "balance": "weights",
    "drop_rate": 0.7,
    "drop_path_rate": 0.7,
    "augment": "trivialaugment",
    "crop_scale": 0.9,
    "num_ops": 5,
    "magnitude": 28,
    "mix": "mixup",
    "rounds": 3,
    "pseudo_labels": "soft",
    "alignment": 0.2,
    "out_of_class": "keep",
    "clusters": "ignore",
    "online": "freematch",
    "threshold": 0.5,
    "student": "cut:1",
    "student_weights": "no-such-file.safetensors",
    "lr_student": 0.5,
    "temperature": 7.0,
    "alpha": 0.1,
    "max_latency_ms": 0.001,
    "max_size_mb": 0.001,
}
OF_TABLE = ("image_column", "label_column", "image_root")
OF_PREPARE = ("labels_per_class", "limit", "seed", "minutes", "teacher", "weights", "input_size",
              "canvas", "trunk", "features", "rounds", "max_latency_ms", "max_size_mb",
              "duplicates")  # fmt: skip
OF_STUDENT = ("student", "student_weights", "lr_student", "temperature", "alpha")
OF_ONLINE = ("online", "threshold")


def settings() -> list[str]:
    """The name of every setting a user has."""
    groups = RunConfig().to_dict().values()
    return [name for group in groups for name in group]


def observation_repeats(name: str, usual: dict[str, str]) -> Check:
    """A check that what ``setting_is_alive`` looks at is the same for equal settings."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = _usually(name, folder, monkeypatch, usual)
        assert first == _observed(name, folder, monkeypatch, f"same-{name}", {})

    return check


OF_THEIR_OWN = ("device", "minutes", "drop_path_rate", "clusters", "duplicates",
                "store_gb", "checkpoint_seconds")  # fmt: skip


def setting_is_alive(name: str, usual: dict[str, str] | None = None) -> Check:
    """A check that another value of the setting changes something that can be observed.

    Args:
        name: of the setting.
        usual: what checks in the same folder saw at the usual settings, by what they looked at;
            what this one sees is added.
    """

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = _usually(name, folder, monkeypatch, {} if usual is None else usual)
        after = _observed(name, folder, monkeypatch, f"other-{name}", {name: CHANGED[name]})
        assert before != after, f"{name} changes nothing"

    return check


def _usually(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, usual: dict[str, str]
) -> str:
    kind = _looked_at(name)
    if kind not in usual:
        usual[kind] = _observed(name, folder, monkeypatch, f"usual-{kind}", {})
    return usual[kind]


def _table_read(place: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]) -> str:
    """What is read of a table that has two columns for each use, and two images of each name."""
    for path in ("a.png", "b.png", "other/a.png"):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).touch()
    (place / "t.csv").write_text("image,label,picture,kind\na.png,ant,b.png,red\n")
    monkeypatch.chdir(place)
    catalog = read_catalog("t.csv", make_config("run", changed).table)
    return _text(catalog.source, catalog.classes)


def _looked_at(name: str) -> str:
    """What shows a setting: the same for all that ``_observed`` treats alike."""
    if name in OF_THEIR_OWN:
        return name
    kinds = {"table": OF_TABLE, "prepare": OF_PREPARE, "student": OF_STUDENT, "online": OF_ONLINE}
    return next((kind for kind, names in kinds.items() if name in names), "trained")


def _observed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, changed: dict[str, Any]
) -> str:
    if name == "device":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        return str(choose_device(changed.get("device", "auto")))
    if name in OF_TABLE:
        return _table_read(tmp_path / folder, monkeypatch, changed)
    if name == "minutes":
        changed = {"minutes": 1.0, **changed}
    if name == "duplicates":
        tmp_path = tmp_path / "copies"
        data = tiny.write_data(tmp_path / "data")
        shutil.copy(data / "test" / "ant" / "ant0.png", data / "unlabeled" / "again.png")
    if name == "drop_path_rate":  # test_efficientnet has no residual branch to drop
        changed = {"teacher": "test_resnet", **changed}
    try:
        run = prepared(tmp_path, monkeypatch, folder, **changed)
    except TutelageError as error:
        return str(error)
    if name == "clusters":
        chain = pipeline.Pipeline(run)
        chain.stage("probe", lambda: frozen.probe(run, chain.features))
        return _text(rounds.clusters_verdict(chain))
    if name == "store_gb":
        return type(run.store.images).__name__
    if name == "checkpoint_seconds":
        with run.trainings.of(run.folder.stages / "transfer"):
            checkpoints = run.trainings.next()
            assert checkpoints is not None
            return str(checkpoints.due())
    if name in OF_PREPARE:
        return _text(run.split.roles, dataclasses.astuple(run.plan)[1:], run.base.spec)
    if name in OF_STUDENT:
        fit = student_fit(run, monkeypatch)
        return _text(fit.model.spec, fit.settings, *_of_step(fit))
    kind = "online" if name in OF_ONLINE else "trained"
    fit, labels = trunk_fit(run, monkeypatch, kind)
    return _text(*_of_fit(fit), labels.probs)


def _of_step(fit: Fit) -> list[Any]:
    """The loss that the first batch gives in evaluation mode."""
    batch = fit.loader.batch(0)
    loss, metrics = fit.step(fit.model.eval(), batch)
    return [loss, *metrics.values()]


def _of_fit(fit: Fit) -> list[Any]:
    """Settings of the loop, three batches, and the loss and rates of the model as it trains."""
    batches = [fit.loader.batch(step) for step in range(3)]
    torch.manual_seed(0)
    loss, metrics = fit.step(fit.model.train(), batches[0])
    pixels = [part for batch in batches for part in (batch.images, batch.targets, batch.weights)]
    # A new residual branch may add nothing, so dropping it need not change the loss.
    drops = [getattr(module, "drop_prob", None) for module in fit.model.modules()]
    return [fit.settings, drops, loss, *metrics.values(), *pixels]


def _text(*parts: Any) -> str:
    return "\n".join(
        repr(p.detach().numpy().tobytes() if isinstance(p, Tensor)
             else p.tobytes() if isinstance(p, np.ndarray) else p)
        for p in parts
    )  # fmt: skip


def ranks_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("supervised", "softmatch")
    alone = [trainings.trained(kind) for kind in kinds]
    both = on_ranks(2, lambda: [trainings.trained(kind) for kind in kinds])
    for found in both:
        for kind, (weights, told), (expected, history) in zip(kinds, found, alone, strict=True):
            for ours, theirs in zip(told, history, strict=True):
                assert ours == pytest.approx(theirs, rel=1e-5), kind  # the gradient's norm too
            for name, value in expected.items():
                torch.testing.assert_close(
                    weights[name], value, rtol=1e-6, atol=1e-9, msg=f"{kind}: {name}"
                )


def ranks_count_every_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny.smooth_images(7)
    model = tiny.classifier().eval().requires_grad_(False)

    def seen() -> Tensor:
        view = Strong()
        return look(tiny.canvases(images), np.arange(7), view, model, 32, batch=2)

    alone = seen()
    for found in on_ranks(3, seen):
        assert found.shape == alone.shape, "images are counted twice or not at all"
        assert torch.equal(found, alone)


def ranks_measure_a_neck_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, monkeypatch)
    monkeypatch.setattr(
        student, "_warm_rows", lambda task: np.tile(task.pool, 5)
    )  # several batches

    def measured() -> Tensor:
        model = student.create_student(run.config, run.base)
        student._measure_neck(run, model)
        statistics: Tensor = model.neck.norm.running_mean
        return statistics

    alone = measured()
    for found in on_ranks(2, measured):
        assert torch.equal(found, alone)


def a_training_goes_on_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("supervised", "freematch", "mean-teacher"):
        expected, history = trainings.trained(kind)
        resumed = trainings.cut_off(kind, tmp_path / kind, after=3)
        torch.manual_seed(99)  # of another process
        found, told = trainings.continued(kind, resumed)
        assert told == history, kind
        assert all(torch.equal(found[name], value) for name, value in expected.items()), kind


def scripted(*figures: float) -> tuple[Best, list[dict[str, Tensor]]]:
    """What measures these figures at its looks, and the states that it was shown."""
    shown: list[dict[str, Tensor]] = []

    def measure(model: nn.Module) -> float:
        shown.append(copy.deepcopy(model.state_dict()))
        return figures[len(best.measured)]

    best = Best(measure)
    return best, shown


def the_best_state_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, shown = scripted(4.0, 3.0, 1.0, 2.0, 5.0)
    found, _ = trainings.trained("supervised", best=best)
    assert len(shown) == 5
    assert all(torch.equal(found[name], value) for name, value in shown[2].items())
    best, shown = scripted(1.0, 1.0, 2.0, 2.0, 1.0)  # no better than the start, which stays
    found, _ = trainings.trained("supervised", best=best)
    assert all(torch.equal(found[name], value) for name, value in shown[0].items())


def a_training_in_vain_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, shown = scripted(1.0, 2.0, 0.0, 0.0, 0.0)
    found, history = trainings.trained("supervised", best=best)
    assert len(shown) == 2
    assert history[-1]["step"] == 2
    assert all(torch.equal(found[name], value) for name, value in shown[0].items())


def a_training_goes_on_with_its_best_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = (4.0, 1.0, 3.0, 2.0, 5.0)
    expected, _ = trainings.trained("supervised", best=scripted(*figures)[0])
    for after in (1, 2, 4, 6):
        folder = tmp_path / str(after)
        resumed = trainings.cut_off("supervised", folder, after, best=scripted(*figures)[0])
        best, _ = scripted(*figures)
        found, _ = trainings.continued("supervised", resumed, best=best)
        assert best.measured == list(figures)
        assert all(torch.equal(found[name], value) for name, value in expected.items()), after


def a_shortened_training_has_the_whole_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: Any, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    config = TrainConfig(40, lr_head=1e-3, lr_trunk=1e-3)
    pace = Pace(40, decided=[(10, 16)])  # of the 30 steps that were left, every fifth
    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(tiny.classifier(), tiny.batches(40), supervised_step, config, device=tiny.CPU, pace=pace)
    assert len(rates) == 16
    expected = [1e-3 * learning_rate_factor(at - 1, 40, 4) for at in (9, 10, 15, 20, 40)]
    assert [rates[at - 1] for at in (9, 10, 11, 12, 16)] == pytest.approx(expected)


def the_student_is_judged_on_images_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(student, "LEAST_APART", 1)
    run = prepared(tmp_path, monkeypatch)
    shown: list[np.ndarray] = []
    made = student.make_bank

    def noted(canvases: Any, rows: np.ndarray, *rest: Any, **options: Any) -> Any:
        shown.append(rows)
        return made(canvases, rows, *rest, **options)

    monkeypatch.setattr(student, "make_bank", noted)
    fits = captured_fits(monkeypatch)
    student.distill(run, [copy.deepcopy(run.base)], run.plan.student)
    apart = student._set_apart(run.task)
    assert 0 < len(apart) <= len(run.task.pool) / 5 + 1
    shown += [examples.rows for examples, _ in fits[0].loader.streams]
    assert not any(np.isin(apart, rows).any() for rows in shown)


def the_students_head_pairs_images_with_their_own_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "LEAST_APART", 1)
    monkeypatch.setattr(student, "STUDENT_IMAGES", 5)
    run = prepared(tmp_path, monkeypatch)
    task, teacher = run.task, copy.deepcopy(run.base)
    number = task.pool.argsort().argsort()  # in a pool that is in no order, too
    known = np.stack([number, -number], axis=1).astype(float)
    pairs: list[tuple[list[int], list[float]]] = []
    features = student._warm_features

    def noted(run: Any, rows: np.ndarray, model: Any) -> Any:
        pairs.append((rows.tolist(), []))
        return features(run, rows, model)

    def fitted(_: Any, __: Any, targets: Any) -> None:
        pairs[-1][1].extend(targets[:, 0].tolist())

    monkeypatch.setattr(student, "_warm_features", noted)
    monkeypatch.setattr(student, "_set_warm_head", fitted)
    captured_fits(monkeypatch)
    shuffled = run.on(pool=task.pool[::-1].copy())
    student.distill(shuffled, [teacher], run.plan.student, known[::-1])
    (rows, targets), *_ = pairs
    beliefs = softmax(known, teacher.spec.temperature)[:, 0]
    own = {int(row): belief for row, belief in zip(task.pool, beliefs, strict=True)}
    assert targets == pytest.approx([own[row] for row in rows] * student.WARM_VIEWS)


def every_leg_trains_head_and_trunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    fit = trained.fit

    def noted(run: Any, model: Any, *rest: Any) -> Any:
        after = fit(run, model, *rest)
        was, now = model.state_dict(), after.state_dict()
        names = ("head.weight", "trunk.conv_head.weight")
        moved.append([not torch.equal(was[name], now[name]) for name in names])
        return after

    run = prepared(tmp_path, monkeypatch)
    monkeypatch.setattr(trained, "fit", noted)
    run = run.on(folds=run.task.folds[:1])
    labels = [select(softmax(some_beliefs(run.task), 1.0))]
    head = frozen.Head(torch.zeros_like(run.base.head.weight), torch.zeros(run.task.n_classes))
    work = Work("trained", steps=6, batch_size=8, size=32, revisions=2)
    trained.train_trunk(run, [head], labels, work, "round", judged_folds=0)
    assert moved == [[True, True]] * 3


def teacher_of(task: types.Task, classes: np.ndarray, judged: np.ndarray) -> types.Beliefs:
    """One that takes the pool and the judged images for these classes, in every fold."""
    return types.Beliefs([4 * np.eye(2)[classes] for _ in task.folds], 4 * np.eye(2)[judged])


def ask_clusters(
    run: types.Run,
    features: frozen.Features,
    teacher: types.Beliefs,
    detections: list[Any] | None = None,
) -> pool.Clustered:
    """What the clusters say to a calibrated teacher."""
    detections = detections or [None] * len(run.task.folds)
    return pool.ask_clusters(run, features, "plain", teacher, 1.0, detections)


def held_out_labels_start_no_cluster_of_their_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path, monkeypatch)
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    features = made_up(truth, task.labels)
    teacher = teacher_of(task, truth, task.judged_labels)
    held_out = task.folds[1].judges
    turned = task.labels.copy()
    turned[held_out] = 1 - turned[held_out]
    other = run.on(labels=turned, judged_labels=turned)
    before, after = (ask_clusters(r, features, teacher).beliefs for r in (run, other))
    for number, same in ((0, False), (1, True)):
        one, two = before.pool[number], after.pool[number]
        assert one is not None
        assert two is not None
        assert np.array_equal(one, two) == same
    assert np.array_equal(before.judged[held_out], after.judged[held_out])


def the_head_with_the_likelier_labels_has_the_larger_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transfer chooses between a space that tells the classes and the probe's, which does not."""
    run = prepared(tmp_path, monkeypatch)
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    telling = made_up(truth, task.labels)
    silent = made_up(np.zeros_like(truth), np.zeros_like(task.labels))
    views = [
        frozen.Bank(tuple(torch.cat(pair, dim=1) for pair in zip(a.views, b.views, strict=True)))
        for a, b in ((silent.labeled, telling.labeled), (silent.pool, telling.pool))
    ]
    center = torch.cat([views[0].views[0], views[1].views[0]])
    columns = Columns(slice(center.shape[1] // 2), slice(center.shape[1] // 2, None))
    found = frozen.feature_metrics(center, columns, None)
    metrics = {name: (metric,) for name, metric in found.items()}
    features = frozen.Features(views[0], views[1], views[0], metrics)
    monkeypatch.setattr(frozen, "_outcome", lambda _run, _features, heads, **kept: (heads, kept))
    heads, kept = frozen.transfer(run, features)
    assert kept["choice"]["metric"] == "levels"
    assert kept["choice"]["weight"] > 0.9
    said = frozen._judged(task, heads, features).argmax(axis=1)
    assert np.array_equal(said, task.judged_labels)


def clusters_that_are_too_sure_do_not_outvote_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They label the pool of the first round together; each is first as sure as it may be."""
    task = prepared(tmp_path, monkeypatch).task
    right = np.eye(2)[task.judged_labels]
    half = np.where(np.arange(len(right))[:, None] % 2, right, right[:, ::-1])
    says = np.eye(2)[np.arange(len(task.pool)) % 2]
    head = types.Beliefs([4 * says for _ in task.folds], 4 * right)
    clusters = types.Beliefs([18 * says[:, ::-1] for _ in task.folds], 18 * half)
    for logits in answers.mean_beliefs(task, head, clusters).pool:
        assert logits is not None
        assert np.array_equal(logits.argmax(axis=1), says.argmax(axis=1))


def images_out_of_class_move_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tmp_path, monkeypatch)
    task = run.task
    truth = np.arange(len(task.pool)) % 2
    odd = np.arange(len(truth)) % 3 == 0
    detections = [Detection(odd.astype(float), 0.5) for _ in task.folds]
    metrics = made_up(truth, task.labels).metrics  # no part of what is compared
    teacher = teacher_of(task, truth, task.judged_labels)
    found = []
    for place in (2, 3):
        features = made_up(np.where(odd, place, truth), task.labels)
        features = dataclasses.replace(features, metrics=metrics)
        found.append(ask_clusters(run, features, teacher, detections).beliefs.pool[0])
    one, other = found
    assert one is not None
    assert other is not None
    assert np.array_equal(one[~odd], other[~odd])
    assert not np.array_equal(one[odd], other[odd])


def held_out_labels_are_no_part_of_their_chains_pseudo_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path, monkeypatch)
    task = run.task
    logits: list[Any] = [some_beliefs(task, seed) for seed in range(len(task.folds))]
    none: list[Any] = [None] * len(task.folds)
    known = np.eye(2)[task.judged_labels] + 0.1
    turned = known.copy()
    held_out = task.folds[1].judges
    turned[held_out] = known[held_out][:, ::-1]
    before, after = (
        pool.label_pool(run, types.Beliefs(logits, judged), 1.0, none) for judged in (known, turned)
    )
    for number, same in ((0, False), (1, True)):
        one, other = before[number], after[number]
        assert one is not None
        assert other is not None
        assert np.array_equal(one.probs, other.probs) == same
