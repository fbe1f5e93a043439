"""Class weights: rare classes weigh more in the loss (inverse frequency)."""

from __future__ import annotations

from torch import Tensor


def inverse_frequency(counts: Tensor) -> Tensor:
    """Weights (K,) in inverse proportion to ``counts`` whose mean over the images is 1.

    A mean of 1 keeps the size of the loss, and with it the meaning of the learning rate and of
    the penalty. A class without images gets the weight 0, but at least one class must have some;
    fractions of images are allowed.
    """
    seen = counts > 0
    weights = counts.sum() / (seen.sum() * counts.where(seen, counts.new_ones(())))
    return weights * seen
