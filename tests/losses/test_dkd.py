import math

import pytest
import torch
from torch import Tensor

from tutelage.losses.distillation import kd_loss
from tutelage.losses.dkd import dkd_loss, target_class

STUDENT = torch.zeros(1, 3)
TEACHER = torch.tensor([[0.5, 0.375, 0.125]]).log()
FIRST = torch.tensor([0])
TCKD = 0.5 * math.log(0.5 / (1 / 3)) + 0.5 * math.log(0.5 / (2 / 3))
NCKD = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)


def example(batch: int = 5, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(
        2, batch, classes, generator=generator, dtype=torch.float64
    ).unbind()
    return student, teacher, torch.arange(batch) % classes


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_value_by_hand(alpha: float, beta: float) -> None:
    found = dkd_loss(STUDENT, TEACHER, target=FIRST, temperature=1.0, alpha=alpha, beta=beta)
    assert float(found) == pytest.approx(alpha * TCKD + beta * NCKD)


def test_twice_the_logits_at_twice_the_temperature_weigh_four_times() -> None:
    found = dkd_loss(STUDENT, 2 * TEACHER, target=FIRST, temperature=2.0, beta=3.0)
    assert float(found) == pytest.approx(4 * (TCKD + 3 * NCKD))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_with_the_teachers_doubt_as_beta_it_is_plain_distillation(temperature: float) -> None:
    student, teacher, target = example()
    doubt = 1.0 - torch.softmax(teacher / temperature, dim=1)
    for row in range(5):
        one = (student[row : row + 1], teacher[row : row + 1])
        beta = float(doubt[row, target[row]])
        found = dkd_loss(*one, target=target[row : row + 1], temperature=temperature, beta=beta)
        torch.testing.assert_close(found, kd_loss(*one, temperature=temperature))


def test_of_two_classes_it_is_plain_distillation_whatever_beta() -> None:
    student, teacher, target = example(classes=2)
    found = dkd_loss(student, teacher, target=target, temperature=2.0, beta=8.0)
    torch.testing.assert_close(found, kd_loss(student, teacher, temperature=2.0))


def test_zero_at_the_teacher_and_positive_elsewhere() -> None:
    student, teacher, target = example()
    same = dkd_loss(teacher, teacher + 3, target=target, temperature=2.0)
    assert float(same) == pytest.approx(0.0, abs=1e-12)
    assert float(dkd_loss(student, teacher, target=target, temperature=2.0)) > 0


def test_the_targets_logit_does_not_touch_the_others_term() -> None:
    student, teacher, target = example()
    student.requires_grad_()
    dkd_loss(student, teacher, target=target, temperature=2.0, alpha=0.0).backward()
    assert student.grad is not None
    assert student.grad.gather(1, target[:, None]).abs().max() < 1e-12
    assert (student.grad.abs().sum(dim=1) > 0).all()


def test_gradcheck_and_none_to_the_teacher() -> None:
    student, teacher, target = example()
    weights = torch.linspace(0, 1, 5, dtype=torch.float64)
    student.requires_grad_()
    teacher.requires_grad_()

    def loss(logits: Tensor) -> Tensor:
        return dkd_loss(logits, teacher, target=target, temperature=2.0, beta=2.0, weights=weights)

    assert torch.autograd.gradcheck(loss, (student,))
    loss(student).backward()
    assert teacher.grad is None


def test_a_certain_teacher_gives_finite_values() -> None:
    student = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[500.0, 0.0, -500.0]])
    loss = dkd_loss(student, teacher, target=FIRST, temperature=1.0)
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_weights_are_a_share_of_the_batch() -> None:
    student, teacher, target = example()
    some = torch.tensor([0, 3])
    expected = dkd_loss(student[some], teacher[some], target=target[some], temperature=2.0) * 2 / 5
    weights = torch.tensor([1.0, 0, 0, 1, 0])
    found = dkd_loss(student, teacher, target=target, temperature=2.0, weights=weights)
    torch.testing.assert_close(found, expected)


def test_half_precision_logits_are_compared_in_float32() -> None:
    student, teacher, target = example()
    found = dkd_loss(student.bfloat16(), teacher.bfloat16(), target=target, temperature=2.0)
    assert found.dtype == torch.float32


def test_target_is_the_label_or_else_the_teachers_top_class() -> None:
    teacher = torch.tensor([[0.0, 1.0, 0.0]]).expand(5, 3)
    targets = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0.7, 0, 0.3], [1, 0, 0], [0, 0, 0.9999999]])
    # A label, no label, two labels, a label beside unlabelled pixels, a label rounded in mixing.
    weights = torch.tensor([1.0, 0.0, 1.0, 0.7, 1.0])
    assert target_class(targets, weights, teacher).tolist() == [0, 1, 1, 1, 2]
