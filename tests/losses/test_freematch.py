import math

import torch

from tutelage.losses.freematch import adaptive_thresholds, fairness_loss

MARGINAL, HISTOGRAM = torch.tensor([0.6, 0.4]), torch.tensor([0.75, 0.25])
LOGITS = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]]).log()


def test_thresholds_by_hand() -> None:
    found = adaptive_thresholds(torch.tensor(0.8), torch.tensor([0.5, 0.3, 0.2]))
    torch.testing.assert_close(found, torch.tensor([0.8, 0.8 * 3 / 5, 0.8 * 2 / 5]))


def test_fairness_by_hand() -> None:
    # Three are used: probabilities sum to 1.7 and 1.3, best guesses are 2 and 1, ratios 0.85
    # and 1.3. Expected: 0.6 / 0.75 = 0.8 and 0.4 / 0.25 = 1.6, so 1/3 and 2/3.
    found = fairness_loss(LOGITS, torch.tensor([1.0, 1.0, 1.0, 0.0]), MARGINAL, HISTOGRAM)
    by_hand = math.log(0.85 / 2.15) / 3 + 2 * math.log(1.3 / 2.15) / 3
    torch.testing.assert_close(found, torch.tensor(by_hand))


def test_fairness_is_the_negative_entropy_where_all_is_expected() -> None:
    even = torch.tensor([0.5, 0.5])
    found = fairness_loss(LOGITS[[0, 0, 3, 3]], torch.ones(4), even, even)
    # ratios 0.9 = (0.8 + 0.8 + 0.1 + 0.1) / 2 and 1.1: log(0.45) / 2 + log(0.55) / 2
    torch.testing.assert_close(found, torch.tensor(math.log(0.45) / 2 + math.log(0.55) / 2))


def test_a_class_that_nobody_guesses_is_left_out() -> None:
    logits = LOGITS.clone().requires_grad_()
    found = fairness_loss(logits, torch.tensor([1.0, 1.0, 0.0, 0.0]), MARGINAL, HISTOGRAM)
    found.backward()
    assert float(found.detach()) == 0.0  # one class is left and has the whole share
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(4, 2))


def test_without_a_used_image_there_is_no_loss() -> None:
    logits = LOGITS.clone().requires_grad_()
    found = fairness_loss(logits, torch.zeros(4), MARGINAL, HISTOGRAM)
    found.backward()
    assert float(found.detach()) == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros(4, 2))


def test_only_used_images_get_a_gradient_and_it_is_right() -> None:
    logits = LOGITS.double().requires_grad_()
    used = torch.tensor([1.0, 1.0, 1.0, 0.0]).double()
    rest = MARGINAL.double(), HISTOGRAM.double()
    assert torch.autograd.gradcheck(lambda x: fairness_loss(x, used, *rest), (logits,))
    (gradient,) = torch.autograd.grad(fairness_loss(logits, used, *rest), logits)
    assert (gradient.abs().sum(dim=1) > 0).tolist() == [True, True, True, False]
