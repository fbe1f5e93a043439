import math

import pytest
import torch

from tutelage.losses.softmatch import squared_deviations, truncated_gaussian


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


@pytest.mark.parametrize("count", [0, 1])
def test_next_to_nothing_deviates_by_zero(count: int) -> None:
    assert squared_deviations(torch.full((count,), 0.7)).tolist() == [0.0] * count
