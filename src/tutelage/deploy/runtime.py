"""Run an exported model with numpy and onnxruntime. Imports no torch."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from tutelage.system.errors import TutelageError

BATCH = 32  # most images in one forward pass
BATCH_PIXELS = 8_000_000  # most pixels; bounds the float copies of a batch to about 100 MB


class OnnxModel:
    """A model exported by ``tutelage export``, opened with ``threads`` cores a batch (0: all).

    It is also a ``PoolModel`` of ``tutelage.deploy.label_files``: every thread decodes its own
    batch and runs it on one core. So all cores are busy with whichever of the two there is to do.

    Attributes:
        path: the .onnx file.
        classes: class names in the order of the probabilities.
        temperature: the graph divides the logits by it.
        input_size: side in pixels of the view that the trunk sees.
        unknown_threshold: an energy above it means none of the classes; None without a threshold.
        decision_threshold: (class, P), see ``tutelage.deploy.answers.decide``; None without one.
        has_features: whether ``look`` can be asked; the portable form has no features.
        metadata: everything the file says about itself.

    Raises:
        TutelageError: no such file, not ONNX, or not exported by tutelage.
    """

    # Up to 1.4 times as fast as single images with views of 64 px, no slower with views of 144 px.
    batch = 8

    def __init__(self, path: Path | str, *, threads: int = 0) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise TutelageError(f"no exported model {self.path}; tutelage export MODEL writes one")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a class of exceptions for each failure
            raise TutelageError(f"{self.path} is not a readable ONNX model: {error}") from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        try:
            self.classes = _classes(self.metadata["tutelage.classes"])
            self.temperature = float(self.metadata["tutelage.temperature"])
            self.input_size = int(self.metadata["tutelage.input_size"])
            threshold = json.loads(self.metadata["tutelage.unknown_threshold"])
            self.unknown_threshold = None if threshold is None else float(threshold)
            own = self.metadata["tutelage.decision_threshold"]
            self.decision_threshold = _decision_threshold(own, self.classes)
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise TutelageError(
                f"{self.path} is an ONNX model, but not one of tutelage: its metadata has no "
                "classes; write one with tutelage export MODEL"
            ) from error
        inputs = [(known.name, known.type) for known in self._session.get_inputs()]
        outputs = {known.name for known in self._session.get_outputs()}
        self.has_features = "features" in outputs
        if inputs != [("images", "tensor(uint8)")] or not {"probabilities", "energy"} <= outputs:
            raise TutelageError(
                f"{self.path} takes {inputs} and gives {sorted(outputs)}; expected uint8 images, "
                "probabilities and energy: write one with tutelage export MODEL"
            )

    def probabilities(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Class probabilities (N, K) float32 of upright RGB images, uint8 (H, W, 3) of any sizes.

        Raises:
            TutelageError: an array that is not an image.
        """
        (result,) = self._run(["probabilities"], images)
        return result.reshape(-1, len(self.classes))

    def answers(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """``probabilities`` (N, K), and energies (N,) to compare with ``unknown_threshold``."""
        probabilities, energy = self._run(["probabilities", "energy"], images)
        return probabilities.reshape(-1, len(self.classes)), energy

    def look(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``probabilities`` (N, K), energies (N,) and features (N, D) of at least one image."""
        probabilities, energy, features = self._run(["probabilities", "energy", "features"], images)
        return probabilities, energy, features

    # All of the work: onnxruntime lets other threads go on while it computes.
    prepare = answers

    def finish(self, prepared: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return what ``prepare`` has computed."""
        return prepared

    def _run(self, outputs: list[str], images: Sequence[np.ndarray]) -> list[np.ndarray]:
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise TutelageError(
                    f"image {index} is {image.dtype} {image.shape}; expected uint8 (H, W, 3)"
                )
            by_shape[image.shape].append(index)
        order: list[int] = []
        parts: list[list[np.ndarray]] = []
        for (height, width, _), members in by_shape.items():
            step = max(1, min(BATCH, BATCH_PIXELS // (height * width)))
            for start in range(0, len(members), step):
                chosen = members[start : start + step]
                order += chosen
                alone = len(chosen) == 1  # one image needs no copy
                several = (
                    images[chosen[0]][None] if alone else np.stack([images[i] for i in chosen])
                )
                parts.append(self._answers(outputs, several))
        if not parts:
            return [np.zeros(0, dtype=np.float32) for _ in outputs]
        back = np.argsort(order)
        return [np.concatenate(column)[back] for column in zip(*parts, strict=True)]

    def _answers(self, outputs: list[str], images: np.ndarray) -> list[np.ndarray]:
        """One forward pass of images (N, H, W, 3); an altered graph may answer anything."""
        try:
            found: list[np.ndarray] = self._session.run(outputs, {"images": images})
        except Exception as error:  # as in opening
            raise TutelageError(f"{self.path} cannot be run: {error}") from error
        n = len(images)
        shapes = {"probabilities": (n, len(self.classes)), "energy": (n,)}
        for name, values in zip(outputs, found, strict=True):
            expected = shapes.get(name, (n, *values.shape[1:2]))  # features have any width
            if values.shape != expected or not np.isfinite(values).all():
                raise TutelageError(
                    f"{self.path} answers with {name} {values.shape}, expected finite values "
                    f"{expected}: it is damaged, export it again"
                )
        return found


def _decision_threshold(text: str, classes: Sequence[str]) -> tuple[str, float] | None:
    found = json.loads(text)
    if found is None:
        return None
    name, least = found
    if name not in classes or not 0 <= float(least) <= 1:
        raise ValueError("the threshold is not that of a class")
    return str(name), float(least)


def _classes(text: str) -> tuple[str, ...]:
    found = json.loads(text)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("the classes are no list of texts")
    if not 0 < len(found) == len(set(found)):
        raise ValueError("there are no classes, or one is there twice")
    return tuple(found)
