import torch

from tutelage.losses.label_smoothing import smooth_targets


def test_values_by_hand() -> None:
    found = smooth_targets(torch.eye(4)[:1], 0.1)
    torch.testing.assert_close(found, torch.tensor([[0.925, 0.025, 0.025, 0.025]]))
    soft = smooth_targets(torch.tensor([[0.75, 0.25]]), 0.4)
    torch.testing.assert_close(soft, torch.tensor([[0.65, 0.35]]))


def test_nothing_is_smoothed_by_zero() -> None:
    targets = torch.softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    assert torch.equal(smooth_targets(targets, 0.0), targets)
