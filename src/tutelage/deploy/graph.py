"""The exported computation: from uint8 images of any size to calibrated probabilities."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.augment.resample import center_view
from tutelage.models.classifier import Classifier
from tutelage.models.forward import Outputs
from tutelage.system.errors import TutelageError


class Answers(NamedTuple):
    """What a model says about N images.

    The energy is ``tutelage.stats.unknown.energy`` of the logits; it is high for an image of none
    of the classes. The features are what the head looks at; ``tutelage watch`` compares them.
    """

    probabilities: Tensor  # (N, K) float32, calibrated
    energy: Tensor  # (N,) float32
    features: Tensor  # (N, D) float32


class Deployed(nn.Module):
    """uint8 images (N, H, W, 3), any H and W -> ``Answers``.

    Does what training and evaluation do with images from the store: squash to the canvas as Pillow
    does, take the centre view, run the model, divide the logits by the temperature, softmax. It can
    be traced to ONNX with dynamic N, H and W. It holds a copy of the model.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        own = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        _fix_padding(own)
        self.model = Outputs(own)
        self.spec = model.spec

    def forward(self, images: Tensor) -> Answers:
        """Answers for uint8 images (N, H, W, 3)."""
        height, width = side_of(images, 1), side_of(images, 2)
        canvas = squash(images, self.spec.canvas)
        return self.answers(canvas, width / height)

    def answers(self, canvas: Tensor, aspect: Tensor) -> Answers:
        """Answers for canvases (N, C, C, 3) of 0..255; ``aspect`` (1,) or (N,): width / height."""
        return self.look(self.view(canvas, aspect))

    def view(self, canvas: Tensor, aspect: Tensor) -> Tensor:
        """Views (N, 3, S, S) in [0, 1] of canvases, which ``answers`` describes."""
        return center_view(canvas, aspect, self.spec.input_size, self.spec.crop_pct)

    def look(self, view: Tensor) -> Answers:
        """Answers for views (N, 3, S, S) in [0, 1]."""
        logits, features = self.model(view)
        probabilities = torch.softmax(logits / self.spec.temperature, dim=-1)
        return Answers(probabilities, -torch.logsumexp(logits, dim=-1), features)


class TorchModel:
    """A classifier with the methods of ``tutelage.deploy.runtime.OnnxModel``.

    It is also a ``PoolModel`` of ``tutelage.deploy.label_files``: threads squash the images, and
    the device runs whole batches.
    """

    batch = 64  # images of a forward in `finish`

    def __init__(self, model: Classifier, device: str = "cpu") -> None:
        self.classes = model.spec.classes
        self.unknown_threshold = model.spec.unknown_threshold
        self.decision_threshold = model.spec.decision_threshold
        self._device = torch.device(device)
        self._deployed = Deployed(model).to(self._device)

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Class probabilities (N, K) of uint8 RGB images (H, W, 3) of any sizes."""
        return self.answers(images)[0]

    def answers(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """``probabilities`` (N, K) and energies (N,)."""
        found = [self.finish(self.prepare([image])) for image in images]
        probabilities, energies = zip(*found, strict=True)
        return np.concatenate(probabilities), np.concatenate(energies)

    def prepare(self, pixels: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Canvases uint8 (N, C, C, 3) and width / height (N,) of uint8 images (H, W, 3)."""
        side = self._deployed.spec.canvas
        canvases = [squash(torch.tensor(image)[None], side) for image in pixels]
        sides = torch.tensor([image.shape[:2] for image in pixels], dtype=torch.float32)
        return torch.cat(canvases), sides[:, 1] / sides[:, 0]

    def finish(self, prepared: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, K) and energies (N,) of what ``prepare`` returned."""
        canvases, aspects = (part.to(self._device) for part in prepared)
        with torch.no_grad():
            probabilities, energies, _ = self._deployed.answers(canvases, aspects)
        if not (torch.isfinite(probabilities).all() and torch.isfinite(energies).all()):
            raise TutelageError(
                "the model answers with values that are not finite; its weights or its "
                "description (mean, std, temperature in model.json) are damaged"
            )
        return probabilities.cpu().numpy(), energies.cpu().numpy()


def squash(images: Tensor, canvas: int) -> Tensor:
    """Resize uint8 images (N, H, W, 3) to uint8 (N, canvas, canvas, 3), as the store does."""
    squashed: Tensor = _Squash.apply(images, canvas)
    return squashed


class _Squash(torch.autograd.Function):
    """Pillow's resize, and the ONNX operator that copies it.

    They differ by a grey level in less than one pixel of a hundred. torch's own resize has coarser
    weights: it differs in three of a hundred, enough to move a probability by a hundredth.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, side: int) -> Tensor:
        pictures = [Image.fromarray(image.numpy()) for image in images]
        resized = [p.resize((side, side), Image.Resampling.BILINEAR) for p in pictures]
        return torch.from_numpy(np.stack([np.asarray(picture) for picture in resized]))

    @staticmethod
    def symbolic(graph: Any, images: Any, side: int) -> Any:
        pixels = graph.op("Transpose", images, perm_i=[0, 3, 1, 2])
        none = graph.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
        zero, two = (graph.op("Constant", value_t=torch.tensor([axis])) for axis in (0, 2))
        kept = graph.op("Slice", graph.op("Shape", pixels), zero, two)
        sides = graph.op("Constant", value_t=torch.tensor([side, side]))
        resized = graph.op(
            "Resize",
            pixels,
            none,
            none,
            graph.op("Concat", kept, sides, axis_i=0),
            antialias_i=1,
            exclude_outside_i=1,  # as in Pillow
            mode_s="linear",
            coordinate_transformation_mode_s="half_pixel",
        )
        return graph.op("Transpose", resized, perm_i=[0, 2, 3, 1])


def side_of(images: Tensor, axis: int) -> Tensor:
    """A side's length as (1,) float32 that stays dynamic in a traced graph."""
    return torch.as_tensor(images.shape[axis], dtype=torch.float32).reshape(1)


def _fix_padding(model: Classifier) -> None:
    """Replace "same" padding, which depends on the input's size, by the constants of the view.

    The view has one size, so the graph needs no arithmetic on shapes. The quantiser would turn that
    arithmetic into wrong 8-bit paddings.
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
    def __init__(self, conv: Any, pad: list[int]) -> None:
        super().__init__()
        self.conv, self.pad = conv, pad

    def forward(self, x: Tensor) -> Tensor:
        padded: Tensor = _PaddedConv.apply(x, self.conv.weight, self.conv, self.pad)
        bias = self.conv.bias
        return padded if bias is None else padded + bias[:, None, None]


class _PaddedConv(torch.autograd.Function):
    """One operator in ONNX, whose convolution pads each side by its own amount.

    A separate operator for the padding takes a tenth of a small network's time, and a quantised
    network would leave int8 for it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: Any, pad: list[int]) -> Tensor:
        x = F.pad(x, pad)
        return F.conv2d(x, weight, None, conv.stride, 0, conv.dilation, conv.groups)

    @staticmethod
    def symbolic(graph: Any, x: Any, weight: Any, conv: Any, pad: list[int]) -> Any:
        left, right, top, bottom = pad
        return graph.op(
            "Conv",
            x,
            weight,
            kernel_shape_i=list(conv.kernel_size),
            strides_i=list(conv.stride),
            dilations_i=list(conv.dilation),
            group_i=conv.groups,
            pads_i=[top, left, bottom, right],
        )
