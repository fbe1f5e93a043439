"""What undisturbed images look like to a model: numbers that travel in its folder."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.deploy.images import pictures_of
from tutelage.deploy.runtime import OnnxModel
from tutelage.stats.metrics import Ints
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_atomically
from tutelage.watch.look import COMPONENTS, MEASURES, Seen, look, probe

MOST = 1000  # images of a reference; their numbers take about 200 kB
SAME_PROBABILITY = 0.02  # as the parity of an export
SAME_FEATURES = 0.02  # of the largest: what int8 changes is several times as much


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
    probabilities, features = probe(model)
    content = io.BytesIO()
    np.savez_compressed(
        content,
        **{field.name: getattr(reference.seen, field.name) for field in fields(Seen)},
        rows=reference.rows.astype(np.int64),
        labels=reference.labels.astype(np.int32),
        images=np.array(reference.images),
        learned=np.array(reference.learned),
        classes=np.array(reference.classes),
        probe_probabilities=probabilities,
        probe_features=features,
    )
    write_atomically(path, content.getvalue())


def load_reference(path: Path, model: OnnxModel) -> Reference:
    """The reference of a model."""
    if not path.is_file():
        raise TutelageError(
            f"there is no {path}, which says what undisturbed images look like: tutelage run "
            "writes it, and earlier versions did not; give such images with --reference DATA, or "
            "make the model again"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            reference = Reference(
                Seen(**{field.name: arrays[field.name] for field in fields(Seen)}),
                rows=arrays["rows"],
                labels=arrays["labels"],
                images=str(arrays["images"]),
                learned=bool(arrays["learned"]),
                classes=tuple(map(str, arrays["classes"])),
            )
            known = arrays["probe_probabilities"], arrays["probe_features"]
            _check(reference)
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


def _check(reference: Reference) -> None:
    n = len(reference.labels)
    if reference.rows.shape != (n,):
        raise ValueError(f"rows are {reference.rows.dtype} {reference.rows.shape}")
    shapes = {"features": (n, COMPONENTS), "pixels": (n, len(MEASURES))}
    for name, values in vars(reference.seen).items():
        if values.shape != shapes.get(name, (n,)) or not np.isfinite(values).all():
            raise ValueError(f"{name} are {values.dtype} {values.shape}")


def _same(known: tuple[np.ndarray, np.ndarray], found: tuple[np.ndarray, np.ndarray]) -> bool:
    if any(was.shape != now.shape for was, now in zip(known, found, strict=True)):
        return False
    (was, features), (now, others) = known, found
    near = np.abs(features - others).max() <= SAME_FEATURES * np.abs(features).max()
    return bool(near and np.abs(was - now).max() <= SAME_PROBABILITY)
