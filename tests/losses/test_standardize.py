import pytest
import torch

from tutelage.losses.dist import dist_loss
from tutelage.losses.distillation import kd_loss
from tutelage.losses.dkd import dkd_loss
from tutelage.losses.standardize import standardize


def test_value_by_hand() -> None:
    found = standardize(torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]]))
    # Deviations (-1, 0, 1) over sqrt(2 / 3), and (-2, -2, 4) over sqrt(8).
    expected = torch.tensor([[-(1.5**0.5), 0.0, 1.5**0.5], [-(0.5**0.5), -(0.5**0.5), 2**0.5]])
    torch.testing.assert_close(found, expected)


def test_shift_and_scale_of_an_images_logits_change_nothing() -> None:
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale = torch.linspace(0.1, 9, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(standardize(scale * logits + 7 * scale), standardize(logits))
    torch.testing.assert_close(standardize(-logits), -standardize(logits))


@pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
def test_with_it_a_student_of_another_scale_loses_nothing(name: str) -> None:
    teacher = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    student = 0.2 * teacher + 5
    target = teacher.argmax(dim=1)

    def loss(a: torch.Tensor, b: torch.Tensor) -> float:
        if name == "dkd":
            return float(dkd_loss(a, b, target=target, temperature=2.0))
        return float((kd_loss if name == "kd" else dist_loss)(a, b, temperature=2.0))

    assert loss(student, teacher) > 1e-3
    assert loss(standardize(student), standardize(teacher)) == pytest.approx(0.0, abs=1e-12)


def test_gradcheck() -> None:
    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(standardize, (logits.requires_grad_(),))


def test_equal_logits_become_zeros_with_a_finite_gradient() -> None:
    logits = torch.full((2, 3), 4.0, requires_grad=True)
    out = standardize(logits)
    out.square().sum().backward()
    assert torch.equal(out, torch.zeros(2, 3))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_half_precision_is_widened() -> None:
    assert standardize(torch.randn(2, 3).bfloat16()).dtype == torch.float32
