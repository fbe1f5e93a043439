"""The view that a student learns from, as the settings describe it, and views as pictures."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.augment import Center, Policy, RandAugment, Strong, TrivialAugment, Weak
from tutelage.config import TransferConfig


def strong_policy(config: TransferConfig, crop_pct: float = Center.crop_pct) -> Policy:
    """The strong view; ``augment`` is no longer "auto", since the search comes before.

    Args:
        config: its kind and strength.
        crop_pct: of the evaluation view, which "center" trains on as well.
    """
    if config.augment == "auto":
        raise ValueError("'auto' was not resolved; settings come from the run folder's config.json")
    if config.augment == "center":
        return Center(crop_pct)
    view = Weak(scale=(config.crop_scale, 1.0))
    if config.augment == "none":
        return view
    if config.augment == "trivialaugment":
        return Strong(augment=TrivialAugment(view=view))
    augment = RandAugment(config.num_ops, float(config.magnitude), view=view)
    return Strong(augment=augment)


def pictures(views: Tensor) -> NDArray[np.uint8]:
    """Views (B, 3, h, w) from 0 to 1 as uint8 (B, h, w, 3), for a page."""
    return np.asarray((views * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
