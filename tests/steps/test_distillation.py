import dataclasses

import pytest
import tiny
import torch
import torch.nn.functional as F

from tutelage.losses.dist import dist_loss
from tutelage.losses.distillation import kd_loss
from tutelage.losses.dkd import dkd_loss
from tutelage.losses.standardize import standardize
from tutelage.steps.distillation import Answer, DistillationStep
from tutelage.training.batch import Batch


def batch(labeled: int = 3) -> Batch:
    plain = tiny.batches(1)[0]
    weights = (torch.arange(8) < labeled).float()
    targets = plain.targets * weights[:, None]
    return dataclasses.replace(
        plain, weights=weights, targets=targets, teacher_images=(plain.images,)
    )


def test_without_labels_it_is_the_kd_loss() -> None:
    student, teacher = tiny.classifier(seed=1).eval(), tiny.classifier(seed=2).eval()
    given = batch(labeled=0)
    loss, metrics = DistillationStep(tiny.answering(teacher), temperature=2.0, alpha=0.3)(
        student, given
    )
    expected = kd_loss(student(given.images), teacher(given.images), temperature=2.0)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["kd"], expected.detach())


def test_alpha_zero_on_labels_is_plain_cross_entropy() -> None:
    student, teacher = tiny.classifier(seed=1).eval(), tiny.classifier(seed=2).eval()
    given = batch(labeled=8)
    loss, _ = DistillationStep(tiny.answering(teacher), temperature=2.0, alpha=0.0)(student, given)
    labels = given.targets.argmax(dim=1)
    torch.testing.assert_close(loss, F.cross_entropy(student(given.images), labels))


def test_a_perfect_student_has_no_loss_and_agrees() -> None:
    teacher = tiny.classifier().eval()
    loss, metrics = DistillationStep(tiny.answering(teacher), temperature=3.0, alpha=1.0)(
        teacher, batch()
    )
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert float(metrics["teacher_agreement"]) == 1.0


def test_the_teacher_sees_its_own_view() -> None:
    teacher = tiny.Recorder()
    given = dataclasses.replace(batch(), teacher_images=(torch.rand(8, 3, 48, 48),))
    DistillationStep(tiny.answering(teacher), temperature=1.0, alpha=0.5)(tiny.classifier(), given)
    assert len(teacher.seen) == 1
    assert torch.equal(teacher.seen[0], given.teacher_images[0])


def test_a_missing_view_is_refused() -> None:
    step = DistillationStep(tiny.answering(tiny.classifier()), temperature=1.0, alpha=0.5)
    with pytest.raises(ValueError, match="teacher's resolution"):
        step(tiny.classifier(), dataclasses.replace(batch(), teacher_images=()))


@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize("kd", ["kd", "dkd", "dist"])
def test_each_kind_is_its_loss(kd: str, standardized: bool) -> None:
    student, teacher = (tiny.classifier(4, seed=seed).eval() for seed in (1, 2))
    given = batch()
    given = dataclasses.replace(given, targets=torch.nn.functional.pad(given.targets, (0, 2)))
    logits, wanted = student(given.images).detach(), teacher(given.images).detach()
    top = wanted.argmax(dim=1)
    target = torch.where(given.weights > 0, given.targets.argmax(dim=1), top)
    assert not torch.equal(target[:3], top[:3])
    hard = 0.3 * F.cross_entropy(logits[:3], target[:3], reduction="sum") / 8
    if standardized:
        logits, wanted = standardize(logits), standardize(wanted)
    weights = torch.tensor([0.7] * 3 + [1.0] * 5)
    options = {"temperature": 2.0, "weights": weights}
    expected = {
        "kd": kd_loss(logits, wanted, **options),
        "dkd": dkd_loss(logits, wanted, target=target, **options),
        "dist": dist_loss(logits, wanted, **options),
    }
    step = DistillationStep(
        tiny.answering(teacher), temperature=2.0, alpha=0.7, kd=kd, standardize=standardized
    )
    loss, metrics = step(student, given)
    torch.testing.assert_close(metrics[kd], expected[kd])
    torch.testing.assert_close(loss.detach(), hard + expected[kd])


def hinted(weight: float = 0.5) -> tuple[DistillationStep, torch.nn.Module, Batch]:
    teacher, student = tiny.classifier(seed=2).eval(), tiny.classifier(seed=1).eval()
    student.connector = torch.nn.Linear(8, 8)
    step = DistillationStep(
        lambda images: Answer(teacher(images), teacher.features(images)), 2.0, 0.7,
        hint_weight=weight,
    )  # fmt: skip
    return step, student, batch()


def test_the_hint_is_the_error_of_the_connected_features() -> None:
    step, student, given = hinted()
    loss, metrics = step(student, given)
    guesses = student.connector(student.features(given.images))
    features = step.teacher(given.images).features
    error = 0.5 * F.mse_loss(guesses, features)
    torch.testing.assert_close(metrics["hint"], error.detach())
    plain, _ = dataclasses.replace(step, hint_weight=0.0)(student, given)
    torch.testing.assert_close(loss, plain + 0.5 * error)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


def test_hints_need_features_of_the_teacher() -> None:
    step, student, given = hinted()
    step = dataclasses.replace(step, teacher=tiny.answering(tiny.classifier()))
    with pytest.raises(ValueError, match="gives its features"):
        step(student, given)


def test_a_cached_teacher_is_asked_once_for_each_key() -> None:
    teacher, student = tiny.Recorder(), tiny.classifier()
    step = DistillationStep(tiny.answering(teacher), 2.0, 0.5, cache={})
    for key in (3, 4, 3, 4, 3):
        step(student, dataclasses.replace(batch(), key=key))
    assert len(teacher.seen) == 2
    with pytest.raises(ValueError, match="batches with a key"):
        step(student, batch())


def test_without_a_cache_the_teacher_is_asked_every_time() -> None:
    teacher = tiny.Recorder()
    step = DistillationStep(tiny.answering(teacher), 2.0, 0.5)
    for _ in range(3):
        step(tiny.classifier(), dataclasses.replace(batch(), key=3))
    assert len(teacher.seen) == 3
