from typing import Any

import torch

from tutelage.steps.fixmatch import WeakViews
from tutelage.steps.thresholds import FlexMatch, FreeMatch, SoftMatch


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
    free = FreeMatch(2, fairness_weight=0.1)
    free.marginal, free.histogram = torch.tensor([0.6, 0.4]), torch.tensor([0.75, 0.25])
    logits = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]).log()
    # the value is worked out in the test of the loss
    torch.testing.assert_close(free.fairness(logits, torch.ones(3)), torch.tensor(-0.0644732))


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
