"""What lies beside an exported model for other runtimes, which know no antialiased Resize of ONNX.

OpenVINO, MNN and others skip its ``antialias`` without a word, so the model sees another image than
it was given. The portable form resizes by two matrix products and takes images of any size, as the
usual file does. The view form leaves the resize to its host and has fixed shapes only. With them
come ``NAME.onnx.json``, since not every runtime reads the metadata of a file and converters lose
it, and ``golden/``, images and their answers, with which a port proves itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from torch import Tensor, nn

from tutelage._version import __version__
from tutelage.augment.resample import center_matrices, resize
from tutelage.deploy.answers import decide
from tutelage.deploy.graph import Deployed, side_of, squash
from tutelage.deploy.onnx import EXAMPLE, TOLERANCE, Parity, agreement, write_graph
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.classifier import Classifier
from tutelage.models.spec import ModelSpec
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_atomically

# Of ONNX: the newest that every runtime of docs/deployment.md knows. OpenCV 4.6 takes no Clip of
# opset 11, but no images of any size either.
OPSET = 13
VIEW_OPSET = 10
OUTPUTS = ("probabilities", "energy")
# The allowed difference of a probability, where the view file and torch are given equal views.
VIEW_TOLERANCE = 1e-3
FORMAT = 1  # of the description
IMAGES = 10
LARGEST = 640  # pixels of a side; larger images are made smaller, so that the folder stays small
LIST = "golden.json"


class _Form(nn.Module):
    """What both forms hold."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.deployed = Deployed(model)
        self.spec = model.spec
        part: Any
        for part in self.deployed.modules():
            if hasattr(part, "fused_attn"):  # timm's; as one operator, ONNX knows it from 14 on
                part.fused_attn = False


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
    """Compare a view file with torch on the views of uint8 images (H, W, 3) of any sizes."""
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

    This is ``tutelage.deploy.graph.squash`` in operators of opset 13: first the rows, then the
    columns, with Pillow's weights of 22 bits and its rounding after each. In plain float32 it is
    chance how sums halfway between two grey levels are rounded: from 32 to 48 pixels that is every
    tenth pixel, and moved a probability by 6e-3. (onnxruntime's Resize leaves it to chance as well.
    Pillow 13 also begins with the columns where that is less work. That moves a quarter of such an
    image's pixels by one level.)
    """
    # The cast comes first, since not every runtime can transpose uint8.
    pixels = images.to(torch.float32).permute(0, 3, 1, 2)
    across, down = _squashing(images, 2, canvas), _squashing(images, 1, canvas)
    narrowed = _rounded(*(torch.matmul(pixels, part.T) for part in across))
    return _rounded(*(torch.matmul(part, narrowed) for part in down))


def _squashing(images: Tensor, axis: int, canvas: int) -> tuple[Tensor, Tensor]:
    """Two matrices (canvas, length) that resample a whole axis of images (N, H, W, 3).

    They hold the upper and the lower 11 bits of the weights, so that float32 adds up whole numbers.
    """
    length = side_of(images, axis)
    inputs = 2 * torch.arange(images.shape[axis], dtype=torch.float32) + 1
    outputs = 2 * torch.arange(canvas, dtype=torch.float32)[:, None] + 1
    triangle = 2 * length.clamp(min=canvas) - (inputs * canvas - outputs * length).abs()
    weights = triangle.clamp(min=0.0)
    total = weights.sum(dim=-1, keepdim=True)
    scaled = weights * 2.0**11
    high = torch.floor(scaled / total)
    return high, torch.floor((scaled - high * total) / total * 2.0**11 + 0.5)


def _rounded(high: Tensor, low: Tensor) -> Tensor:
    """Sums of ``_squashing``'s two parts as grey levels: (high * 2^11 + low + 2^21) >> 22."""
    return torch.floor((high + torch.floor(low / 2.0**11) + 2.0**10) / 2.0**11)


def _look(deployed: Deployed, view: Tensor) -> tuple[Tensor, Tensor]:
    """``Deployed.look``, with the energy in operators that every runtime computes alike.

    OpenVINO 2026.4 reduces the ReduceLogSumExp of opset 13 over the whole batch. The logarithm of
    a softmax is a logit plus the energy. It stays (N, 1) until the end, as OpenCV 4.6 wants it.
    """
    logits, _ = deployed.model(view)
    probabilities = torch.softmax(logits / deployed.spec.temperature, dim=-1)
    energy = torch.log_softmax(logits, dim=-1)[:, :1] - logits[:, :1]
    return probabilities, energy.reshape(-1)


def write_description(
    path: Path,
    spec: ModelSpec,
    parameters: int,
    *,
    portable: Path | None = None,
    view: Path | None = None,
) -> Path:
    """Describe the exported file ``path``, with its other forms beside it; return where."""
    forms = {"onnx": path, "portable": portable, "view": view}
    fields: dict[str, Any] = {
        "format": FORMAT,
        "tutelage": __version__,
        "architecture": spec.architecture,
        "parameters": parameters,
        "classes": spec.classes,
        "files": {form: file and file.name for form, file in forms.items()},
        "canvas": spec.canvas,
        "input_size": spec.input_size,
        "crop_pct": spec.crop_pct,
        "mean": spec.mean,
        "std": spec.std,
        "temperature": spec.temperature,
        "unknown_threshold": spec.unknown_threshold,
        "decision_threshold": spec.decision_threshold,
    }
    written = path.with_name(f"{path.name}.json")
    write_atomically(written, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    return written


def golden_folder(exported: Path) -> Path:
    """The folder for an exported file's images and answers, beside it."""
    folder = exported.with_name("golden")
    if not folder.exists():
        return folder
    try:
        owner = json.loads((folder / LIST).read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        owner = None
    if owner != exported.name:
        whose = "is of no exported model" if owner is None else f"is that of {owner}"
        raise TutelageError(
            f"{folder} {whose}; export {exported.name} into another folder (--out), or move it away"
        )
    return folder


def write_golden(model: Classifier, exported: Path, images: Sequence[np.ndarray]) -> Path:
    """Write up to ten of the uint8 images (H, W, 3) with canvas, view and answer; return where.

    The answers are those of the exported file ``exported`` in onnxruntime, as ``predict`` has them.
    """
    folder = golden_folder(exported)
    folder.mkdir(parents=True, exist_ok=True)
    deployed, opened = Deployed(model), OnnxModel(exported)
    rows = []
    for index, own in enumerate(images[:IMAGES]):
        image = _shaped(own, index)
        canvas, view = canvas_and_view(deployed, image)
        probabilities, energy = opened.answers([image])
        (best,) = decide(probabilities, opened.classes, opened.decision_threshold)
        row = {
            "image": f"{index}.png",
            "canvas": f"{index}.canvas.png",
            "view": f"{index}.view.f32",
            "label": opened.classes[best],
            "probabilities": probabilities[0].tolist(),
            "energy": float(energy[0]),
        }
        rows.append(row)
        Image.fromarray(image).save(folder / row["image"])
        Image.fromarray(canvas[0].numpy()).save(folder / row["canvas"])
        write_atomically(folder / row["view"], view.numpy().astype("<f4").tobytes())
    content = {"model": exported.name, "tolerance": TOLERANCE, "images": rows}
    write_atomically(folder / LIST, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return folder


def _shaped(image: np.ndarray, index: int) -> np.ndarray:
    """The image, made smaller if it is large; two of three are cut, to be wide, high or square.

    A port that mixes up width and height is found out by images that are not square.
    """
    picture = Image.fromarray(image)
    picture.thumbnail((LARGEST, LARGEST))
    width, height = picture.size
    if index % 3 == 1:
        width = -(-2 * width // 3)
    elif index % 3 == 2:
        height = -(-2 * height // 3)
    return np.asarray(picture.crop((0, 0, width, height)))
