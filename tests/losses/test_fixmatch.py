import pytest
import torch

from tutelage.losses.fixmatch import confident, harden


def test_hard_targets_are_one_hot_at_the_best_guess() -> None:
    probs = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    assert harden(probs).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    assert probs[0].tolist() == pytest.approx([0.2, 0.5, 0.3])


@pytest.mark.parametrize(("threshold", "expected"), [(0.75, 1.0), (0.7500001, 0.0)])
def test_a_confidence_at_the_threshold_counts(threshold: float, expected: float) -> None:
    assert float(confident(torch.tensor([[0.75, 0.25]]), threshold)) == expected


def test_each_class_can_have_its_own_threshold() -> None:
    probs = torch.tensor([[0.7, 0.3], [0.3, 0.7], [0.55, 0.45], [0.45, 0.55]])
    # the second class of the third row reaches 0.4, but it is not that row's best
    assert confident(probs, torch.tensor([0.6, 0.4])).tolist() == [1.0, 1.0, 0.0, 1.0]
    assert confident(probs, 0.6).tolist() == [1.0, 1.0, 0.0, 0.0]


def test_permuted_batch_gives_permuted_weights() -> None:
    probs = torch.softmax(torch.randn(6, 2), dim=1)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    assert torch.equal(confident(probs, 0.6)[order], confident(probs[order], 0.6))
