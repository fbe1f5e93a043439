"""What ``tutelage watch`` will compare images with, kept in the delivered model's folder."""

from __future__ import annotations

import numpy as np

from tutelage.chain.types import Run
from tutelage.deploy.find import find_model, reference_file
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError
from tutelage.watch.reference import make_reference, save_reference

HELD_OUT = {"test": "test images", "val": "validation images"}
"""Role of images that the model did not learn from -> the words for a reference of them."""


def write_reference(run: Run) -> None:
    """Write the reference, after the last decision: nothing of the run reads it.

    It is made of test or validation images, whichever are more; without any, of the pool or, if
    there is none, of the labelled images. From these the model has learned, so they say less.
    """
    role, rows = _images(run)
    labels, words = np.full(len(rows), -1), "training images"
    if role in HELD_OUT:
        labels, words = run.split.truth[rows], HELD_OUT[role]
    found = find_model(run.folder.path)
    assert found.exported is not None
    model, learned = OnnxModel(found.exported, threads=1), role not in HELD_OUT
    try:
        made = make_reference(model, run.catalog, rows, labels, words, learned=learned)
    except TutelageError as error:  # the images may be gone by now, and the run is worth more
        run.note(f"tutelage watch will have nothing to compare images with: {error}")
        return
    save_reference(made, model, reference_file(found))


def _images(run: Run) -> tuple[str, np.ndarray]:
    """A role, and its rows (n,)."""
    rows = {role: run.split.indices(role) for role in (*HELD_OUT, "unlabeled", "labeled")}
    role = max(HELD_OUT, key=lambda name: len(rows[name]))
    if not len(rows[role]):
        role = "unlabeled" if len(rows["unlabeled"]) else "labeled"
    return role, rows[role]
