"""Augmentation: a policy is sampled into a plan, and a plan is applied in one pass."""

from tutelage.augment.apply import apply
from tutelage.augment.extend import then
from tutelage.augment.mix import (
    CutMix,
    Mix,
    MixUp,
    draw_cutmix,
    draw_mixup,
)
from tutelage.augment.plan import Plan
from tutelage.augment.policy import Center, Policy, RandomCrop, RandomErasing, Still, Weak
from tutelage.augment.randaugment import (
    AutoAugment,
    ColorJitter,
    RandAugment,
    Strong,
    ThreeAugment,
    TrivialAugment,
)
from tutelage.augment.resample import center_box, center_view
from tutelage.augment.transforms import Transform

__all__ = [
    "AutoAugment",
    "Center",
    "ColorJitter",
    "CutMix",
    "Mix",
    "MixUp",
    "Plan",
    "Policy",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "Still",
    "Strong",
    "ThreeAugment",
    "Transform",
    "TrivialAugment",
    "Weak",
    "apply",
    "center_box",
    "center_view",
    "draw_cutmix",
    "draw_mixup",
    "then",
]
