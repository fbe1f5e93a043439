import math

import torch
import torch.nn.functional as F

from tutelage.losses.cross_entropy import cross_entropy


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
