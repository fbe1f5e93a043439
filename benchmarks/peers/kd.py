"""Plain knowledge distillation (Hinton et al. 2015): same teacher, same student, no extras.

Temperature as in torchdistill's CIFAR-10 recipes (4), weights of the two terms half each as in its
ImageNet recipes; random crop and flip; the optimiser and schedule of the fine-tuning peer.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peers.common import Clock, Draw, Photos, Trained, batches, cosine
from peers.finetune import BATCH, LEARNING_RATE, WEIGHT_DECAY, seed_everything
from tutelage.models.classifier import Classifier

TEMPERATURE = 4.0
ALPHA = 0.5  # of the labels' cross-entropy; the rest is the teacher's


def kd_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """``alpha * CE + (1 - alpha) * T^2 * KL``, batch means; a label of -1 has no cross-entropy."""
    soft = F.kl_div(
        F.log_softmax(student / TEMPERATURE, dim=1),
        F.log_softmax(teacher / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    hard = F.cross_entropy(student, labels, ignore_index=-1, reduction="sum") / len(labels)
    return ALPHA * hard + (1 - ALPHA) * TEMPERATURE**2 * soft


def distill(draw: Draw, teacher: Classifier, student: Classifier) -> Trained:
    """Train a copy of ``student`` to answer as ``teacher`` does on labels and pool."""
    from timm.data import create_transform
    from timm.optim import create_optimizer_v2

    clock = Clock(draw.seconds)
    seed_everything(draw.seed)
    student = copy.deepcopy(student)
    student.spec = dataclasses.replace(student.spec, input_size=draw.size)
    student.to(draw.device, memory_format=torch.channels_last).train()
    teacher = copy.deepcopy(teacher).to(draw.device, memory_format=torch.channels_last).eval()
    sides = draw.size, teacher.spec.input_size
    transform = create_transform(
        max(sides), is_training=True, color_jitter=None, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    photos = Photos(
        draw.store,
        np.concatenate([draw.labeled, draw.pool]),
        np.concatenate([draw.labels, np.full(len(draw.pool), -1)]),
        transform,
    )
    optimizer = create_optimizer_v2(
        student, opt="adamw", lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    steps = 0
    for images, labels in batches(photos, BATCH, draw):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * cosine(clock.progress)
        images = images.to(draw.device, memory_format=torch.channels_last)
        ours, theirs = (_resized(images, side) for side in sides)
        with torch.autocast(draw.device.type, torch.bfloat16, enabled=draw.device.type == "cuda"):
            logits = student(ours)
            with torch.no_grad():
                wanted = teacher(theirs)
        loss = kd_loss(logits.float(), wanted.float(), labels.to(draw.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
        if clock.over:
            break
    return Trained(student.cpu().eval(), steps, clock.spent)


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=side, mode="bilinear", antialias=True)
