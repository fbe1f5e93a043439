"""Data sets in memory, of Hugging Face, torchvision or any other kind, as a catalog.

They are known by what they can do, so no library is imported. Nothing is copied: bytes and pixels
are fetched when an image is read.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from tutelage.data.catalog import Catalog
from tutelage.data.hf import SplitImages, catalog_of_splits, class_text, image_and_label
from tutelage.data.layout import is_image
from tutelage.data.sources import (
    FileSource,
    Parts,
    Source,
    content_digest,
    content_of,
    path_in,
    stat_text,
)
from tutelage.system.errors import TutelageError

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")  # TIFF holds the others
EXPECTED = (
    "expected a path, a data set of Hugging Face, one of torchvision (its items are pairs of "
    "image and label), or several of them by split: {'train': ..., 'test': ..., 'unlabeled': ...}"
)


class MapStyle(Protocol):
    """A data set in memory: of Hugging Face, of torchvision, or any of (image, label) pairs."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...


def read_memory(data: MapStyle | Mapping[str, MapStyle], split: str = "train") -> Catalog:
    """The catalog of a data set in memory, which is ``split``, or of several by their splits."""
    splits = data if isinstance(data, Mapping) else {split: data}
    if not splits:
        raise TutelageError(f"DATA is an empty {type(data).__name__}; {EXPECTED}")
    return catalog_of_splits(
        "the data set in memory", ((str(name), _rows(of)) for name, of in splits.items())
    )


def encoded(image: Image.Image) -> bytes:
    """The bytes of an image as a file, without loss."""
    content = io.BytesIO()
    if image.mode in PNG_MODES:
        image.save(content, format="PNG", compress_level=1)
    else:
        image.save(content, format="TIFF")
    return content.getvalue()


@dataclass(frozen=True)
class _Leaf:
    """A data set that is not made of others: how its images are named, labelled and read."""

    name: Callable[[int], str]
    label: Callable[[int], str]
    source: Source


def _rows(dataset: Any) -> SplitImages:
    """The images of a data set, also one made of others by Subset and ConcatDataset."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        streams = hasattr(dataset, "__iter__")
        mend = "load it without streaming=True" if streams else EXPECTED
        raise TutelageError(f"DATA is {_kind(dataset)}, which has no items by number; {mend}")
    places = [_resolve(dataset, index) for index in range(len(dataset))]
    whole = {id(leaf): leaf for leaf, _, _ in places}
    leaves = {key: _leaf(leaf) for key, leaf in whole.items()}
    numbers = {key: number for number, key in enumerate(leaves)}
    return SplitImages(
        names=[prefix + leaves[id(leaf)].name(index) for leaf, index, prefix in places],
        labels=[leaves[id(leaf)].label(index) for leaf, index, _ in places],
        source=Parts(
            tuple(leaf.source for leaf in leaves.values()),
            np.array([numbers[id(leaf)] for leaf, _, _ in places], dtype=np.intp),
            np.array([index for _, index, _ in places], dtype=np.intp),
        ),
    )


def _resolve(dataset: Any, index: int) -> tuple[Any, int, str]:
    """The data set that really holds an image, its number there, and the parts that lead to it."""
    prefix = ""
    while True:
        if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):  # torch's Subset
            index, dataset = int(dataset.indices[index]), dataset.dataset
        elif hasattr(dataset, "datasets") and hasattr(dataset, "cumulative_sizes"):
            part = bisect.bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[part - 1] if part else 0
            dataset, prefix = dataset.datasets[part], f"{prefix}{part}/"
        else:
            return dataset, index, prefix


def _leaf(dataset: Any) -> _Leaf:
    if hasattr(dataset, "features") and hasattr(dataset, "cast_column"):
        return _of_hub(dataset)
    names = _class_names(dataset)
    samples = getattr(dataset, "samples", None) or getattr(dataset, "imgs", None)
    if samples and not _transformed(dataset) and _are_files(samples):
        return _of_files(dataset, samples, names)
    return _of_items(dataset, names)


def _of_hub(dataset: Any) -> _Leaf:
    kinds = {name: type(kind).__name__ for name, kind in dataset.features.items()}
    images, label = image_and_label(kinds, "the data set in memory")
    plain = dataset.with_format(None)
    labels = [""] * len(dataset)
    if label is not None:
        names = getattr(dataset.features[label], "names", None)
        labels = [class_text(value, names) for value in plain.select_columns([label])[:][label]]
    pixels = plain.select_columns([images])
    if kinds[images] == "Image":
        pixels = pixels.cast_column(images, type(dataset.features[images])(decode=False))
    return _Leaf(str, labels.__getitem__, _HubSource(pixels, images))


@dataclass(frozen=True)
class _HubSource:
    dataset: Any
    column: str

    def read(self, index: int) -> bytes:
        return content_of(self.dataset[index][self.column], f"row {index}")

    def signature(self, index: int) -> str:
        path = path_in(self.dataset[index][self.column])
        return content_digest(self, index) if path is None else stat_text(path)


def _of_files(dataset: Any, samples: Sequence[tuple[Any, Any]], names: Sequence[str]) -> _Leaf:
    """ImageFolder and its like: the files themselves, named by their paths below the root."""
    paths = [os.fspath(path) for path, _ in samples]
    root = os.fspath(getattr(dataset, "root", ""))
    inside = bool(root) and all(path.startswith(root) for path in paths)
    called = [Path(p).relative_to(root).as_posix() if inside else Path(p).as_posix() for p in paths]
    return _Leaf(
        called.__getitem__,
        lambda index: _class_of(samples[index][1], names, f"item {index}"),
        FileSource(tuple(paths)),
    )


def _of_items(dataset: Any, names: Sequence[str]) -> _Leaf:
    """Pairs of (image, label), asked for one at a time."""
    source = ItemSource(dataset)
    with contextlib.suppress(OSError):
        _pixels(source.item(0)[0])  # refuse at once what cannot be an image

    def of_item(index: int) -> str:
        try:
            return _class_of(source.item(index)[1], names, f"item {index}")
        except OSError:
            return ""  # it is listed as unreadable when its pixels are read

    known = getattr(dataset, "targets", None)
    known = getattr(dataset, "labels", None) if known is None else known
    if known is None or len(known) != len(dataset) or _transformed(dataset):
        return _Leaf(str, of_item, source)  # every image is decoded once for its label
    labels = [_class_of(value, names, f"item {i}") for i, value in enumerate(known)]
    return _Leaf(str, labels.__getitem__ if labels[0] == of_item(0) else of_item, source)


@dataclass(frozen=True)
class ItemSource:
    """The images of a data set of pairs, encoded without loss."""

    dataset: Any
    # Data loaders use processes, so few data sets allow for threads.
    lock: Any = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process with a lock of its own there."""
        return ItemSource, (self.dataset,)

    def item(self, index: int) -> tuple[Any, Any]:
        """Give (image, label); OSError if the data set fails, TutelageError if it has no pairs."""
        with self.lock:
            try:
                item = self.dataset[index]
            except KeyError as error:
                raise TutelageError(f"DATA is {_kind(self.dataset)}; {EXPECTED}") from error
            except Exception as error:  # a data set may raise anything
                raise OSError(f"item {index} cannot be read: {error}") from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise TutelageError(
                f"item {index} of {_kind(self.dataset)} is {_kind(item)}; expected a pair of image "
                f"and label; as DATA, {EXPECTED}"
            )
        return item[0], item[1]

    def read(self, index: int) -> bytes:
        """Return the image as a file's bytes."""
        try:
            return encoded(_pixels(self.item(index)[0]))
        except TutelageError as error:
            raise OSError(f"item {index} cannot be read: {error}") from error

    def signature(self, index: int) -> str:
        """Return a hash of those bytes."""
        return content_digest(self, index)


