"""``golden/``: images and their answers, with which a port of an exported model proves itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tutelage.deploy.answers import decide
from tutelage.deploy.graph import Deployed
from tutelage.deploy.onnx import TOLERANCE
from tutelage.deploy.portable import canvas_and_view
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.classifier import Classifier
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_atomically

IMAGES = 10
LARGEST = 640  # pixels of a side; larger images are made smaller, so that the folder stays small
LIST = "golden.json"


def golden_folder(exported: Path) -> Path:
    """The folder for an exported file's images and answers, beside it.

    Raises:
        TutelageError: a folder of that name holds something else, or is another model's.
    """
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

    Raises:
        TutelageError: as ``golden_folder`` has it.
    """
    folder = golden_folder(exported)
    folder.mkdir(parents=True, exist_ok=True)
    deployed, opened = Deployed(model), OnnxModel(exported)
    rows = []
    for index, image in enumerate(images[:IMAGES]):
        rows.append(_write_one(folder, str(index), _shaped(image, index), deployed, opened))
    content = {"model": exported.name, "tolerance": TOLERANCE, "images": rows}
    write_atomically(folder / LIST, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return folder


def _write_one(
    folder: Path, name: str, image: np.ndarray, deployed: Deployed, opened: OnnxModel
) -> dict[str, Any]:
    """Write the files of one image; its row in the list."""
    canvas, view = canvas_and_view(deployed, image)
    row: dict[str, Any] = {"image": f"{name}.png", "canvas": f"{name}.canvas.png"}
    Image.fromarray(image).save(folder / row["image"])
    Image.fromarray(canvas[0].numpy()).save(folder / row["canvas"])
    row["view"] = f"{name}.view.f32"
    write_atomically(folder / row["view"], view.numpy().astype("<f4").tobytes())
    probabilities, energy = opened.answers([image])
    (best,) = decide(probabilities, opened.classes, opened.decision_threshold)
    row["label"] = opened.classes[best]
    row["probabilities"] = probabilities[0].tolist()
    row["energy"] = float(energy[0])
    return row


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
