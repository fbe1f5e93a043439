"""Fine-tuning on the labels alone, as timm's training script does it.

The script's defaults (huggingface/pytorch-image-models, train.py): random resized crop of 8 to
100% of the area, aspect 3:4 to 4:3, random interpolation, flip, label smoothing 0.1, cosine
schedule, one learning rate for all weights, batch norms in training mode; with the RandAugment
that timm's recipes use (--aa rand-m9-mstd0.5-inc1). AdamW (--opt adamw) instead of SGD, with a
batch of 32.
"""

from __future__ import annotations

import copy
import dataclasses
import random

import numpy as np
import torch
from torch.nn import functional as F

from peers.common import Clock, Draw, Photos, Trained, batches, cosine

LEARNING_RATE = 1e-3
# mmax9: past 9 (the noise mstd goes there) timm asks for images of 0 bits, which Pillow 13 refuses.
RANDAUGMENT: str | None = "rand-m9-mstd0.5-mmax9-inc1"
WEIGHT_DECAY = 0.05
SMOOTHING = 0.1
BATCH = 32
SCALE = (0.08, 1.0)  # area of the crop


def finetune(draw: Draw, *, lr: float = LEARNING_RATE, clock: Clock | None = None) -> Trained:
    """All weights on the labelled images until the time is up."""
    from timm.data import create_transform
    from timm.optim import create_optimizer_v2

    clock = clock or Clock(draw.seconds)
    seed_everything(draw.seed)
    model = copy.deepcopy(draw.base)
    model.spec = dataclasses.replace(model.spec, input_size=draw.size)
    model.unfreeze_trunk()
    model.to(draw.device, memory_format=torch.channels_last).train()
    # The model normalises, so its views are in [0, 1].
    transform = create_transform(
        draw.size,
        is_training=True,
        scale=SCALE,
        auto_augment=RANDAUGMENT,
        color_jitter=None,
        interpolation="random",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    photos = Photos(draw.store, draw.labeled, draw.labels, transform)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=lr, weight_decay=WEIGHT_DECAY)
    steps = 0
    for images, labels in batches(photos, BATCH, draw):
        for group in optimizer.param_groups:
            group["lr"] = lr * cosine(clock.progress)
        images = images.to(draw.device, memory_format=torch.channels_last)
        with torch.autocast(draw.device.type, torch.bfloat16, enabled=draw.device.type == "cuda"):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels.to(draw.device), label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if clock.over:
            break
    return Trained(model.cpu().eval(), steps, clock.spent)


def seed_everything(seed: int) -> None:
    """Seed the global generators: timm's and USB's views draw from them."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
