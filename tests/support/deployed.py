"""A small model to export, and images of every shape to ask it about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from tutelage.models.classifier import Classifier
from tutelage.models.zoo import create, cut

SIZES = [(48, 48), (80, 120), (120, 80), (1, 70), (70, 1), (20, 30), (9, 7), (1, 1), (200, 203)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture of many colours (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


IMAGES = [picture(h, w, seed) for seed, (h, w) in enumerate(SIZES)]


def small_model(classes: Sequence[str], *, neck: int | None = 16, **spec: Any) -> Classifier:
    """A cut student with random weights and settled norms, whose answers differ."""
    torch.manual_seed(0)
    options = {"canvas": 48, "input_size": 40, "weights": "none"}
    model = cut(create("tf_efficientnet_lite0", classes, **options), 3, neck=neck)
    model(torch.rand(8, 3, 40, 40))
    torch.nn.init.normal_(model.head.weight)
    model.spec = dataclasses.replace(model.spec, **spec)
    return model.eval()
