import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.losses import adjust_logits, cross_entropy, inverse_frequency, kd_loss, log_prior

LOSSES = {"cross_entropy": cross_entropy, "kd_loss": partial(kd_loss, temperature=2.0)}


def example(loss: str = "cross_entropy") -> tuple[Tensor, Tensor, Tensor]:
    """Logits, what they are compared with, and weights of 6 images of 4 classes."""
    generator = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64).unbind()
    weights = torch.rand(6, generator=generator, dtype=torch.float64)
    return logits, other.softmax(dim=1) if loss == "cross_entropy" else other, weights


@pytest.fixture(params=LOSSES)
def case(request: pytest.FixtureRequest) -> tuple[Callable[..., Tensor], Tensor, Tensor, Tensor]:
    return LOSSES[request.param], *example(request.param)


# --- both


def test_gradients_are_those_of_the_value(case: tuple) -> None:
    loss, logits, other, weights = case
    at = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, other, weights=weights), (at,))


def test_shifted_logits_and_permuted_images_change_nothing(case: tuple) -> None:
    loss, logits, other, weights = case
    expected = loss(logits, other, weights=weights)
    shift = torch.arange(6.0)[:, None] * 10
    torch.testing.assert_close(loss(logits + shift, other, weights=weights), expected)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    permuted = loss(logits[order], other[order], weights=weights[order])
    torch.testing.assert_close(permuted, expected)


def test_a_weight_of_zero_lowers_the_loss_and_lends_nothing(case: tuple) -> None:
    loss, logits, other, _ = case
    some = torch.tensor([1.0, 0, 0, 1, 0, 1])
    expected = loss(logits[some > 0], other[some > 0]) * 3 / 6
    torch.testing.assert_close(loss(logits, other, weights=some), expected)
    assert float(loss(logits, other, weights=torch.zeros(6))) == 0.0


def test_half_precision_is_summed_in_float32(case: tuple) -> None:
    loss, logits, other, _ = case
    found = loss(logits.bfloat16(), other.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(logits.bfloat16().float(), other.float()))


# --- cross-entropy


def test_value_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])
    targets = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    first, second = -math.log(3 / 4), -0.5 * math.log(4 / 5) - 0.5 * math.log(1 / 5)
    assert math.isclose(float(cross_entropy(logits, targets)), (first + second) / 2, rel_tol=1e-6)
    weighted = cross_entropy(logits, targets, torch.tensor([1.0, 0.5]))
    assert math.isclose(float(weighted), (first + 0.5 * second) / 2, rel_tol=1e-6)


def test_equals_torch() -> None:
    logits, targets, _ = example()
    torch.testing.assert_close(cross_entropy(logits, targets), F.cross_entropy(logits, targets))
    labels = torch.tensor([0, 3, 1, 2, 0, 1])
    one_hot = F.one_hot(labels, 4).double()
    torch.testing.assert_close(cross_entropy(logits, one_hot), F.cross_entropy(logits, labels))


# --- distillation


def test_the_divergence_by_hand() -> None:
    # At T = 2 these are the logits of (1/2, 1/2) and (3/4, 1/4).
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(kd_loss(student, teacher, temperature=2.0)) == pytest.approx(4 * divergence)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_torchs_batchmean_times_t_squared(temperature: float) -> None:
    student, teacher, _ = example("kd_loss")
    expected = F.kl_div(
        torch.log_softmax(student / temperature, dim=1),
        torch.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    found = kd_loss(student, teacher, temperature=temperature)
    torch.testing.assert_close(found, temperature**2 * expected)


def test_gradient_keeps_its_size_at_high_temperatures() -> None:
    student, teacher, _ = example("kd_loss")
    sizes = []
    for temperature in (20.0, 200.0):
        at = student.clone().requires_grad_()
        kd_loss(at, teacher, temperature=temperature).backward()
        sizes.append(float(at.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_losses_give_the_teacher_no_gradient() -> None:
    student = torch.randn(4, 3, requires_grad=True)
    teacher = torch.randn(4, 3, requires_grad=True)
    kd_loss(student, teacher, temperature=2.0).backward()
    assert student.grad is not None
    assert teacher.grad is None


# --- balance


def test_weights_by_hand_have_a_mean_of_one_over_the_images() -> None:
    counts = torch.tensor([6.0, 3.0, 1.0])
    weights = inverse_frequency(counts)
    torch.testing.assert_close(weights, torch.tensor([10 / 18, 10 / 9, 10 / 3]))
    torch.testing.assert_close((counts * weights).sum(), counts.sum())
    for k in (2, 3, 10):
        assert torch.equal(inverse_frequency(torch.full((k,), 7.0)), torch.ones(k))
    without_images = inverse_frequency(torch.tensor([3.0, 0.0, 1.0]))
    torch.testing.assert_close(without_images, torch.tensor([2 / 3, 0.0, 2.0]))


def test_prior_by_hand() -> None:
    found = log_prior(torch.tensor([8.0, 1.0, 0.0]), smoothing=1.0)
    torch.testing.assert_close(found, torch.tensor([9.0, 2.0, 1.0]).div(12).log())
    exact = log_prior(torch.tensor([9.0, 1.0]), smoothing=0.0)
    torch.testing.assert_close(exact, torch.tensor([0.9, 0.1]).log())


def test_loss_of_two_classes_by_hand() -> None:
    prior = torch.tensor([0.9, 0.1]).log()
    undecided, towards = torch.zeros(1, 2), torch.tensor([[0.0, math.log(9.0)]])
    # Undecided logits are as likely as the class; the others make up for the prior exactly.
    for logits, label, share in ((undecided, 0, 0.9), (undecided, 1, 0.1), (towards, 1, 0.5)):
        loss = cross_entropy(adjust_logits(logits, prior), torch.eye(2)[[label]])
        assert float(loss) == pytest.approx(-math.log(share))


def test_best_constant_logits_forget_the_prior() -> None:
    counts = torch.tensor([70.0, 20.0, 10.0])
    targets = torch.eye(3)[torch.repeat_interleave(torch.arange(3), counts.long())]
    bias = torch.zeros(3, requires_grad=True)
    prior = log_prior(counts, smoothing=0.0)
    cross_entropy(adjust_logits(bias.expand(100, 3), prior), targets).backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad, torch.zeros(3), atol=1e-6, rtol=0)
