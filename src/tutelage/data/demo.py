"""The demo's data sets, which pip installed: handwritten digits, and photos of solar cells."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tutelage.data.catalog import Catalog, make_catalog
from tutelage.data.memory import encoded
from tutelage.data.sources import FileSource
from tutelage.system.errors import need
from tutelage.system.files import digest

DIGITS_TEST = 500
TEST_SHARE = 0.25
_GRADES = {1.0: "defective", 0.0: "functional"}  # others are uncertain: unlabelled


@dataclass(frozen=True)
class ByteSource:
    """Image files in memory."""

    files: tuple[bytes, ...]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return self.files[index]

    def signature(self, index: int) -> str:
        """Return a digest of the bytes."""
        return digest(self.files[index])


def digits() -> Catalog:
    """1,797 handwritten digits of 8 x 8 pixels; 500 of them, drawn class by class, are test.

    Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", as scikit-learn ships
    them. Their 17 grey levels are stretched to 0 to 255.
    """
    need("sklearn", "demo")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    rows = np.arange(len(found.target))
    # The test set is the same for every seed: only the labelled subset is drawn anew.
    _, test = train_test_split(rows, test_size=DIGITS_TEST, stratify=found.target, random_state=0)
    splits = np.full(len(rows), "train", dtype="<U5")
    splits[test] = "test"
    images = np.round(found.images * (255 / 16)).astype(np.uint8)
    source = ByteSource(tuple(encoded(Image.fromarray(pixels)) for pixels in images))
    names = [f"{row:04d}.png" for row in rows]
    labels = [str(label) for label in found.target]
    return make_catalog("digits", names, labels, splits.tolist(), source)


def solar_cells() -> Catalog:
    """2,624 electroluminescence photos; those of uncertain grade have no label, a quarter is test.

    Buerhop-Lutz et al. 2018, "A Benchmark for Visual Identification of Defective Solar Cells in
    Electroluminescence Imagery"; Deitsch et al. 2019. The images' licence is CC BY-NC-SA 4.0.
    """
    folder = Path(str(need("elpv_dataset", "demo").__file__)).parent / "data"
    with (folder / "labels.csv").open() as file:
        rows = [row for row in csv.reader(file, delimiter=" ", skipinitialspace=True) if row]
    names = [row[0] for row in rows]
    labels = [_GRADES.get(float(row[1]), "") for row in rows]
    certain = [i for i, label in enumerate(labels) if label]
    # The test set is the same for every seed, as that of the digits.
    test = np.random.default_rng(0).permutation(certain)[: round(TEST_SHARE * len(certain))]
    splits = np.full(len(rows), "train", dtype="<U5")
    splits[test] = "test"
    source = FileSource(tuple(str(folder / name) for name in names))
    return make_catalog("elpv-dataset", names, labels, splits.tolist(), source)


@dataclass(frozen=True)
class Demo:
    """A data set that ``tutelage demo`` can show."""

    catalog: Callable[[], Catalog]
    labels_per_class: int
    notes: tuple[str, ...]  # what the user must know of the images


DEMOS = {
    "digits": Demo(
        digits,
        labels_per_class=10,
        notes=(
            "Images: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
            "licence CC BY 4.0.",
        ),
    ),
    "solar-cells": Demo(
        solar_cells,
        labels_per_class=20,
        notes=(
            "The labels carry no module id, so cells of one solar module can be in train and in "
            "test: the figures are optimistic for a new plant.",
            "Images: ELPV dataset, licence CC BY-NC-SA 4.0 (non-commercial, share alike); the "
            "report's thumbnails are drawn from them and carry the same licence.",
        ),
    ),
}
"""The demo's data sets by their names; the first is shown where none is named."""
