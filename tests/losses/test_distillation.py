import math

import pytest
import torch
import torch.nn.functional as F

from tutelage.losses.distillation import kd_loss


def example(batch: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(
        2, batch, classes, generator=generator, dtype=torch.float64
    ).unbind()
    return student, teacher


def test_value_by_hand() -> None:
    # At T = 2 these are the logits of (1/2, 1/2) and (3/4, 1/4).
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(kd_loss(student, teacher, temperature=2.0)) == pytest.approx(4 * divergence)


def test_zero_at_the_teacher_and_positive_elsewhere() -> None:
    student, teacher = example()
    assert float(kd_loss(teacher, teacher, temperature=3.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(kd_loss(student, teacher, temperature=3.0)) > 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradcheck(temperature: float) -> None:
    student, teacher = example()
    weights = torch.linspace(0, 1, 5, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: kd_loss(s, teacher, temperature=temperature, weights=weights), (student,)
    )


def test_shifted_logits_and_permuted_batch_change_nothing() -> None:
    student, teacher = example()
    loss = kd_loss(student, teacher, temperature=2.0)
    shift = torch.arange(5.0)[:, None] * 7
    torch.testing.assert_close(kd_loss(student + shift, teacher - shift, temperature=2.0), loss)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(kd_loss(student[order], teacher[order], temperature=2.0), loss)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_torchs_batchmean_times_t_squared(temperature: float) -> None:
    student, teacher = example()
    expected = F.kl_div(
        torch.log_softmax(student / temperature, dim=1),
        torch.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    found = kd_loss(student, teacher, temperature=temperature)
    torch.testing.assert_close(found, temperature**2 * expected)


def test_gradient_keeps_its_size_at_high_temperatures() -> None:
    student, teacher = example()
    sizes = []
    for temperature in (20.0, 200.0):
        at = student.clone().requires_grad_()
        kd_loss(at, teacher, temperature=temperature).backward()
        sizes.append(float(at.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_weights_are_a_share_of_the_batch() -> None:
    student, teacher = example()
    weights = torch.tensor([1.0, 0, 0, 1, 0])
    some = torch.tensor([0, 3])
    expected = kd_loss(student[some], teacher[some], temperature=2.0) * 2 / 5
    found = kd_loss(student, teacher, temperature=2.0, weights=weights)
    torch.testing.assert_close(found, expected)


def test_half_precision_logits_are_compared_in_float32() -> None:
    student, teacher = (x.bfloat16() for x in example())
    loss = kd_loss(student, teacher, temperature=2.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, kd_loss(student.float(), teacher.float(), temperature=2.0))
