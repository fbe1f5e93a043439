"""Augmentation: a policy samples a plan, and the plan is applied in one pass over the pixels.

``policy`` and ``randaugment`` sample a ``plan``, ``extend`` adds operations to it, and ``apply``
carries it out. Three backends in ``engine`` do that: ``reference`` in torch defines what is right,
``cpu`` (numba) and ``cuda`` (Triton) do the same faster. Policies stand in for torchvision's
transforms, ``mix`` has CutMix and mixup, and ``resample`` the one rule for resizing.

To add a colour operation that changes grey levels, write it once for each backend:

1. ``plan.py``: append its name to ``COLOR_OPS`` and its code to the list below that.
2. ``ops.py``: write it in torch and enter it in ``POINTWISE``; or in ``STATISTIC``, if it has to
   count the image's grey levels. ``then(plan, name, amount)`` and the reference know it now.
3. ``engine/kernel_colors.py``: write it in numba, in ``_pointwise`` or beside ``_equalize``. Then
   delete ``engine/__pycache__``: numba does not notice that code in another file has changed.
4. ``engine/cuda.py``: append its code to the list at the top and write it in Triton, likewise.
5. ``randaugment.py``: enter its range of amounts in ``_MORE``, so that policies can draw it.

Tests in ``tests/augment`` fail until you are done: ``test_ops.py`` compares it with torchvision's
or a formula, which is given float images in [0, 1] and uint8 ones (enter it and a range in
``THEIRS`` and ``COLOR``), ``engine/test_cpu.py`` and ``engine/test_cuda.py`` (enter an amount in
``AMOUNTS``) compare numba and Triton with the reference, and ``test_policy.py`` lets RandAugment
draw it.

An operation across channels or pixels, like "saturation" or "blur", is a matrix or a 3x3 stencil of
the plan instead: see ``_MERGED`` in ``extend.py``.
"""

from tutelage.augment.apply import apply
from tutelage.augment.extend import then
from tutelage.augment.mix import CutMix, Mix, MixUp, draw_cutmix, draw_mixup
from tutelage.augment.plan import Plan
from tutelage.augment.policy import Center, Policy, RandomErasing, Still, Transform, Weak
from tutelage.augment.randaugment import RandAugment, Strong, TrivialAugment
from tutelage.augment.resample import center_box, center_view

__all__ = [
    "Center",
    "CutMix",
    "Mix",
    "MixUp",
    "Plan",
    "Policy",
    "RandAugment",
    "RandomErasing",
    "Still",
    "Strong",
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
