import math

import pytest
import torch
import torch.nn.functional as F

from tutelage.losses import adjust_logits, cross_entropy, inverse_frequency, kd_loss, log_prior


def example(batch: int = 6, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    targets = torch.rand(batch, classes, generator=generator, dtype=torch.float64)
    weights = torch.rand(batch, generator=generator, dtype=torch.float64)
    return logits, targets / targets.sum(dim=1, keepdim=True), weights


def test_value_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])
    targets = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    first, second = -math.log(3 / 4), -0.5 * math.log(4 / 5) - 0.5 * math.log(1 / 5)
    assert math.isclose(float(cross_entropy(logits, targets)), (first + second) / 2, rel_tol=1e-6)
    weighted = cross_entropy(logits, targets, torch.tensor([1.0, 0.5]))
    assert math.isclose(float(weighted), (first + 0.5 * second) / 2, rel_tol=1e-6)


def test_lowest_value_is_the_entropy_of_the_target() -> None:
    _, targets, _ = example()
    entropy = -(targets * targets.log()).sum(dim=1).mean()
    torch.testing.assert_close(cross_entropy(targets.log(), targets), entropy)
    logits, _, _ = example()
    assert cross_entropy(logits, targets) > entropy


def test_gradcheck() -> None:
    logits, targets, weights = example()
    assert torch.autograd.gradcheck(cross_entropy, (logits.requires_grad_(), targets, weights))


def test_shifted_logits_and_permuted_batch_change_nothing() -> None:
    logits, targets, weights = example()
    loss = cross_entropy(logits, targets, weights)
    shift = torch.arange(6.0)[:, None] * 10
    torch.testing.assert_close(cross_entropy(logits + shift, targets, weights), loss)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(cross_entropy(logits[order], targets[order], weights[order]), loss)


def test_equals_torch() -> None:
    logits, targets, _ = example()
    torch.testing.assert_close(cross_entropy(logits, targets), F.cross_entropy(logits, targets))
    labels = torch.tensor([0, 3, 1, 2, 0, 1])
    one_hot = F.one_hot(labels, 4).double()
    torch.testing.assert_close(cross_entropy(logits, one_hot), F.cross_entropy(logits, labels))


def test_a_weight_of_zero_lowers_the_loss_and_lends_nothing() -> None:
    logits, targets, _ = example()
    weights = torch.tensor([1.0, 1, 1, 0, 0, 0])
    expected = F.cross_entropy(logits[:3], targets[:3], reduction="sum") / 6
    torch.testing.assert_close(cross_entropy(logits, targets, weights), expected)
    assert float(cross_entropy(logits, targets, torch.zeros(6))) == 0.0


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, targets, _ = example()
    loss = cross_entropy(logits.bfloat16(), targets.float())
    assert loss.dtype == torch.float32
    exact = F.cross_entropy(logits.bfloat16().float(), targets.float())
    torch.testing.assert_close(loss, exact)


def pair(batch: int = 5, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(
        2, batch, classes, generator=generator, dtype=torch.float64
    ).unbind()
    return student, teacher


def test_the_divergence_by_hand() -> None:
    # At T = 2 these are the logits of (1/2, 1/2) and (3/4, 1/4).
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3.0), 0.0]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert float(kd_loss(student, teacher, temperature=2.0)) == pytest.approx(4 * divergence)