def _pixels(image: Any) -> Image.Image:
    """A PIL image, an array (H, W[, 3]) or a tensor (C, H, W) of uint8 as a PIL image."""
    if isinstance(image, Image.Image):
        image.load()
        return image
    values = np.asarray(image)
    if hasattr(image, "detach") and values.ndim == 3:  # torch puts the channels first
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.dtype != np.uint8 or not (values.ndim == 2 or values.shape[2:] in ((3,), (4,))):
        raise TutelageError(
            f"the data set gives images of {values.dtype} {values.shape}; expected PIL images or "
            "uint8 of (H, W), (H, W, 3), or as a tensor (3, H, W). Make it without transform=: "
            "tutelage resizes, augments and normalises itself"
        )
    return Image.fromarray(np.ascontiguousarray(values))


def _class_names(dataset: Any) -> list[str]:
    """The class names of a torchvision data set; ImageNet's are tuples of synonyms."""
    classes = getattr(dataset, "classes", None) or ()
    names = [", ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in classes]
    if len(set(names)) < len(names):
        raise TutelageError(
            f"{_kind(dataset)} has a class name twice: {', '.join(names)}; make them unique in its "
            "attribute classes"
        )
    return names


def _class_of(label: Any, names: Sequence[str], where: str) -> str:
    value = label.item() if hasattr(label, "item") and np.ndim(label) == 0 else label
    if value is not None and not isinstance(value, int | str):
        raise TutelageError(
            f"the label of {where} is {_kind(value)}; expected a whole number, a class name, or "
            "None or -1 for none"
        )
    return class_text(value, None if isinstance(value, str) else names)


def _transformed(dataset: Any) -> bool:
    names = ("transform", "target_transform", "transforms")
    return any(getattr(dataset, name, None) is not None for name in names)


def _are_files(samples: Any) -> bool:
    return all(
        isinstance(sample, tuple | list)
        and len(sample) == 2
        and isinstance(sample[0], str | os.PathLike)
        and is_image(os.fspath(sample[0]))
        for sample in samples
    )


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
