"""A model of tutelage in OpenVINO. It proves itself on the golden images, then classifies yours.

pip install openvino numpy pillow
python port.py model.onnx.json [IMAGE...]

``tutelage export MODEL --portable`` writes the description, the model and the golden images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from PIL import Image, ImageOps

Model = Callable[[np.ndarray], tuple[np.ndarray, float]]


def load(path: Path) -> Model:
    """The portable file: uint8 (H, W, 3) of any size -> probabilities (K,) and the energy."""
    # By default OpenVINO computes in bfloat16 where the processor can, which moves probabilities.
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", hint)

    def model(pixels: np.ndarray) -> tuple[np.ndarray, float]:
        found = compiled(pixels[None])
        return found["probabilities"][0], float(found["energy"][0])

    return model


def read(path: Path | str) -> np.ndarray:
    """Upright RGB pixels uint8 (H, W, 3), on white where the image is transparent."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def label_of(probabilities: Sequence[float], described: dict[str, Any]) -> str:
    """The likeliest class, or the one that the model's decision threshold gives."""
    ranked = [
        described["classes"][k] for k in np.argsort(-np.asarray(probabilities), kind="stable")
    ]
    if described["decision_threshold"] is None:
        return ranked[0]
    name, least = described["decision_threshold"]
    if probabilities[described["classes"].index(name)] >= least:
        return name
    return next(other for other in ranked if other != name)


def prove(model: Model, described: dict[str, Any], folder: Path) -> bool:
    """Whether the answers to the golden images in a folder are the ones that are written there."""
    golden = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    probability = energy = 0.0
    for known in golden["images"]:
        found, found_energy = model(read(folder / known["image"]))
        probability = max(probability, float(np.abs(found - known["probabilities"]).max()))
        energy = max(energy, abs(found_energy - known["energy"]))
        if label_of(known["probabilities"], described) != known["label"]:
            raise SystemExit(f"{known['image']}: the rule for labels differs")
    allowed = golden["tolerance"]  # of a probability, which a logit moves by a quarter at most
    print(f"largest difference of a probability {probability:.2g}, of an energy {energy:.2g}")
    return probability <= allowed and energy <= 4 * allowed


def main() -> None:
    """Prove the model, then name a class for each image."""
    if len(sys.argv) < 2:
        raise SystemExit("python port.py model.onnx.json [IMAGE...]")
    description, images = Path(sys.argv[1]), sys.argv[2:]
    described = json.loads(description.read_text(encoding="utf-8"))
    if described["files"]["portable"] is None:
        raise SystemExit("no portable file; write one with tutelage export MODEL --portable")
    model = load(description.with_name(described["files"]["portable"]))
    if not prove(model, described, description.with_name("golden")):
        raise SystemExit("these answers are not the model's")
    for path in images:
        probabilities, energy = model(read(path))
        limit = described["unknown_threshold"]
        unknown = limit is not None and energy > limit
        print(f"{path}: {'unknown' if unknown else label_of(probabilities, described)}")


if __name__ == "__main__":
    main()
