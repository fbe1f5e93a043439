import math

import pytest
import torch
import torch.nn.functional as F

from tutelage.losses.cross_entropy import cross_entropy
from tutelage.losses.logit_adjustment import adjust_logits, log_prior


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
