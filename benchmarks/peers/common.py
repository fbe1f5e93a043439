"""What every peer is given, and the loop's clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tutelage.data.store import ImageStore
from tutelage.models.classifier import Classifier

Transform = Callable[[Image.Image], Any]


@dataclass(frozen=True)
class Draw:
    """One draw of labels, as every peer sees it.

    Attributes:
        store: decoded pixels; peers read the rows below and no others.
        labeled: (n,) store rows.
        labels: (n,) their classes.
        pool: (M,) store rows without labels.
        base: pretrained trunk and an untrained head; peers copy it.
        size: side of the network's input in pixels.
        seconds: for training, data included.
        device: to train on.
        seed: of everything a peer draws.
        workers: processes that make views; 0 makes them in the training process.
    """

    store: ImageStore
    labeled: NDArray[np.intp]
    labels: NDArray[np.integer[Any]]
    pool: NDArray[np.intp]
    base: Classifier
    size: int
    seconds: float
    device: torch.device
    seed: int
    workers: int = 0


@dataclass(frozen=True)
class Trained:
    """What a peer has trained; the model's spec says on which view and at which size to use it."""

    model: Classifier
    steps: int
    seconds: float


class Clock:
    """How much of a time budget is spent; it starts when the clock is made."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        """``now`` tells the time in seconds."""
        self.seconds, self.now = seconds, now
        self.began = now()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.now() - self.began

    @property
    def progress(self) -> float:
        """Fraction of the budget, 0 to 1."""
        return min(1.0, self.spent / self.seconds)

    @property
    def over(self) -> bool:
        """The budget is spent."""
        return self.spent >= self.seconds


def cosine(progress: float, warmup: float = 0.05) -> float:
    """Linear warm-up, then half a cosine to 0, of the elapsed fraction of the budget.

    By time and not by step, so that the rate has come down when the time is up, however many
    steps the machine made of it.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def photo(store: ImageStore, row: int) -> Image.Image:
    """A stored image in its true shape; its short side is the store's canvas."""
    image, aspect = Image.fromarray(store.images[row]), float(store.aspect[row])
    if aspect == 1.0:
        return image
    long = round(store.canvas * max(aspect, 1 / aspect))
    size = (long, store.canvas) if aspect > 1 else (store.canvas, long)
    return image.resize(size, Image.Resampling.BICUBIC)


class Photos(Dataset[Any]):
    """Images, each with the number of its class, or -1."""

    def __init__(
        self,
        store: ImageStore,
        rows: NDArray[np.intp],
        labels: NDArray[np.integer[Any]],
        transform: Transform,
    ) -> None:
        """Item ``i`` is ``(transform(photo of rows[i]), labels[i])``."""
        self.store, self.rows, self.labels, self.transform = store, rows, labels, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.transform(photo(self.store, int(self.rows[index]))), int(self.labels[index])


def endless(n: int, seed: int) -> Iterator[int]:
    """Shuffled passes over ``range(n)``, one after the other."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(n).tolist()


def batches(photos: Photos, batch_size: int, draw: Draw, stream: int = 0) -> Iterator[Any]:
    """Endless full batches, also of fewer images than ``batch_size``."""
    loader = DataLoader(
        photos,
        batch_size=batch_size,
        sampler=endless(len(photos), draw.seed * 10 + stream),  # type: ignore[arg-type]
        num_workers=draw.workers,
        generator=torch.Generator().manual_seed(draw.seed * 10 + stream),
    )
    return iter(loader)
