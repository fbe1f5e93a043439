import pytest
import torch

from tutelage.losses.pseudo_label import align, pseudo_labels

FLAT = torch.tensor([0.5, 0.5])


def test_align_by_hand() -> None:
    probs = torch.tensor([[0.6, 0.4]])
    found = align(probs, marginal=torch.tensor([0.75, 0.25]), prior=FLAT)
    # 0.6 * 0.5 / 0.75 = 0.4 and 0.4 * 0.5 / 0.25 = 0.8
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 2 / 3]]))


def test_align_to_the_marginal_itself_changes_nothing() -> None:
    probs = torch.softmax(torch.randn(5, 3), dim=1)
    marginal = probs.mean(dim=0)
    torch.testing.assert_close(align(probs, marginal, marginal), probs)


def test_align_ignores_the_scale_of_the_prior_and_sums_to_one() -> None:
    probs = torch.softmax(torch.randn(5, 3), dim=1)
    marginal, prior = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.6, 0.3, 0.1])
    found = align(probs, marginal, prior)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(5))
    torch.testing.assert_close(found, align(probs, marginal, 7 * prior))


def test_align_survives_a_class_nobody_believes_in() -> None:
    found = align(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0]), FLAT)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0]]))


def test_threshold_reads_the_aligned_confidence() -> None:
    probs = torch.tensor([[0.9, 0.1], [0.45, 0.55]])
    found = pseudo_labels(
        probs, threshold=0.8, hard=True, marginal=torch.tensor([0.9, 0.1]), prior=FLAT
    )
    # aligned: (0.5, 0.5) and (0.0833, 0.9167): the first was confident only by bias
    assert found.weights.tolist() == [0.0, 1.0]
    assert found.targets[1].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("threshold", "expected"), [(0.75, 1.0), (0.7500001, 0.0)])
def test_a_confidence_at_the_threshold_counts(threshold: float, expected: float) -> None:
    probs = torch.tensor([[0.75, 0.25]])
    found = pseudo_labels(probs, threshold=threshold, hard=False, marginal=FLAT, prior=FLAT)
    assert float(found.weights) == expected


def test_hard_targets_are_one_hot_and_soft_ones_are_the_beliefs() -> None:
    probs = torch.softmax(torch.randn(4, 3), dim=1)
    even = torch.full((3,), 1 / 3)
    soft = pseudo_labels(probs, threshold=0.0, hard=False, marginal=even, prior=even)
    hard = pseudo_labels(probs, threshold=0.0, hard=True, marginal=even, prior=even)
    torch.testing.assert_close(soft.targets, probs)
    assert torch.equal(hard.targets.argmax(dim=1), probs.argmax(dim=1))
    assert sorted(hard.targets.unique().tolist()) == [0.0, 1.0]
    torch.testing.assert_close(hard.targets.sum(dim=1), torch.ones(4))


def test_no_gradient_flows_into_the_beliefs() -> None:
    probs = torch.softmax(torch.randn(4, 2, requires_grad=True), dim=1)
    found = pseudo_labels(probs, threshold=0.5, hard=False, marginal=FLAT, prior=FLAT)
    assert not found.targets.requires_grad
    assert not found.weights.requires_grad


def test_permuted_batch_gives_permuted_labels() -> None:
    probs = torch.softmax(torch.randn(6, 2), dim=1)
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    options = {"threshold": 0.6, "hard": True, "marginal": FLAT, "prior": FLAT}
    found, moved = pseudo_labels(probs, **options), pseudo_labels(probs[order], **options)
    assert torch.equal(found.targets[order], moved.targets)
    assert torch.equal(found.weights[order], moved.weights)
