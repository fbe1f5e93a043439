import math
from typing import Any

import pytest
import torch

from tutelage.steps.fixmatch import WeakViews
from tutelage.steps.thresholds import (
    FlexMatch,
    FreeMatch,
    SoftMatch,
    adaptive_thresholds,
    fairness_loss,
    flexible_thresholds,
    squared_deviations,
    truncated_gaussian,
)


def views(probs: Any, *, aligned: Any = None, ids: Any = None) -> WeakViews:
    """Weak views whose alignment changes nothing unless it is given."""
    return WeakViews(
        torch.tensor(probs),
        torch.tensor(probs if aligned is None else aligned),
        torch.arange(len(probs)) if ids is None else torch.tensor(ids),
    )


def test_flexmatch_judges_by_the_marks_of_earlier_batches() -> None:
    flex = FlexMatch(2, 4, 0.8)
    first = views([[0.9, 0.1], [0.3, 0.7], [0.05, 0.95]], ids=[0, 1, 2])
    assert flex(first).weights.tolist() == [1.0] * 3  # no marks yet: every threshold is 0
    assert flex.marks[:4].tolist() == [0, -1, 1, -1]  # 0.7 is below 0.8; image 3 was not seen
    # Marks: image 0 in class 0. Image 1, sure now, adds one for class 0 after the batch.
    flex.marks[2] = -1
    second = views([[0.85, 0.15], [0.45, 0.55]], ids=[1, 3])
    # sigma = (1, 0), 3 unused: beta = (1/3, 0), T = (0.8 / 5, 0)
    assert flex(second).weights.tolist() == [1.0, 1.0]
    assert flex.marks[:4].tolist() == [0, 0, -1, -1]


def test_flexmatch_counts_sure_images() -> None:
    flex = FlexMatch(2, 4, 0.8)
    flex(views([[0.9, 0.1], [0.3, 0.7], [0.1, 0.9]]))
    # One sure image a class; image 1 is unsure and 3 unseen, so 2 are unused: beta = 1/2, M = 1/3.
    low, high = 0.8 / 3 - 0.01, 0.8 / 3 + 0.01
    found = flex(views([[low, 0.0], [high, 0.0], [0.0, low], [0.0, high]], ids=[0, 0, 0, 0]))
    assert found.weights.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_flexmatch_lowers_the_threshold_of_a_class_but_marks_at_the_fixed_one() -> None:
    flex = FlexMatch(2, 10, 0.9)
    flex.marks[:10] = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, -1])
    # sigma = (6, 3): T = (0.9, 0.3)
    weak = views([[0.8, 0.2], [0.2, 0.8], [0.95, 0.05]], ids=[0, 9, 6])
    assert flex(weak).weights.tolist() == [0.0, 1.0, 1.0]
    # Image 0 is unsure and keeps its mark, 9 was used but reached no 0.9, 6 changes sides.
    assert flex.marks[:10].tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, -1]


def test_freematch_two_steps_by_hand() -> None:
    free = FreeMatch(2, momentum=0.5)
    first = views([[0.9, 0.1], [0.7, 0.3]])
    # confidence 0.5 -> (0.5 + 0.8) / 2; marginal (0.5, 0.5) -> with (0.8, 0.2); histogram with
    # (1, 0). Thresholds 0.65 and 0.65 * 0.35 / 0.65 = 0.35.
    assert free(first).weights.tolist() == [1.0, 1.0]
    torch.testing.assert_close(free.confidence, torch.tensor(0.65))
    torch.testing.assert_close(free.marginal, torch.tensor([0.65, 0.35]))
    torch.testing.assert_close(free.histogram, torch.tensor([0.75, 0.25]))
    second = views([[0.6, 0.4], [0.35, 0.65]])
    # confidence (0.65 + 0.625) / 2 = 0.6375; marginal (0.65 + 0.475) / 2 = 0.5625 and 0.4375;
    # thresholds 0.6375 and 0.6375 * 0.4375 / 0.5625 = 0.4958
    assert free(second).weights.tolist() == [0.0, 1.0]
    torch.testing.assert_close(free.confidence, torch.tensor(0.6375))
    torch.testing.assert_close(free.marginal, torch.tensor([0.5625, 0.4375]))
    torch.testing.assert_close(free.histogram, torch.tensor([0.625, 0.375]))


def test_freematch_confidence_is_of_aligned_predictions_and_classes_of_unaligned_ones() -> None:
    free = FreeMatch(2, momentum=0.0)
    found = free(views([[0.9, 0.1], [0.7, 0.3]], aligned=[[0.6, 0.4], [0.2, 0.8]]))
    torch.testing.assert_close(free.confidence, torch.tensor(0.7))
    torch.testing.assert_close(free.marginal, torch.tensor([0.8, 0.2]))
    torch.testing.assert_close(free.histogram, torch.tensor([1.0, 0.0]))
    assert found.weights.tolist() == [0.0, 1.0]  # thresholds 0.7 and 0.7 / 4
    torch.testing.assert_close(found.probs, torch.tensor([[0.6, 0.4], [0.2, 0.8]]))


