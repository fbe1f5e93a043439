"""Augmentation: a policy is sampled into a plan, and a plan is applied in one pass."""

from tutelage.augment.apply import apply
from tutelage.augment.mix import Mix, cutmix, draw_cutmix, draw_mixup, mixup
from tutelage.augment.plan import Plan
from tutelage.augment.policy import Center, Policy, RandAugment, Strong, TrivialAugment, Weak
from tutelage.augment.resample import center_box, center_view

__all__ = [
    "Center",
    "Mix",
    "Plan",
    "Policy",
    "RandAugment",
    "Strong",
    "TrivialAugment",
    "Weak",
    "apply",
    "center_box",
    "center_view",
    "cutmix",
    "draw_cutmix",
    "draw_mixup",
    "mixup",
]
