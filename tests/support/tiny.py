"""Small things that train in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tutelage.data.store import ImageStore
from tutelage.models.classifier import Classifier
from tutelage.models.spec import ModelSpec
from tutelage.training.batch import Batch
from tutelage.training.loader import Canvases, Examples

CPU = torch.device("cpu")
GREY = (0.5, 0.5, 0.5)


def classifier(
    n_classes: int = 2,
    *,
    seed: int = 0,
    mean: tuple[float, float, float] = GREY,
    std: tuple[float, float, float] = GREY,
    crop_pct: float = 0.875,
    canvas: int = 32,
) -> Classifier:
    """A convolution, a batch norm and a head, with random weights."""
    spec = ModelSpec(
        architecture="tiny",
        cut=None,
        classes=tuple("abcdefgh"[:n_classes]),
        input_size=32,
        canvas=canvas,
        crop_pct=crop_pct,
        mean=mean,
        std=std,
    )
    torch.manual_seed(seed)
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    model = Classifier(trunk, spec, 8)
    nn.init.normal_(model.head.weight)  # answers that differ, so that comparisons can fail
    return model


def store(images: np.ndarray, aspect: np.ndarray | None = None) -> ImageStore:
    """An image store that was never on a disk."""
    n, canvas = images.shape[:2]
    aspect = np.ones(n, dtype=np.float32) if aspect is None else aspect
    return ImageStore(images, aspect, np.ones(n, dtype=bool), {}, canvas, False)


def canvases(images: np.ndarray, aspect: np.ndarray | None = None) -> Canvases:
    """The same, as loaders take it."""
    return Canvases(store(images, aspect), np.arange(len(images)), CPU)


def smooth_images(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth colour images uint8 (n, size, size, 3), no two alike."""
    rng = np.random.default_rng(seed)
    return np.stack([smooth_image(size, size, rng) for _ in range(n)])


def smooth_image(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """One of any shape."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def textured_image(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """One with detail that a careless resize would alias."""
    noise = rng.integers(-40, 41, (height, width, 3))
    image = smooth_image(height, width, rng).astype(int) + noise
    return np.asarray(image.clip(0, 255).astype(np.uint8))


def two_classes(n: int, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images (n, size, size, 3), reddish for class 0 and bluish for class 1, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = rng.integers(60, 160, (n, size, size, 3))
    images[labels == 0, :, :, 0] += 60
    images[labels == 1, :, :, 2] += 60
    return images.astype(np.uint8), labels


def examples(rows: np.ndarray, labels: np.ndarray, n_classes: int = 2) -> Examples:
    """Labelled examples; a label of -1 is a target of zeros with weight 0."""
    known = torch.from_numpy(labels >= 0)
    targets = torch.eye(n_classes)[torch.from_numpy(np.maximum(labels, 0))] * known[:, None]
    return Examples(rows, targets, known.float())


def batches(n: int, *, size: int = 32, count: int = 8, seed: int = 0) -> list[Batch]:
    """Batches of the two classes."""
    out = []
    for number in range(n):
        images, labels = two_classes(count, size, seed * 1000 + number)
        views = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        out.append(Batch(views, torch.eye(2)[torch.from_numpy(labels)], torch.ones(count)))
    return out


def write_data(root: Path, *, train: int = 10, pool: int = 8, test: int = 6, seed: int = 0) -> Path:
    """A folder of two classes of PNGs of several shapes, with a pool and a test split."""
    rng = np.random.default_rng(seed)
    for folder, count in (("train", train), ("unlabeled", pool), ("test", test)):
        for k, name in enumerate(("ant", "bee")):
            where = root / folder / (name if folder != "unlabeled" else "")
            where.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                image = rng.integers(60, 160, (32, 32 + 8 * (i % 3), 3))
                image[:, :, 2 * k] += 60
                Image.fromarray(image.astype(np.uint8)).save(where / f"{name}{i}.png")
    return root


@dataclass
class Recorder(nn.Module):
    """A stand-in model that keeps the views it is shown and answers with zeros."""

    n_classes: int = 2
    seen: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach().clone())
        return torch.zeros(len(images), self.n_classes)

    def features(self, images: Tensor) -> Tensor:
        return self(images)

    def logits(self, features: Tensor) -> Tensor:
        return features

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.seen)
