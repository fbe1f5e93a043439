import torch

from tutelage.losses.class_weights import inverse_frequency


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
