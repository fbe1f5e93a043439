import torch

from tutelage.losses.remixmatch import align

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
