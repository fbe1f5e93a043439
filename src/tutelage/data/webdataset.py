"""DATA as WebDataset tars: shards whose members share a key where they belong together.

``0001.jpg`` and ``0001.cls`` are an image and its class (github.com/webdataset/webdataset, "The
WebDataset Format"): a class's name or number as text, or under ``label`` or ``cls`` in a ``.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tutelage.data.catalog import Catalog, files_below, is_image, make_catalog, stat_text
from tutelage.data.hf import SPLIT_NAMES
from tutelage.data.tars import Member, index_tar, label_of, read_member, samples
from tutelage.system.errors import TutelageError


@dataclass(frozen=True, eq=False)
class TarSource:
    """Members of tars, each one seek and one read; any number of threads may read.

    Attributes:
        tars: the files.
        which: (N,) the tar of each image; below 0 an image that is refused, for reason -1 - it.
        offsets: (N,) of the image's first byte.
        sizes: (N,) its bytes.
        reasons: why images are refused.
    """

    tars: tuple[Path, ...]
    which: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    reasons: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """Return the bytes of one image."""
        tar = int(self.which[index])
        if tar < 0:
            raise OSError(self.reasons[-1 - tar])
        with open(self.tars[tar], "rb") as file:
            return read_member(file, self._member(index))

    def signature(self, index: int) -> str:
        """Return the tar's state and the place in it."""
        tar = int(self.which[index])
        if tar < 0:
            return self.reasons[-1 - tar]
        return f"{stat_text(self.tars[tar])}#{self.offsets[index]}+{self.sizes[index]}"

    def select(self, indices: NDArray[np.intp]) -> TarSource:
        """Return the source of these images."""
        parts = (self.which[indices], self.offsets[indices], self.sizes[indices])
        which, offsets, sizes = parts
        return replace(self, which=which, offsets=offsets, sizes=sizes)

    def _member(self, index: int) -> Member:
        return Member(f"image {index}", int(self.offsets[index]), int(self.sizes[index]))


@dataclass
class _Table:
    """The rows of a catalog while tars are read."""

    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    bad_labels: list[str] = field(default_factory=list)

    def add(self, name: str, label: str, split: str, place: tuple[int, int, int]) -> None:
        self.names.append(name)
        self.labels.append(label if split else "")
        self.splits.append(split or "train")
        self.places.append(place)

    def refuse(self, name: str, split: str, reason: str) -> None:
        self.reasons.append(reason)
        self.add(name, "", split, (-len(self.reasons), 0, 0))


def has_tars(path: Path) -> bool:
    """A tar, or a folder with some and without image files."""
    if path.is_file():
        return path.suffix.lower() == ".tar"
    found = False
    for file in files_below(path, []):
        if is_image(file):
            return False
        found = found or file.endswith(".tar")
    return found


def read_tars(path: Path) -> Catalog:
    """The catalog of a path for which ``has_tars`` holds; an image is ``<tar>/<member>``.

    A tar's split is a word of its path below the folder, as in ``train-0001.tar``,
    ``unlabeled/a.tar`` or ``imagenet-val-3.tar``; without one it is train, and images without a
    label member are unlabelled. What cannot be read, a refused member or a damaged tar, is in the
    catalog too, so that it is listed with its reason.

    Raises:
        TutelageError: no images, or a tar with the words of several splits.
    """
    files = [path] if path.is_file() else sorted(_tars(path))
    root = path.parent if path.is_file() else path
    table = _Table()
    for number, file in enumerate(files):
        name = file.relative_to(root).as_posix()
        _read(file, name, number, "train" if path.is_file() else _split(name), table)
    if all(place[0] < 0 for place in table.places):
        why = f": {table.names[0]}: {table.reasons[0]}" if table.reasons else ""
        raise TutelageError(
            f"no images in the {len(files)} tars of {path}{why}; expected members such as "
            "0001.jpg and, with its class, 0001.cls"
        )
    warnings = []
    if table.bad_labels:
        warnings.append(
            f"{len(table.bad_labels)} label members cannot be read (first: {table.bad_labels[0]}): "
            "their images are unlabelled"
        )
    which, offsets, sizes = zip(*table.places, strict=True)
    source = TarSource(
        tuple(files),
        np.array(which, dtype=np.int32),
        np.array(offsets, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        tuple(table.reasons),
    )
    return make_catalog(str(path), table.names, table.labels, table.splits, source, warnings)


def _read(file: Path, name: str, number: int, split: str, table: _Table) -> None:
    """Add the images of one tar."""
    try:
        with open(file, "rb") as opened:
            index = index_tar(opened, name)
            for sample in samples(index.members):
                image, label = sample.image, ""
                if sample.label is not None and split:
                    try:
                        label = label_of(sample.label, read_member(opened, sample.label))
                    except (TutelageError, OSError) as error:
                        table.bad_labels.append(f"{name}/{error}")
                place = (number, image.offset, image.size)
                table.add(f"{name}/{image.name}", "" if label == "-1" else label, split, place)
    except (TutelageError, OSError) as error:
        table.refuse(name, split, str(error))
        return
    for count, (member, reason) in enumerate(index.refused, start=1):
        # Numbered, because a refused name may be there again, or be that of a good member.
        table.refuse(f"{name}#{count}: {member}", split, reason)


def _split(name: str) -> str:
    """The split whose word is in a tar's path; "train" without one, "" for a pool."""
    words = set(re.split(r"[^a-z]+", name.lower())) & SPLIT_NAMES.keys()
    found = {SPLIT_NAMES[word] for word in words} or {"train"}
    if found == {"train", ""}:  # train/unlabeled/0.tar
        return ""
    if len(found) > 1:
        raise TutelageError(
            f"{name} has the words of several splits: {', '.join(sorted(words))}; rename it so "
            "that there is one, as in train-0001.tar"
        )
    return found.pop()


def _tars(folder: Path) -> Iterator[Path]:
    return (Path(file) for file in files_below(folder, []) if file.endswith(".tar"))
