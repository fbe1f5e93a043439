"""The demo's data: electroluminescence photos of solar cells, from the package elpv-dataset.

Buerhop-Lutz et al. 2018, "A Benchmark for Visual Identification of Defective Solar Cells in
Electroluminescence Imagery"; Deitsch et al. 2019. The images' licence is CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tutelage.data.catalog import Catalog, make_catalog
from tutelage.data.sources import FileSource
from tutelage.system.errors import MissingExtra

TEST_SHARE = 0.25
_GRADES = {1.0: "defective", 0.0: "functional"}  # others are uncertain: unlabelled
NOTES = (
    "The labels carry no module id, so cells of one solar module can be in train and in test: "
    "the figures are optimistic for a new plant.",
    "Images: ELPV dataset, licence CC BY-NC-SA 4.0 (non-commercial, share alike); the report's "
    "thumbnails are drawn from them and carry the same licence.",
)


def solar_cells() -> Catalog:
    """The catalog: cells of certain grade are labelled, a quarter of them test; the rest is not.

    Raises:
        MissingExtra: the package elpv-dataset is not installed.
    """
    spec = find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            "the demo needs the package 'elpv-dataset' (solar-cell photos, CC BY-NC-SA 4.0); "
            'install it with: pip install "tutelage[demo]"'
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    with (folder / "labels.csv").open() as file:
        rows = [row for row in csv.reader(file, delimiter=" ", skipinitialspace=True) if row]
    names = [row[0] for row in rows]
    labels = [_GRADES.get(float(row[1]), "") for row in rows]
    certain = [i for i, label in enumerate(labels) if label]
    # The test set is the same for every seed: only the labelled subset is drawn anew.
    test = np.random.default_rng(0).permutation(certain)[: round(TEST_SHARE * len(certain))]
    splits = np.full(len(rows), "train", dtype="<U5")
    splits[test] = "test"
    source = FileSource(tuple(str(folder / name) for name in names))
    return make_catalog("elpv-dataset", names, labels, splits.tolist(), source)
