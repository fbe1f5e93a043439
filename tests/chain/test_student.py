"""Which student is built and what it is given; see also the silent bugs' checks."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import silent_checks
import torch
import torch.nn.functional as F
from processes import on_ranks
from torch import Tensor, nn

from tutelage.augment import Weak
from tutelage.chain import frozen, pipeline, student, trained, types
from tutelage.chain.answers import clean_logits, evaluation_look, set_calibration
from tutelage.chain.plan import Work
from tutelage.chain.student import (
    FEW_IMAGES,
    STRONG_STEPS,
    create_student,
    distill,
    is_cut_from,
    train_alone,
)
from tutelage.config import make_config
from tutelage.models.classifier import Classifier, body_of
from tutelage.models.folder import load_model, save_model
from tutelage.models.zoo import create, cut, join, residual_blocks
from tutelage.stats.calibrate import softmax
from tutelage.stats.unknown import energy
from tutelage.steps import distillation
from tutelage.steps.supervised import supervised_step
from tutelage.system.embedded import EMBEDDED, STUDENT, TEACHER
from tutelage.system.errors import TutelageError
from tutelage.training.best import Best


def teacher(architecture: str, classes: int) -> Classifier:
    return create(architecture, list(map(str, range(classes))), canvas=64, weights="none")


def student_of(whole: Classifier, name: str = "cut") -> Classifier:
    return create_student(make_config("run", {"student": name}), whole)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("classes", [2, 35, 100, 1000])
def test_lite0s_student_keeps_six_stages_in_a_quarter_at_any_number_of_classes(
    classes: int,
) -> None:
    whole = teacher("tf_efficientnet_lite0", classes)
    student = student_of(whole)
    assert student.spec.cut == 6
    assert student.spec.skipped == ("blocks.4.2", "blocks.5.1", "blocks.5.2", "blocks.5.3")
    assert 256 <= student.spec.head_hidden <= 1024
    assert 0.2 < parameters(student) / parameters(whole) <= 0.25


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "mobilenetv3_large_100"])
def test_other_families_are_cut_to_a_quarter(architecture: str) -> None:
    whole = teacher(architecture, 10)
    student = student_of(whole)
    assert parameters(student) <= 0.25 * parameters(whole)
    count, skipped = student.spec.cut, student.spec.skipped
    deeper = cut(whole, count + 1, neck=256, skipped=list(residual_blocks(whole, count + 1)))
    assert parameters(deeper) > 0.25 * parameters(whole)
    for name in skipped:
        wider = cut(whole, count, neck=256, skipped=[other for other in skipped if other != name])
        assert parameters(wider) > 0.25 * parameters(whole)


def test_a_student_of_several_trunks_is_cut_from_the_first() -> None:
    names = ("test_efficientnet", "test_resnet")
    first, other = (teacher(name, 3) for name in names)
    for name in ("cut", "cut:2"):
        found, expected = (student_of(whole, name) for whole in (join([first, other]), first))
        assert found.spec == expected.spec
        for ours, theirs in zip(found.parameters(), expected.parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_a_named_cut_is_kept_whatever_its_size() -> None:
    whole = teacher("tf_efficientnet_lite0", 2)
    assert student_of(whole, "cut:6").spec.cut == 6
    assert student_of(whole, "cut:6").spec.head_hidden == 256
    assert student_of(whole, "cut:2").spec.head_hidden == 1024


def test_a_named_student_is_the_architecture_with_the_teachers_classes() -> None:
    whole = teacher("resnet18", 3)
    config = make_config("run", {"student": "test_efficientnet", "student_weights": "none"})
    student = create_student(config, whole)
    assert (student.spec.architecture, student.spec.cut) == ("test_efficientnet", None)
    assert student.spec.classes == whole.spec.classes
    assert all(p.requires_grad for p in student.parameters())
    again = create_student(config, whole)  # random, but the same whatever was drawn before
    for name, value in student.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize(
    ("settings", "architecture", "images", "expected"),
    [
        ({}, TEACHER, FEW_IMAGES - 1, STUDENT),
        ({}, TEACHER, FEW_IMAGES, "cut"),
        ({}, "tf_efficientnet_lite0", FEW_IMAGES - 1, "cut"),
        ({"student": "cut"}, TEACHER, FEW_IMAGES - 1, "cut"),
        ({"student": "resnet18"}, TEACHER, FEW_IMAGES - 1, "resnet18"),
        ({"max_size_mb": 3.0}, TEACHER, FEW_IMAGES - 1, "cut"),
        ({"weights": "none"}, TEACHER, FEW_IMAGES - 1, "cut"),
    ],
)
def test_few_images_have_a_student_that_is_whole(
    settings: dict[str, Any], architecture: str, images: int, expected: str
) -> None:
    config = make_config("run", settings)
    found = student.with_named_student(config, teacher(architecture, 2), images)
    assert found == config.changed("distill", student=expected)


def test_lite0_is_as_large_as_is_remembered() -> None:
    assert parameters(teacher(STUDENT, 2).trunk) == EMBEDDED[STUDENT].parameters


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224", "coat_tiny"])
def test_where_no_student_can_be_cut_from_a_teacher_it_is_cut_from_lite0(
    name: str, tmp_path: Path
) -> None:
    whole = teacher(name, 3)
    student = student_of(whole)
    lite0 = create(STUDENT, whole.spec.classes, canvas=64)
    assert not is_cut_from(student, whole)
    assert is_cut_from(student, lite0)
    assert student.spec == student_of(lite0).spec
    for key, value in body_of(student.trunk).state_dict().items():  # with lite0's own weights
        assert torch.equal(value, lite0.trunk.state_dict()[key])
    save_model(student, tmp_path)  # and is loaded again without its teacher
    assert load_model(tmp_path).spec == student.spec
    with pytest.raises(TutelageError, match="choose a convolutional teacher or a student by name"):
        student_of(whole, "cut:2")


def test_students_that_cannot_be_made_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config("run", {"student": "cut", "student_weights": "none"})
    with pytest.raises(TutelageError, match="not for one that is cut"):
        create_student(config, teacher("resnet18", 2))
    monkeypatch.setattr(student, "embedded_file", lambda _: None)  # without lite0's weights
    with pytest.raises(TutelageError, match=r"cut from test_vit, .* efficientnet-lite0-pytorch"):
        student_of(teacher("test_vit", 2))
    few = student.with_named_student(make_config("run", {}), teacher(TEACHER, 2), FEW_IMAGES - 1)
    assert few.distill.student == "cut"


def test_stages_without_a_map_are_passed_over() -> None:
    """EfficientFormer's last stage gives tokens; those before it can be kept."""
    whole = teacher("efficientformer_l1", 2)
    cut_one = student_of(whole)
    assert is_cut_from(cut_one, whole)
    with pytest.raises(TutelageError, match="not a map"):
        cut(whole, 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[types.Run]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield silent_checks.prepared(tmp_path_factory.mktemp("student"), monkeypatch)


def short(run: types.Run, steps: int = 2) -> Work:
    return dataclasses.replace(run.plan.student, steps=steps, batch_size=8)


def answers(run: types.Run, seed: int, size: int = 32, temperature: float = 1.0) -> Classifier:
    """The run's trunk with a head that says something."""
    made = copy.deepcopy(run.base)
    torch.nn.init.normal_(made.head.weight, generator=torch.Generator().manual_seed(seed))
    made.spec = dataclasses.replace(made.spec, input_size=size, temperature=temperature)
    return made


def test_several_teachers_of_several_sizes_teach_one_student(
    run: types.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = silent_checks.captured_fits(monkeypatch)
    first, second = answers(run, 1, temperature=2.0), answers(run, 2, size=64)
    distill(run, [first, second], short(run))
    (fit,) = fits
    batch = fit.loader.batch(0)
    assert [view.shape[-1] for view in batch.teacher_images] == [32, 64]
    with torch.no_grad():
        pairs = zip((first, second), batch.teacher_images, strict=True)
        each = [torch.softmax(m.eval()(x) / m.spec.temperature, dim=1) for m, x in pairs]
    answer = fit.step.teacher(*batch.teacher_images)
    torch.testing.assert_close(answer.exp(), (each[0] + each[1]) / 2, atol=1e-3, rtol=1e-2)


def test_what_a_teacher_is_known_to_answer_is_not_asked_again(
    run: types.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Head and temperature are about those that asking would give."""
    silent_checks.captured_fits(monkeypatch)
    teacher = answers(run, 1, temperature=2.0)
    known = clean_logits(run, teacher, run.task.pool)
    asked = distill(run, [teacher], short(run))
    looked: list[Classifier] = []

    def noted(run: types.Run, model: Classifier, *rest: Any, **options: Any) -> Any:
        looked.append(model)
        return clean_logits(run, model, *rest, **options)

    monkeypatch.setattr(student, "clean_logits", noted)
    monkeypatch.setattr(distillation, "_calibrated", lambda _: None)  # no answers to be had
    told = distill(run, [teacher], short(run), known)
    assert not any(model is teacher for model in looked)

    def apart(model: Classifier) -> float:
        ours = softmax(clean_logits(run, model, run.task.pool), model.spec.temperature)
        return float(np.abs(ours - softmax(known, teacher.spec.temperature)).mean())

    assert apart(told.model) < 1.2 * apart(asked.model)
    assert told.model.spec.temperature == pytest.approx(asked.model.spec.temperature, rel=0.1)


@pytest.mark.parametrize("harm", [False, True])
def test_the_student_closer_to_its_teacher_is_kept(
    run: types.Run, monkeypatch: pytest.MonkeyPatch, harm: bool
) -> None:
    """Training that took it away from its teacher on plain views is not kept."""
    teacher = answers(run, 1, temperature=2.0)
    good: list[Classifier] = []

    def fit(run: Any, model: Classifier, *rest: Any) -> Classifier:
        """In place of training: from the fitted head to its opposite, or back."""
        (*_, best) = rest
        good.append(copy.deepcopy(model))
        bad = copy.deepcopy(model)
        with torch.no_grad():
            bad.head.weight.mul_(-1)
            bad.head.bias.mul_(-1)
        before, after = (model, bad) if harm else (bad, copy.deepcopy(model))
        best.begin(before)
        best.after(1, 1, after)
        return best.restore(after).eval()

    monkeypatch.setattr(trained, "fit", fit)
    outcome = distill(run, [teacher], short(run))
    torch.testing.assert_close(outcome.model.head.weight, good[0].head.weight)
    assert ("so it was undone: the student is" in outcome.remark) == harm
    assert outcome.remark.startswith("training brought it closer to its teacher") != harm


@pytest.mark.parametrize(
    ("teachers", "cut_from_lite0", "own", "stays"),
    [(None, False, "none", False), (None, False, None, True), ("none", True, None, True)],
)
def test_a_stem_is_kept_only_where_the_students_own_weights_are_pretrained(
    run: types.Run,
    monkeypatch: pytest.MonkeyPatch,
    teachers: str | None,
    cut_from_lite0: bool,
    own: str | None,
    stays: bool,
) -> None:
    """The teacher's weights say nothing about the student's."""
    fits = silent_checks.captured_fits(monkeypatch)
    options: dict[str, Any] = {"canvas": 32, "input_size": 32, "weights": "none"}
    name, teacher = "cut", create("test_vit", run.base.spec.classes, **options)
    if not cut_from_lite0:
        name, teacher = "test_efficientnet", answers(run, 1)
        made = create(name, run.base.spec.classes, **options)
        made.unfreeze_trunk()
        monkeypatch.setattr(student, "create_student", lambda *_: made)
    asked = run.changed("data", weights=teachers)
    asked = asked.changed("distill", student=name, student_weights=own)
    distill(asked, [teacher], dataclasses.replace(short(run), frozen_stages=3))
    (stem,) = (p for n, p in fits[0].model.named_parameters() if n.endswith("conv_stem.weight"))
    assert stem.requires_grad != stays


def test_a_student_alone_learns_the_labels(run: types.Run) -> None:
    silent = run.changed("transfer", drop_rate=0.0, mix="none", augment="none")
    model = train_alone(silent, short(run, steps=30)).model
    logits = evaluation_look(run.task.canvases, run.task.labeled, model, run.device)
    assert logits.argmax(dim=1).tolist() == run.task.labels.tolist()


@dataclasses.dataclass
class Attempt:
    """A training of the student, as the loop was asked for it."""

    start: dict[str, torch.Tensor]
    steps: int
    rate: float
    gentle: bool
    teacher_sizes: tuple[int, ...]


STRONG, GENTLE = (2e-3, False), (2e-4, True)


@pytest.mark.parametrize(
    ("weights", "planned", "looks", "steps", "ways"),
    [
        ("none", 40, [0.5], [40], [STRONG]),  # the first look is better than the start's 1.0
        ("none", 40, [2.0, 0.5], [40, 30], [STRONG, GENTLE]),
        ("none", 40, [2.0, 3.0], [40, 30], [STRONG, GENTLE]),
        (None, STRONG_STEPS - 1, [0.5], [STRONG_STEPS - 1], [GENTLE]),
        (None, STRONG_STEPS - 1, [3.0], [STRONG_STEPS - 1], [GENTLE]),
        (None, STRONG_STEPS, [0.5], [STRONG_STEPS], [STRONG]),
    ],
)
def test_what_the_student_does_not_bear_is_made_gentler(
    run: types.Run,
    monkeypatch: pytest.MonkeyPatch,
    weights: str | None,
    planned: int,
    looks: list[float],
    steps: list[int],
    ways: list[tuple[float, bool]],
) -> None:
    """The second attempt has the steps that are left, and begins where the first one began."""
    found: list[Attempt] = []

    def measure(model: Classifier) -> float:
        return looks[len(found) - 1] if model.head.bias[0] == 7.0 else 1.0

    def fit(
        run: Any, model: Classifier, step: Any, loader: Any, settings: Any, *rest: Any
    ) -> Classifier:
        (*_, best) = rest
        start = copy.deepcopy(model.state_dict())
        views = loader.views
        mild = isinstance(views.policy, Weak) and views.mix == "none"
        found.append(Attempt(start, settings.steps, settings.lr_trunk, mild, views.teacher_sizes))
        best.begin(model)
        after = copy.deepcopy(model)
        torch.nn.init.constant_(after.head.bias, 7.0)
        best.after(student.look_at(1, settings.steps), settings.steps, after)
        return best.restore(after).eval()

    monkeypatch.setattr(trained, "fit", fit)
    monkeypatch.setattr(student, "_divergence", lambda *_: measure)
    asked = run.changed("data", weights=weights)
    outcome = distill(asked, [answers(run, 1)], short(run, planned))
    assert [attempt.steps for attempt in found] == steps
    assert [attempt.rate for attempt in found] == pytest.approx([rate for rate, _ in ways])
    assert [attempt.gentle for attempt in found] == [gentle for _, gentle in ways]
    for attempt in found:
        torch.testing.assert_close(attempt.start, found[0].start)
        assert attempt.teacher_sizes == (32,)
    assert bool((outcome.model.head.bias == 7.0).all()) == (looks[-1] < 1.0)
    undone = "the student's training did not bring it closer to its teacher, so it was undone"
    assert outcome.remark.startswith(undone) == (looks[-1] > 1.0)
    assert ("untrained network" in outcome.remark) == (looks[-1] > 1.0 and weights == "none")


@pytest.mark.parametrize(
    ("after", "words"),
    [(0.03, "the student's training was too short to help, with 8 of 40 steps, so it was "
      "undone: the student is a pretrained network with a new last layer, fitted to its "
      "teacher's answers"),
     (0.00299, "there was time for only 8 of 40 steps of the student's training, which brought it "
      "closer to its teacher")],
)  # fmt: skip
def test_a_training_that_was_cut_short_is_told_in_one_sentence(after: float, words: str) -> None:
    best = Best(lambda _: 0.0)
    best.measured = [0.003, after]
    assert student._remark(best, "8 of 40 steps", pretrained=True) == words


def test_the_threshold_for_unknown_images_is_matched_on_the_one_view_that_is_deployed(
    run: types.Run, chain: pipeline.Pipeline
) -> None:
    """The teacher's answers about the pool are means of two views, whose energies are higher."""
    outcome = frozen.transfer(run, chain.features)
    known = clean_logits(run, outcome.model, run.task.pool)
    one = energy(clean_logits(run, outcome.model, run.task.pool, views=1))
    threshold = float(np.sort(one)[len(one) // 2])
    set_calibration(outcome.model, 1.0, threshold)
    copied = copy.deepcopy(outcome.model)
    student._calibrate_to(run, copied, student._Asked(run, [outcome.model], known))
    found = copied.spec.unknown_threshold
    assert ((one > found) == (one > threshold)).all()
    # What is known may differ from what is deployed: it must play no part.
    student._calibrate_to(run, copied, student._Asked(run, [outcome.model], known + 9.0))
    assert copied.spec.unknown_threshold == found


# --- known silent bugs


def test_student_alone_sees_labels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = silent_checks.prepared(tmp_path, monkeypatch)
    taught = silent_checks.student_fit(run, monkeypatch)
    fits = silent_checks.captured_fits(monkeypatch)
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


def test_pipeline_teacher_is_in_evaluation_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = silent_checks.prepared(tmp_path, monkeypatch)
    teacher = copy.deepcopy(run.base)
    teacher.unfreeze_trunk()
    teacher.set_noise(0.5, 0.0)
    with torch.no_grad():
        teacher.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    teacher.spec = dataclasses.replace(teacher.spec, temperature=2.0)
    teacher.train()
    before, still = copy.deepcopy(teacher.state_dict()), copy.deepcopy(teacher).eval()
    fit = silent_checks.student_fit(run, monkeypatch, teacher)
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


def test_pipeline_gives_both_the_same_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = silent_checks.prepared(tmp_path, monkeypatch)
    teacher = copy.deepcopy(run.base)
    teacher.spec = dataclasses.replace(teacher.spec, input_size=64)
    batch = silent_checks.student_fit(run, monkeypatch, teacher).loader.batch(0)
    (view,) = batch.teacher_images
    assert view.shape[-1] == 64
    # Noise pictures: other pixels of the same picture agree only in their mean colour.
    small, large = batch.images, F.avg_pool2d(view, 2)
    pairs = zip(small.flatten(1), large.flatten(1), strict=True)
    alike = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]
    assert np.median(alike) > 0.9


def test_ranks_measure_a_neck_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = silent_checks.prepared(tmp_path, monkeypatch)
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


def test_the_student_is_judged_on_images_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "LEAST_APART", 1)
    run = silent_checks.prepared(tmp_path, monkeypatch)
    shown: list[np.ndarray] = []
    made = student.make_bank

    def noted(canvases: Any, rows: np.ndarray, *rest: Any, **options: Any) -> Any:
        shown.append(rows)
        return made(canvases, rows, *rest, **options)

    monkeypatch.setattr(student, "make_bank", noted)
    fits = silent_checks.captured_fits(monkeypatch)
    student.distill(run, [copy.deepcopy(run.base)], run.plan.student)
    apart = student._set_apart(run.task)
    assert 0 < len(apart) <= len(run.task.pool) / 5 + 1
    shown += [examples.rows for examples, _ in fits[0].loader.streams]
    assert not any(np.isin(apart, rows).any() for rows in shown)


def test_the_students_head_pairs_images_with_their_own_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student, "LEAST_APART", 1)
    monkeypatch.setattr(student, "STUDENT_IMAGES", 5)
    run = silent_checks.prepared(tmp_path, monkeypatch)
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
    silent_checks.captured_fits(monkeypatch)
    shuffled = run.on(pool=task.pool[::-1].copy())
    student.distill(shuffled, [teacher], run.plan.student, known[::-1])
    (rows, targets), *_ = pairs
    beliefs = softmax(known, teacher.spec.temperature)[:, 0]
    own = {int(row): belief for row, belief in zip(task.pool, beliefs, strict=True)}
    assert targets == pytest.approx([own[row] for row in rows] * student.WARM_VIEWS)
