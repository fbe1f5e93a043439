"""Two more forms of the exported model, for runtimes that do not know ONNX's antialiased Resize.

OpenVINO, MNN and others skip its ``antialias`` without a word, so the model sees another image than
it was given. The portable form resizes by two matrix products and takes images of any size, as the
usual file does. The view form leaves the resize to its host and has fixed shapes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from tutelage.augment.resample import center_matrices, matrix, resize
from tutelage.deploy.graph import Deployed, side_of, squash
from tutelage.deploy.onnx import EXAMPLE, Parity, agreement, write_graph
from tutelage.models.classifier import Classifier

# Of ONNX: the newest that every runtime of docs/deployment.md knows. OpenCV 4.6 takes no Clip of
# opset 11, but no images of any size either.
OPSET = 13
VIEW_OPSET = 10
OUTPUTS = ("probabilities", "energy")
# The allowed difference of a probability, where the view file and torch are given equal views.
VIEW_TOLERANCE = 1e-3


class _Form(nn.Module):
    """What both forms hold."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.deployed = _plain(Deployed(model))
        self.spec = model.spec


class Portable(_Form):
    """``Deployed`` in operators of opset 13: uint8 images (N, H, W, 3) -> ``OUTPUTS``."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (N, K) and energies (N,) of uint8 images (N, H, W, 3), any H and W."""
        spec = self.spec
        canvas = squash_by_matrices(images, spec.canvas)
        aspect = side_of(images, 2) / side_of(images, 1)
        matrices = center_matrices(aspect, spec.canvas, spec.input_size, spec.crop_pct)
        return _look(self.deployed, resize(canvas, *matrices) / 255.0)


class View(_Form):
    """The part of ``Deployed`` behind the view: float32 views (N, 3, S, S) -> ``OUTPUTS``."""

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (N, K) and energies (N,) of views (N, 3, S, S) in [0, 1]."""
        return _look(self.deployed, view)


def export_portable(model: Classifier, path: Path) -> None:
    """Write ``Portable(model)`` as ONNX, with what ``export_onnx`` promises and raises."""
    write_graph(Portable(model), "images", EXAMPLE, OUTPUTS, path, OPSET)


def export_view(model: Classifier, path: Path) -> None:
    """Write ``View(model)`` as ONNX for one view; raises what ``export_onnx`` does."""
    side = model.spec.input_size
    write_graph(View(model), "view", torch.zeros(1, 3, side, side), OUTPUTS, path, VIEW_OPSET)


def view_parity(model: Classifier, path: Path, images: Sequence[np.ndarray]) -> Parity:
    """Compare a view file with torch on the views of uint8 images (H, W, 3) of any sizes.

    Raises:
        TutelageError: as ``parity`` has it, with ``VIEW_TOLERANCE``.
    """
    deployed = Deployed(model)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    views = [canvas_and_view(deployed, image)[1] for image in images]
    ours = [deployed.look(view).probabilities.numpy() for view in views]
    theirs = [session.run(["probabilities"], {"view": view.numpy()})[0] for view in views]
    return agreement(path, np.concatenate(ours), np.concatenate(theirs), VIEW_TOLERANCE)


def canvas_and_view(deployed: Deployed, image: np.ndarray) -> tuple[Tensor, Tensor]:
    """The canvas (1, C, C, 3) uint8 and the view (1, 3, S, S) of a uint8 image (H, W, 3)."""
    canvas = squash(torch.tensor(image)[None], deployed.spec.canvas)
    height, width = image.shape[:2]
    return canvas, deployed.view(canvas, torch.tensor([width / height]))


def squash_by_matrices(images: Tensor, canvas: int) -> Tensor:
    """Resize uint8 images (N, H, W, 3) to whole numbers 0..255, (N, 3, canvas, canvas) float32.

    This is ``tutelage.deploy.graph.squash`` in operators of opset 13. Both passes round, as those
    of Pillow and of onnxruntime's Resize do: unrounded, they moved one of 1,000 probabilities
    (lite0) by up to 0.073 on 100 photos; as they are, by up to 0.003. Where Pillow and Resize round
    otherwise, in three pixels of ten thousand, the sum is close to a half, and their weights have
    22 bits. (Pillow 13 also begins with the rows where that is less work. That moves a quarter of
    such an image's pixels by one grey level.)
    """
    # The cast comes first, since not every runtime can transpose uint8.
    pixels = images.to(torch.float32).permute(0, 3, 1, 2)
    narrowed = torch.floor(torch.matmul(pixels, _squashing(images, 2, canvas).T) + 0.5)
    return torch.floor(torch.matmul(_squashing(images, 1, canvas), narrowed) + 0.5)


def _squashing(images: Tensor, axis: int, canvas: int) -> Tensor:
    """The matrix (canvas, length) that resamples a whole axis of images (N, H, W, 3)."""
    return matrix(images.shape[axis], canvas, torch.zeros(1), side_of(images, axis))[0]


def _plain(deployed: Deployed) -> Deployed:
    """The same with attention in single operators: as one, ONNX knows it from opset 14 on."""
    part: Any
    for part in deployed.modules():
        if hasattr(part, "fused_attn"):  # timm's
            part.fused_attn = False
    return deployed


def _look(deployed: Deployed, view: Tensor) -> tuple[Tensor, Tensor]:
    """``Deployed.look``, with the energy in operators that every runtime computes alike.

    OpenVINO 2026.4 reduces the ReduceLogSumExp of opset 13 over the whole batch. The logarithm of
    a softmax is a logit plus the energy. It stays (N, 1) until the end, as OpenCV 4.6 wants it.
    """
    logits, _ = deployed.model(view)
    probabilities = torch.softmax(logits / deployed.spec.temperature, dim=-1)
    energy = torch.log_softmax(logits, dim=-1)[:, :1] - logits[:, :1]
    return probabilities, energy.reshape(-1)
