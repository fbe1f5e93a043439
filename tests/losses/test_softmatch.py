import math

import pytest
import torch

from tutelage.losses.softmatch import confidence_moments, truncated_gaussian


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


def test_moments_are_the_pools_and_the_variance_is_unbiased() -> None:
    confidence = torch.tensor([0.1, 0.6, 0.8, 1.0])
    mean, variance = confidence_moments(confidence, torch.tensor([0.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(mean, torch.tensor(0.8))
    torch.testing.assert_close(variance, torch.tensor(0.04))  # 0.08 / 2


@pytest.mark.parametrize("count", [0, 1])
def test_moments_of_next_to_nothing_are_finite(count: int) -> None:
    pool = torch.tensor([1.0, 0.0]) * count
    mean, variance = confidence_moments(torch.tensor([0.7, 0.9]), pool)
    assert float(mean) == pytest.approx(0.7 * count)
    assert float(variance) == 0.0
