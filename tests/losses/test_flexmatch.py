import pytest
import torch

from tutelage.losses.flexmatch import flexible_thresholds, learning_effect

MARKS = torch.tensor([0, 2, 0, -1, 1, 0, -1, 0, 1, -1])


def test_the_learning_effect_counts_each_classes_marks() -> None:
    assert learning_effect(MARKS, 4).tolist() == [4, 2, 1, 0]


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
def test_thresholds_by_hand(effect: tuple[int, ...], expected: tuple[float, ...]) -> None:
    found = flexible_thresholds(torch.tensor(effect), 10, 0.9)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_the_mapping_is_convex_and_no_class_passes_the_threshold() -> None:
    effect = torch.arange(11)
    found = flexible_thresholds(effect, int(effect.sum()), 0.95)
    assert float(found[-1]) == pytest.approx(0.95)
    steps = found.diff()
    assert (steps > 0).all()
    assert (steps.diff() > 0).all()
