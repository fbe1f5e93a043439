import math

import pytest
import torch
from torch import Tensor

from tutelage.losses.dist import correlation, dist_loss

STUDENT = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]).log()
TEACHER = torch.tensor([[0.6, 0.2, 0.2], [0.2, 0.2, 0.6]]).log()
# Centred, a row is (5, -1, -4) / 30 for the student and (2, -1, -1) / 7.5 for the teacher.
INTER = 1 - (10 + 1 + 4) / math.sqrt(42 * 6)
INTRA = 1 / 3  # of three classes, two move together and the one in the middle does not move


def example(batch: int = 5, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(
        2, batch, classes, generator=generator, dtype=torch.float64
    ).unbind()
    return student, teacher


@pytest.mark.parametrize(("beta", "gamma"), [(1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_value_by_hand(beta: float, gamma: float) -> None:
    found = dist_loss(STUDENT, TEACHER, temperature=1.0, beta=beta, gamma=gamma)
    assert float(found) == pytest.approx(beta * INTER + gamma * INTRA, abs=1e-6)


def test_the_temperature_divides_both_logits() -> None:
    found = dist_loss(4 * STUDENT, 4 * TEACHER, temperature=4.0, beta=1.0, gamma=1.0)
    assert float(found) == pytest.approx(INTER + INTRA, abs=1e-6)


def test_zero_at_the_teacher_and_positive_elsewhere() -> None:
    student, teacher = example()
    assert float(dist_loss(teacher, teacher, temperature=2.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(dist_loss(student, teacher, temperature=2.0)) > 0.1


def test_probabilities_shrunk_toward_the_uniform_lose_nothing() -> None:
    _, teacher = example()
    probs = torch.softmax(teacher / 2.0, dim=1)
    unsure = 2.0 * (0.3 * probs + 0.7 / 4).log()
    assert float(dist_loss(unsure, teacher, temperature=2.0)) == pytest.approx(0.0, abs=1e-12)


def test_shifted_logits_and_permuted_batch_change_nothing() -> None:
    student, teacher = example()
    loss = dist_loss(student, teacher, temperature=2.0)
    shift = torch.arange(5.0)[:, None] * 7
    torch.testing.assert_close(dist_loss(student + shift, teacher - shift, temperature=2.0), loss)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(dist_loss(student[order], teacher[order], temperature=2.0), loss)


def test_gradient_keeps_its_size_at_high_temperatures() -> None:
    student, teacher = example()
    sizes = []
    for temperature in (20.0, 200.0):
        at = student.clone().requires_grad_()
        dist_loss(at, teacher, temperature=temperature).backward()
        assert at.grad is not None
        sizes.append(float(at.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_gradcheck_and_none_to_the_teacher() -> None:
    student, teacher = example()
    weights = torch.linspace(0, 1, 5, dtype=torch.float64)
    student.requires_grad_()
    teacher.requires_grad_()

    def loss(logits: Tensor) -> Tensor:
        return dist_loss(logits, teacher, temperature=2.0, weights=weights)

    assert torch.autograd.gradcheck(loss, (student,))
    loss(student).backward()
    assert teacher.grad is None


def test_an_image_of_weight_zero_is_as_if_it_were_not_there() -> None:
    student, teacher = example()
    some = torch.tensor([0, 2, 3])
    expected = dist_loss(student[some], teacher[some], temperature=2.0) * 3 / 5
    weights = torch.tensor([1.0, 0, 1, 1, 0], dtype=torch.float64)
    found = dist_loss(student, teacher, temperature=2.0, weights=weights)
    torch.testing.assert_close(found, expected)


def test_the_loss_scales_with_a_common_factor_of_the_weights() -> None:
    student, teacher = example()
    weights = torch.linspace(0.2, 1, 5, dtype=torch.float64)
    whole = dist_loss(student, teacher, temperature=2.0, weights=weights)
    half = dist_loss(student, teacher, temperature=2.0, weights=0.5 * weights)
    torch.testing.assert_close(half, 0.5 * whole)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_uniform_student_and_a_batch_without_weight_are_finite(weight: float) -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    loss = dist_loss(student, TEACHER, temperature=1.0, weights=torch.full((2,), weight))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2 * weight)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_correlation_is_numpys_and_weights_repeat_columns() -> None:
    a, b = example()
    expected = torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(a, b, strict=True)]
    )
    torch.testing.assert_close(correlation(a, b, torch.ones(4, dtype=torch.float64)), expected)
    repeated = torch.tensor([0, 1, 1, 2, 3, 3, 3])
    found = correlation(a, b, torch.tensor([1.0, 2, 1, 3], dtype=torch.float64))
    ones = torch.ones(7, dtype=torch.float64)
    torch.testing.assert_close(found, correlation(a[:, repeated], b[:, repeated], ones))


def test_half_precision_logits_are_compared_in_float32() -> None:
    student, teacher = example()
    found = dist_loss(student.bfloat16(), teacher.bfloat16(), temperature=2.0)
    assert found.dtype == torch.float32
