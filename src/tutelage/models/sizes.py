"""The sides of the images that a trunk takes, and changing the one that it is set to.

A convolutional trunk takes images of nearly any size. A transformer's position embeddings and
attention windows are made for one, and timm resamples those of most families for another.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Iterable
from typing import Any

import torch

from tutelage.models.classifier import Classifier, body_of, members_of
from tutelage.system.errors import TutelageError


def size_step(model: Classifier) -> int | None:
    """What the sides of the model's views must be multiples of, in pixels; 1 where any will do.

    None: a trunk was built for ``spec.input_size`` and takes no other size.
    """
    steps = [_step(body_of(member.trunk)) for member in members_of(model)]
    known = [step for step in steps if step is not None]
    return math.lcm(*known) if len(known) == len(steps) else None


def _step(body: Any) -> int | None:
    if is_resizable(body):
        # Mostly the stride of the last stage. EfficientViT's 64 does not divide its own 224 px.
        return math.gcd(native_size(body), int(list(body.feature_info)[-1]["reduction"]))
    return None if is_fixed(body) else 1


def is_resizable(body: Any) -> bool:
    """Whether timm can resample what a timm model has for one size of images only."""
    return hasattr(body, "set_input_size")


def is_fixed(body: Any) -> bool:
    """Whether a timm model takes images of the size that it was built for alone, says timm."""
    return bool(getattr(body, "pretrained_cfg", {}).get("fixed_input_size"))


def native_size(body: Any) -> int:
    """Side in pixels that the pretrained weights of a timm model were made for."""
    return int(body.pretrained_cfg["input_size"][-1])


def fitting_sizes(sizes: Iterable[int], step: int) -> list[int]:
    """The multiples of ``step`` that are nearest to ``sizes``; falling, each once."""
    return sorted({max(1, round(size / step)) * step for size in sizes}, reverse=True)


def resize_body(body: Any, size: int) -> None:
    """Resample a timm model's position embeddings and windows for ``size``, if it has any."""
    if is_resizable(body):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm's own, from indexing that torch no longer likes
            body.set_input_size(img_size=(size, size))


def set_input_size(model: Classifier, size: int) -> None:
    """Let the model see views of ``size`` pixels a side from now on; one that cannot stays.

    Position embeddings are resampled and windows rescaled, in place; all other weights stay.
    """
    if size == model.spec.input_size:
        return
    step, name = size_step(model), model.spec.architecture
    if step is None:
        raise TutelageError(
            f"{name} was built for views of {model.spec.input_size} px a side, and timm cannot "
            f"change that to {size}; create it for the other size"
        )
    if size % step:
        fitting = sorted({max(size // step, 1) * step, (size // step + 1) * step})
        raise TutelageError(
            f"views of {size} px a side do not fit {name}, which needs a multiple of {step}; "
            f"choose {' or '.join(map(str, fitting))}"
        )
    for part in {*members_of(model), model}:
        if not part.spec.members:
            resize_body(body_of(part.trunk), size)
        part.spec = dataclasses.replace(part.spec, input_size=size)


def with_input_size(model: Classifier, size: int) -> Classifier:
    """A copy of the model that sees views of ``size`` pixels a side; itself if it does already."""
    if size == model.spec.input_size:
        return model
    resized = copy.deepcopy(model)
    set_input_size(resized, size)
    return resized


@torch.no_grad()
def check_input_size(model: Classifier) -> None:
    """Refuse a model whose trunk takes no image of its size, as where maps become too small."""
    size, training = model.spec.input_size, model.training
    try:
        model.eval()(torch.zeros(1, 3, size, size, device=model.mean.device))
    except Exception as error:  # each of timm's architectures fails in its own way
        own = native_size(body_of(members_of(model)[0].trunk))
        raise TutelageError(
            f"{model.spec.architecture} takes no views of {size} px a side ({error}); choose "
            f"another --input-size, such as its own {own}"
        ) from error
    finally:
        model.train(training)
