import pytest
import torch

from tutelage.losses.hints import hint_loss


def test_value_by_hand() -> None:
    guesses, hints = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [2.0, 0.0]])
    # Mean squared errors (1 + 4) / 2 and 4 / 2, halved.
    assert float(hint_loss(guesses, hints)) == pytest.approx((1.25 + 1.0) / 2)
    weights = torch.tensor([0.0, 0.5])
    assert float(hint_loss(guesses, hints, weights=weights)) == pytest.approx(0.5 * 1.0 / 2)


def test_zero_at_the_hint_and_no_gradient_into_the_teacher() -> None:
    guesses = torch.randn(3, 4, requires_grad=True)
    hints = torch.randn(3, 4, requires_grad=True)
    assert hint_loss(hints, hints).item() == 0.0
    hint_loss(guesses, hints).backward()
    assert hints.grad is None
    assert guesses.grad is not None
    torch.testing.assert_close(guesses.grad, (guesses - hints).detach() / 12)


def test_half_precision_features_are_compared_in_float32() -> None:
    assert hint_loss(torch.ones(2, 3).bfloat16(), torch.zeros(2, 3)).dtype == torch.float32
