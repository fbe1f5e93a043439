"""The exported computation: from uint8 images of any size to calibrated probabilities."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.augment.resample import center_view, matrix
from tutelage.models.classifier import Classifier


class Answers(NamedTuple):
    """What a model says of N images.

    Attributes:
        probabilities: (N, K) float32, calibrated.
        energy: (N,) float32, ``tutelage.outofclass.energy`` of the logits; high for none of the
            classes.
    """

    probabilities: Tensor
    energy: Tensor


class Deployed(nn.Module):
    """uint8 images (N, H, W, 3), any H and W -> ``Answers``.

    Does what training and evaluation do through the store: squash to the canvas as Pillow does,
    centre view, model, softmax of the logits divided by the temperature. Traces to ONNX with
    dynamic N, H and W.
    """

    def __init__(self, model: Classifier) -> None:
        """Take a snapshot of a model, in evaluation mode on the CPU."""
        super().__init__()
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        self.spec = model.spec
        _fix_padding(self.model)

    def forward(self, images: Tensor) -> Answers:
        """Answers for uint8 images (N, H, W, 3)."""
        height, width = _size(images, 1), _size(images, 2)
        canvas = squash(images, self.spec.canvas)
        view = center_view(canvas, width / height, self.spec.input_size, self.spec.crop_pct)
        logits = self.model(view)
        probabilities = torch.softmax(logits / self.spec.temperature, dim=-1)
        return Answers(probabilities, -torch.logsumexp(logits, dim=-1))


class TorchModel:
    """A model folder's classifier behind the methods of ``tutelage.deploy.runtime.OnnxModel``."""

    def __init__(self, model: Classifier) -> None:
        """Take a snapshot of a model."""
        self.classes = model.spec.classes
        self.unknown_threshold = model.spec.unknown_threshold
        self._deployed = Deployed(model)

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Class probabilities (N, K) of uint8 RGB images (H, W, 3) of any sizes."""
        return self.answers(images)[0]

    def answers(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """``probabilities`` (N, K) and energies (N,)."""
        found = [self._deployed(torch.tensor(image)[None]) for image in images]
        probabilities, energies = zip(*found, strict=True)
        return torch.cat(probabilities).numpy(), torch.cat(energies).numpy()


def squash(images: Tensor, canvas: int) -> Tensor:
    """Resize uint8 images (N, H, W, 3) to (N, canvas, canvas, 3), float32 of whole grey levels.

    As ``PIL.Image.resize((canvas, canvas), BILINEAR)``: columns first, rounded to grey levels
    after each pass; a level's difference remains where Pillow's fixed point rounds otherwise.
    """
    zero = torch.zeros(1)
    rows = matrix(images.shape[1], canvas, zero, _size(images, 1))
    columns = matrix(images.shape[2], canvas, zero, _size(images, 2))
    pixels = images.permute(0, 3, 1, 2).to(torch.float32)
    narrow = _grey_levels(torch.matmul(pixels, columns[0].T))
    return _grey_levels(torch.matmul(rows[0], narrow)).permute(0, 2, 3, 1)


def _size(images: Tensor, axis: int) -> Tensor:
    """A side's length as (1,) float32 that stays dynamic in a traced graph."""
    return torch.as_tensor(images.shape[axis], dtype=torch.float32).reshape(1)


def _grey_levels(x: Tensor) -> Tensor:
    # Halves go up, as in Pillow; the hair more keeps a runtime's rounding error from deciding.
    return torch.floor(x + 0.5001).clamp(0.0, 255.0)


def _fix_padding(model: Classifier) -> None:
    """Replace "same" padding that depends on the input's size by the view's constants.

    The view has one size, so the graph needs no shape arithmetic; the quantiser would also turn
    that arithmetic into wrong 8-bit paddings.
    """
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.padding import get_same_padding

    pads: dict[nn.Module, list[int]] = {}

    def note(conv: Any, inputs: tuple[Tensor, ...]) -> None:
        sides = zip(inputs[0].shape[-2:], conv.kernel_size, conv.stride, conv.dilation, strict=True)
        rows, columns = (get_same_padding(*side) for side in sides)
        pads[conv] = [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2]

    convs = {name: m for name, m in model.named_modules() if type(m) is Conv2dSame}
    hooks = [conv.register_forward_pre_hook(note) for conv in convs.values()]
    model(torch.zeros(1, 3, model.spec.input_size, model.spec.input_size))
    for hook in hooks:
        hook.remove()
    for name, conv in convs.items():
        model.set_submodule(name, _Padded(conv, pads[conv]))


class _Padded(nn.Module):
    """A convolution behind constant padding (left, right, top, bottom)."""

    def __init__(self, conv: Any, pad: list[int]) -> None:
        super().__init__()
        self.conv, self.pad = conv, pad

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        x = F.pad(x, self.pad)
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)
