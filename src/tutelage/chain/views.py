"""The view that a student learns from, as the settings describe it."""

from __future__ import annotations

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