def test_freematch_fairness_uses_its_own_statistics() -> None:
    free = FreeMatch(2)
    free.marginal, free.histogram = torch.tensor([0.6, 0.4]), torch.tensor([0.75, 0.25])
    logits = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]).log()
    # the value is worked out in the test of the loss
    torch.testing.assert_close(free.fairness(logits, torch.ones(3)), torch.tensor(-0.00644732))


def test_softmatch_by_hand() -> None:
    soft = SoftMatch(2, momentum=0.5)
    weak = views(
        [[0.1, 0.9], [0.2, 0.8], [0.7, 0.3]],
        aligned=[[0.4, 0.6], [0.2, 0.8], [1.0, 0.0]],
    )
    found = soft(weak)
    # Pool: mean 0.8, variance 0.04. Running: (0.5 + 0.8) / 2 = 0.65 and (1 + 0.04) / 2 = 0.52.
    torch.testing.assert_close(soft.mean, torch.tensor(0.65))
    torch.testing.assert_close(soft.variance, torch.tensor(0.52))
    low = torch.tensor(-(0.05**2) / 1.04).exp()
    torch.testing.assert_close(found.weights, torch.stack([low, *torch.ones(2)]))
    assert torch.equal(found.probs, weak.probs)  # alignment decides weights only


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        # 10 images, 4 + 2 used: 4 unused do not outnumber the best class; beta = 1, 1/2, 0
        ((4, 2, 0), (0.9, 0.9 / 3, 0.0)),
        # all used: beta = 1, 1/2, 1/6 and (1/6) / (11/6) = 1/11
        ((6, 3, 1), (0.9, 0.9 / 3, 0.9 / 11)),
        # warm-up, 7 unused: beta = 2/7, 1/7, 0 and (2/7) / (12/7) = 1/6, (1/7) / (13/7) = 1/13
        ((2, 1, 0), (0.9 / 6, 0.9 / 13, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
    ],
)
def test_flexible_thresholds_by_hand(effect: tuple[int, ...], expected: tuple[float, ...]) -> None:
    found = flexible_thresholds(torch.tensor(effect), 10, 0.9)
    torch.testing.assert_close(found, torch.tensor(expected))


MARGINAL, HISTOGRAM = torch.tensor([0.6, 0.4]), torch.tensor([0.75, 0.25])
LOGITS = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]]).log()


def test_adaptive_thresholds_by_hand() -> None:
    found = adaptive_thresholds(torch.tensor(0.8), torch.tensor([0.5, 0.3, 0.2]))
    torch.testing.assert_close(found, torch.tensor([0.8, 0.8 * 3 / 5, 0.8 * 2 / 5]))


def test_fairness_by_hand() -> None:
    # Three are used: probabilities sum to 1.7 and 1.3, best guesses are 2 and 1, ratios 0.85
    # and 1.3. Expected: 0.6 / 0.75 = 0.8 and 0.4 / 0.25 = 1.6, so 1/3 and 2/3.
    found = fairness_loss(LOGITS, torch.tensor([1.0, 1.0, 1.0, 0.0]), MARGINAL, HISTOGRAM)
    by_hand = math.log(0.85 / 2.15) / 3 + 2 * math.log(1.3 / 2.15) / 3
    torch.testing.assert_close(found, torch.tensor(by_hand))


@pytest.mark.parametrize("used", [[1.0, 1.0, 0.0, 0.0], [0.0] * 4])
def test_a_class_that_nobody_guesses_is_left_out(used: list[float]) -> None:
    logits = LOGITS.clone().requires_grad_()
    found = fairness_loss(logits, torch.tensor(used), MARGINAL, HISTOGRAM)
    found.backward()
    assert float(found.detach()) == 0.0  # one class is left and has the whole share, or none is
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(4, 2))


def test_only_used_images_get_a_gradient_and_it_is_right() -> None:
    logits = LOGITS.double().requires_grad_()
    used = torch.tensor([1.0, 1.0, 1.0, 0.0]).double()
    rest = MARGINAL.double(), HISTOGRAM.double()
    assert torch.autograd.gradcheck(lambda x: fairness_loss(x, used, *rest), (logits,))
    (gradient,) = torch.autograd.grad(fairness_loss(logits, used, *rest), logits)
    assert (gradient.abs().sum(dim=1) > 0).tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        (0.6, 1.0),  # the mean
        (0.7, 1.0),  # a sigma above it: truncated
        (1.0, 1.0),
        (0.5, math.exp(-1 / 2)),  # a sigma below
        (0.4, math.exp(-2)),
        (0.3, math.exp(-9 / 2)),
    ],
)
def test_weights_by_hand(confidence: float, expected: float) -> None:
    found = truncated_gaussian(torch.tensor([confidence]), torch.tensor(0.6), torch.tensor(0.01))
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_a_pool_of_equal_confidences_has_weights() -> None:
    found = truncated_gaussian(torch.tensor([1.0, 0.9]), torch.tensor(1.0), torch.tensor(0.0))
    assert found.tolist() == [1.0, 0.0]


def test_the_mean_of_squared_deviations_is_the_unbiased_variance() -> None:
    found = squared_deviations(torch.tensor([0.6, 0.8, 1.0]))
    torch.testing.assert_close(found.mean(), torch.tensor(0.04))  # 0.08 / 2
    for count in (0, 1):
        assert squared_deviations(torch.full((count,), 0.7)).tolist() == [0.0] * count
