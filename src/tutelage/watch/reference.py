"""What undisturbed images look like to a model: numbers that travel in its folder."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.data.columns import open_parquet, undamaged
from tutelage.data.runfolder import catalog_of, has_data
from tutelage.deploy.find import REFERENCE, reference_beside
from tutelage.deploy.images import pictures_of
from tutelage.deploy.runtime import OnnxModel
from tutelage.stats.metrics import Ints
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_atomically
from tutelage.watch.look import ROW, Seen, is_sound, look, probe

MOST = 1000  # images of a reference; their numbers take about 200 kB
SAME_PROBABILITY = 0.02  # as the parity of an export
SAME_FEATURES = 0.02  # of the largest: what int8 changes is several times as much
SAME_PIXELS = 0.1  # grey levels, and of the sharpness; another decoder changes less


@dataclass(frozen=True)
class Reference:
    """N images as they were when the model was made."""

    seen: Seen
    rows: Ints  # (N,) which ones they are in the catalog that they are of
    labels: Ints  # (N,) their classes; -1 where there is none
    images: str  # what they are, in words that follow a number: "test images"
    # Whether the model learned from them: then it is surer of them than of new images, and nothing
    # follows from that.
    learned: bool
    classes: tuple[str, ...]  # (K,) of the model


def make_reference(
    model: OnnxModel, catalog: Catalog, rows: Ints, labels: Ints, images: str, *, learned: bool
) -> Reference:
    """A reference of at most ``MOST`` of the rows (N,), drawn at random, always the same.

    ``labels`` (N,), ``images`` and ``learned`` are as in ``Reference``.
    """
    drawn = np.sort(np.random.default_rng(0).permutation(len(rows))[:MOST])
    seen, readable, _ = look(model, pictures_of(catalog, rows[drawn]))
    kept = drawn[readable]
    return Reference(seen, rows[kept], labels[kept], images, learned, model.classes)


def save_reference(reference: Reference, model: OnnxModel, path: Path) -> None:
    """Write a reference of ``model``, which alone can be watched with it."""
    arrays = vars(reference).copy()
    arrays["probe_probabilities"], arrays["probe_features"] = probe(model)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(path, content.getvalue())


def load_reference(path: Path, model: OnnxModel) -> Reference:
    """The reference of a model."""
    if not path.is_file():
        raise TutelageError(
            f"there is no {path}, which says what undisturbed images look like; give such images "
            "with --reference DATA"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            reference = Reference(
                seen=arrays["seen"],
                rows=arrays["rows"],
                labels=arrays["labels"],
                images=str(arrays["images"]),
                learned=bool(arrays["learned"]),
                classes=tuple(map(str, arrays["classes"])),
            )
            known = arrays["probe_probabilities"], arrays["probe_features"]
        seen, shape = reference.seen, (len(reference.seen),)
        if seen.dtype != ROW or not reference.rows.shape == reference.labels.shape == shape:
            raise ValueError("its parts do not fit together")
        if not is_sound(seen, len(reference.classes)):
            raise ValueError("its numbers are those of no image")
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise TutelageError(
            f"{path} is damaged: {error}; give undisturbed images with --reference DATA, or make "
            "the model again"
        ) from error
    if reference.classes != model.classes or not _same(known, probe(model)):
        raise TutelageError(
            f"{path} belongs to another model than {model.path}, such as one trained otherwise or, "
            "for an int8 file, the float model; give undisturbed images with --reference DATA"
        )
    return reference


def _same(known: tuple[np.ndarray, np.ndarray], found: tuple[np.ndarray, np.ndarray]) -> bool:
    if any(was.shape != now.shape for was, now in zip(known, found, strict=True)):
        return False
    (was, features), (now, others) = known, found
    near = np.abs(features - others).max() <= SAME_FEATURES * np.abs(features).max()
    return bool(near and np.abs(was - now).max() <= SAME_PROBABILITY)


def add_int8_reference(folder: Path, result: dict[str, Any]) -> None:
    """Write the reference of the int8 file that ``export`` made, and enter it in its ``result``.

    The float model's own does not serve: the features of the two differ, and 65% of the looks at
    200 undisturbed digits raised an alarm, where 5% may (docs/watch.md). So the images of that
    reference are read again, from the data of the run that the model's ``folder`` lies in. What
    prevents it is entered in its place: the int8 file is worth more.
    """
    made = result["int8"]
    made["reference"], made["without_reference"] = None, None
    try:
        model = OnnxModel(made["path"], threads=1)
        path = reference_beside(model.path)
        save_reference(_seen_again(folder, OnnxModel(result["path"]), model), model, path)
        made["reference"] = str(path)
    except TutelageError as error:
        made["without_reference"] = str(error)


def _seen_again(folder: Path, exact: OnnxModel, rounded: OnnxModel) -> Reference:
    """The reference of the model folder's ``exact`` file, as the ``rounded`` file sees it."""
    run = folder.parent
    if not (folder / REFERENCE).is_file():
        raise TutelageError(f"{folder} has no {REFERENCE}")
    known = load_reference(folder / REFERENCE, exact)
    if not has_data(run):
        raise TutelageError(f"{folder} lies in no run folder whose images can be read again")
    catalog = catalog_of(run)
    # The run had other rows where --decisions left images out, or some came or went since.
    with undamaged(run / "split.parquet"):
        names = open_parquet(run / "split.parquet").read(["image"])["image"].to_pylist()
    then, now = dict(enumerate(names)), {name: row for row, name in enumerate(catalog.names)}
    rows = np.array([now.get(then.get(int(row), ""), -1) for row in known.rows])
    if (rows >= 0).all():
        seen, _, skipped = look(rounded, pictures_of(catalog, rows))
        pixels = known.seen["pixels"]
        if not skipped and np.allclose(seen["pixels"], pixels, atol=SAME_PIXELS):
            return replace(known, seen=seen)
    raise TutelageError(f"the images of the run {run} have changed since it was made")
