import math

import pytest
import torch

from tutelage.losses.mean_teacher import consistency_mse, ramp_up

STUDENT = torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log()
TEACHER = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()


def test_consistency_by_hand() -> None:
    # squares 0.04, 0.04 and 0.16, 0.16
    torch.testing.assert_close(consistency_mse(STUDENT, TEACHER), torch.tensor(0.1))


def test_consistency_is_zero_for_the_same_answers_and_blind_to_shifted_logits() -> None:
    torch.testing.assert_close(consistency_mse(STUDENT, STUDENT + 3), torch.tensor(0.0))


def test_consistency_has_the_right_gradient_for_the_student_and_none_for_the_teacher() -> None:
    student, teacher = STUDENT.double().requires_grad_(), TEACHER.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: consistency_mse(s, TEACHER.double()), (student,))
    consistency_mse(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, math.exp(-5)), (4, math.exp(-1.8)), (5, math.exp(-1.25)), (10, 1.0), (11, 1.0)],
)
def test_the_ramp_by_hand(step: int, expected: float) -> None:
    assert ramp_up(step, 10) == pytest.approx(expected)


def test_a_ramp_of_no_steps_is_none() -> None:
    assert ramp_up(0, 0) == 1.0
