import dataclasses
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.losses import kd_loss
from tutelage.models.classifier import Classifier
from tutelage.steps.distillation import DistillationStep, Teachers, mean_logits
from tutelage.training.batch import Batch


def batch(labeled: int = 3) -> Batch:
    plain = tiny.batches(1)[0]
    weights = (torch.arange(8) < labeled).float()
    targets = plain.targets * weights[:, None]
    return dataclasses.replace(
        plain, weights=weights, targets=targets, teacher_images=(plain.images,)
    )


def test_a_perfect_student_has_no_loss_and_agrees() -> None:
    teacher = tiny.classifier().eval()
    loss, metrics = DistillationStep(teacher, temperature=3.0, alpha=1.0)(teacher, batch())
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert float(metrics["teacher_agreement"]) == 1.0


def test_the_teacher_sees_its_own_view() -> None:
    teacher = tiny.Recorder()
    given = dataclasses.replace(batch(), teacher_images=(torch.rand(8, 3, 48, 48),))
    DistillationStep(teacher, temperature=1.0, alpha=0.5)(tiny.classifier(), given)
    assert len(teacher.seen) == 1
    assert torch.equal(teacher.seen[0], given.teacher_images[0])


def test_a_missing_view_is_refused() -> None:
    step = DistillationStep(tiny.classifier(), temperature=1.0, alpha=0.5)
    with pytest.raises(ValueError, match="teacher's resolution"):
        step(tiny.classifier(), dataclasses.replace(batch(), teacher_images=()))


def test_a_label_takes_its_share_from_the_teacher() -> None:
    student, teacher = (tiny.classifier(4, seed=seed).eval() for seed in (1, 2))
    given = batch()
    given = dataclasses.replace(given, targets=torch.nn.functional.pad(given.targets, (0, 2)))
    logits, wanted = student(given.images).detach(), teacher(given.images).detach()
    hard = 0.3 * F.cross_entropy(logits[:3], given.targets[:3].argmax(dim=1), reduction="sum") / 8
    weights = torch.tensor([0.7] * 3 + [1.0] * 5)
    expected = kd_loss(logits, wanted, temperature=2.0, weights=weights)
    loss, metrics = DistillationStep(teacher, temperature=2.0, alpha=0.7)(student, given)
    torch.testing.assert_close(metrics["kd"], expected)
    torch.testing.assert_close(loss.detach(), hard + expected)


# --- several teachers


def model(seed: int, **changes: Any) -> Classifier:
    made = tiny.classifier(3, seed=seed).eval()
    made.spec = dataclasses.replace(made.spec, **changes)
    return made


def pictures(size: int) -> Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(size))


def test_mean_by_hand() -> None:
    logits = [torch.tensor([[0.5, 0.5]]).log() + 9, torch.tensor([[0.9, 0.1]]).log()]
    torch.testing.assert_close(mean_logits(logits).exp(), torch.tensor([[0.7, 0.3]]))


def test_two_teachers_are_the_mean_of_their_calibrated_probabilities() -> None:
    models = [model(1, temperature=2.0), model(2, temperature=0.5)]
    images = pictures(32)
    with torch.no_grad():
        each = [torch.softmax(m(images) / m.spec.temperature, dim=1) for m in models]
    assert (each[0] - each[1]).abs().max() > 0.05
    found = Teachers(models)(images, images)
    torch.testing.assert_close(found.exp(), (each[0] + each[1]) / 2, atol=1e-4, rtol=1e-3)


def _watchable(made: Classifier) -> Any:
    """A model in the place of its snapshot, whose hooks would be another's."""
    return torch.no_grad()(lambda images: made(images))


def test_each_teacher_sees_its_own_view_with_its_own_normalisation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr("tutelage.steps.distillation.Forward", _watchable)
    models = [tiny.classifier(3, mean=(m,) * 3, std=(s,) * 3) for m, s in ((0.5, 0.5), (0.4, 0.2))]
    models[1].spec = dataclasses.replace(models[1].spec, input_size=48)
    for made in models:
        made.trunk.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    teachers = Teachers(models)
    assert teachers.sizes == (32, 48)
    teachers(pictures(32), pictures(48))
    torch.testing.assert_close(seen[0], (pictures(32) - 0.5) / 0.5)
    torch.testing.assert_close(seen[1], (pictures(48) - 0.4) / 0.2)


def test_a_view_for_each_teacher_is_needed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Teachers([model(1), model(2)])(pictures(32))


# --- known silent bugs


def test_teacher_gets_no_gradient() -> None:
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