def test_zero_at_the_teacher_and_positive_elsewhere() -> None:
    student, teacher = pair()
    assert float(kd_loss(teacher, teacher, temperature=3.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(kd_loss(student, teacher, temperature=3.0)) > 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_has_the_right_gradient(temperature: float) -> None:
    student, teacher = pair()
    weights = torch.linspace(0, 1, 5, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: kd_loss(s, teacher, temperature=temperature, weights=weights), (student,)
    )


def test_shifted_logits_and_permuted_pairs_change_nothing() -> None:
    student, teacher = pair()
    loss = kd_loss(student, teacher, temperature=2.0)
    shift = torch.arange(5.0)[:, None] * 7
    torch.testing.assert_close(kd_loss(student + shift, teacher - shift, temperature=2.0), loss)
    order = torch.tensor([4, 2, 0, 1, 3])
    torch.testing.assert_close(kd_loss(student[order], teacher[order], temperature=2.0), loss)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_equals_torchs_batchmean_times_t_squared(temperature: float) -> None:
    student, teacher = pair()
    expected = F.kl_div(
        torch.log_softmax(student / temperature, dim=1),
        torch.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    found = kd_loss(student, teacher, temperature=temperature)
    torch.testing.assert_close(found, temperature**2 * expected)


def test_gradient_keeps_its_size_at_high_temperatures() -> None:
    student, teacher = pair()
    sizes = []
    for temperature in (20.0, 200.0):
        at = student.clone().requires_grad_()
        kd_loss(at, teacher, temperature=temperature).backward()
        sizes.append(float(at.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_weights_are_a_share_of_the_batch() -> None:
    student, teacher = pair()
    weights = torch.tensor([1.0, 0, 0, 1, 0])
    some = torch.tensor([0, 3])
    expected = kd_loss(student[some], teacher[some], temperature=2.0) * 2 / 5
    found = kd_loss(student, teacher, temperature=2.0, weights=weights)
    torch.testing.assert_close(found, expected)


def test_half_precision_logits_are_compared_in_float32() -> None:
    student, teacher = (x.bfloat16() for x in pair())
    loss = kd_loss(student, teacher, temperature=2.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, kd_loss(student.float(), teacher.float(), temperature=2.0))


def test_weights_by_hand_have_a_mean_of_one_over_the_images() -> None:
    counts = torch.tensor([6.0, 3.0, 1.0])
    weights = inverse_frequency(counts)
    torch.testing.assert_close(weights, torch.tensor([10 / 18, 10 / 9, 10 / 3]))
    torch.testing.assert_close((counts * weights).sum(), counts.sum())
    torch.testing.assert_close(counts * weights, torch.full((3,), 10 / 3))  # all classes alike


def test_equal_counts_weigh_exactly_one() -> None:
    for k in (2, 3, 10):
        assert torch.equal(inverse_frequency(torch.full((k,), 7.0)), torch.ones(k))


def test_a_class_without_images_weighs_nothing() -> None:
    found = inverse_frequency(torch.tensor([3.0, 0.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([2 / 3, 0.0, 2.0]))


def test_prior_by_hand() -> None:
    found = log_prior(torch.tensor([8.0, 1.0, 0.0]), smoothing=1.0)
    torch.testing.assert_close(found, torch.tensor([9.0, 2.0, 1.0]).div(12).log())
    exact = log_prior(torch.tensor([9.0, 1.0]), smoothing=0.0)
    torch.testing.assert_close(exact, torch.tensor([0.9, 0.1]).log())


def test_loss_of_two_classes_by_hand() -> None:
    prior = torch.tensor([0.9, 0.1]).log()
    logits = torch.zeros(1, 2)
    for label, share in ((0, 0.9), (1, 0.1)):  # undecided logits are as likely as the class
        loss = cross_entropy(adjust_logits(logits, prior), torch.eye(2)[[label]])
        assert float(loss) == pytest.approx(-math.log(share))
    logits = torch.tensor([[0.0, math.log(9.0)]])  # makes up for the prior exactly
    loss = cross_entropy(adjust_logits(logits, prior), torch.eye(2)[[1]])
    assert float(loss) == pytest.approx(math.log(2.0))


def test_a_uniform_prior_changes_nothing() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.eye(4)[torch.tensor([0, 1, 2, 3, 0, 1])]
    adjusted = adjust_logits(logits, log_prior(torch.full((4,), 5.0)))
    torch.testing.assert_close(cross_entropy(adjusted, targets), F.cross_entropy(logits, targets))


def test_best_constant_logits_forget_the_prior() -> None:
    counts = torch.tensor([70.0, 20.0, 10.0])
    targets = torch.eye(3)[torch.repeat_interleave(torch.arange(3), counts.long())]
    bias = torch.zeros(3, requires_grad=True)
    prior = log_prior(counts, smoothing=0.0)
    cross_entropy(adjust_logits(bias.expand(100, 3), prior), targets).backward()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad, torch.zeros(3), atol=1e-6, rtol=0)


def test_losses_give_the_teacher_no_gradient() -> None:
    student = torch.randn(4, 3, requires_grad=True)
    teacher = torch.randn(4, 3, requires_grad=True)
    kd_loss(student, teacher, temperature=2.0).backward()
    assert student.grad is not None
    assert teacher.grad is None
