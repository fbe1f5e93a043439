"""Classify images with an exported model, without tutelage: python classify.py MODEL.onnx IMAGE...

Needs numpy, Pillow and onnxruntime. Copy it into your program.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(file):
    """An image file as uint8 (H, W, 3): RGB, upright, on white where it is transparent."""
    with Image.open(file) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))  # 16-bit grey
        elif image.has_transparency_data:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(upright.convert("RGB"))


class Classifier:
    """An exported model, with its thresholds for unknown images and for a decision, if any."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.classes = json.loads(metadata["tutelage.classes"])
        self.unknown = json.loads(metadata["tutelage.unknown_threshold"])
        self.decision = json.loads(metadata["tutelage.decision_threshold"])

    def __call__(self, image):
        """The label of an image (H, W, 3), and the probability of each class."""
        found, energy = self.session.run(["probabilities", "energy"], {"images": image[None]})
        probabilities = dict(zip(self.classes, found[0].tolist(), strict=True))
        if self.unknown is not None and energy[0] > self.unknown:
            return "unknown", probabilities
        others = dict(probabilities)
        if self.decision is not None:
            name, least = self.decision
            if others.pop(name) >= least:
                return name, probabilities
        return max(others, key=others.get), probabilities


if __name__ == "__main__":
    classify = Classifier(sys.argv[1])
    for file in sys.argv[2:]:
        label, probabilities = classify(read(file))
        print(file, label, probabilities)
