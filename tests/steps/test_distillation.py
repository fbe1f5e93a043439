import dataclasses

import pytest
import tiny
import torch
import torch.nn.functional as F

from tutelage.batch import Batch
from tutelage.losses.distillation import kd_loss
from tutelage.steps.distillation import DistillationStep


def batch(labeled: int = 3) -> Batch:
    plain = tiny.batches(1)[0]
    weights = (torch.arange(8) < labeled).float()
    images = plain.images
    return dataclasses.replace(
        plain, weights=weights, targets=plain.targets * weights[:, None], teacher_images=images
    )


def test_without_labels_it_is_the_kd_loss() -> None:
    student, teacher = tiny.classifier(seed=1).eval(), tiny.classifier(seed=2).eval()
    given = batch(labeled=0)
    loss, metrics = DistillationStep(teacher, temperature=2.0, alpha=0.3)(student, given)
    expected = kd_loss(student(given.images), teacher(given.images), temperature=2.0)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["kl"], expected.detach())


def test_alpha_zero_on_labels_is_plain_cross_entropy() -> None:
    student, teacher = tiny.classifier(seed=1).eval(), tiny.classifier(seed=2).eval()
    given = batch(labeled=8)
    loss, _ = DistillationStep(teacher, temperature=2.0, alpha=0.0)(student, given)
    labels = given.targets.argmax(dim=1)
    torch.testing.assert_close(loss, F.cross_entropy(student(given.images), labels))


def test_a_perfect_student_has_no_loss_and_agrees() -> None:
    teacher = tiny.classifier().eval()
    loss, metrics = DistillationStep(teacher, temperature=3.0, alpha=1.0)(teacher, batch())
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert float(metrics["teacher_agreement"]) == 1.0


def test_the_teacher_sees_its_own_view() -> None:
    teacher = tiny.Recorder()
    given = dataclasses.replace(batch(), teacher_images=torch.rand(8, 3, 48, 48))
    DistillationStep(teacher, temperature=1.0, alpha=0.5)(tiny.classifier(), given)
    assert len(teacher.seen) == 1
    assert torch.equal(teacher.seen[0], given.teacher_images)


def test_a_missing_view_is_refused() -> None:
    step = DistillationStep(tiny.classifier(), temperature=1.0, alpha=0.5)
    with pytest.raises(ValueError, match="teacher's resolution"):
        step(tiny.classifier(), dataclasses.replace(batch(), teacher_images=None))
