"""What models say about images and data sets.

Imports no torch at the top: an exported model needs only the base install.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.data.decode import UnreadableImage, decode
from tutelage.data.open import Data, open_data
from tutelage.deploy.answers import (
    Prediction,
    answer,
    check_suffix,
    decide,
    each_image,
    read_threshold,
    threshold_text,
    write_predictions,
)
from tutelage.deploy.find import find_model, open_model
from tutelage.deploy.images import Images, OneImage, Picture, find_images, is_one
from tutelage.stats.metrics import metrics
from tutelage.system.errors import TutelageError, told


class Model:
    """An open model, which answers as often as it is asked; ``tutelage.load`` opens it.

    Attributes:
        path: what it was opened from.
        classes: (K,) the names of the classes, in the order of the probabilities.
    """

    def __init__(self, model: Path | str) -> None:
        found = find_model(model)
        self.path = found.given
        self._opened = open_model(found)
        self.classes: tuple[str, ...] = self._opened.classes

    def __repr__(self) -> str:
        return f"<tutelage.Model {self.path}: {len(self.classes)} classes>"

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, images: OneImage, *, reject: bool = ..., threshold: str | None = ...
    ) -> Prediction: ...
    @overload
    def predict(
        self, images: Iterable[OneImage], *, reject: bool = ..., threshold: str | None = ...
    ) -> list[Prediction]: ...
    def predict(
        self, images: Images, *, reject: bool = False, threshold: str | None = None
    ) -> Prediction | list[Prediction]:
        """Classify one image, or several at once, which is quicker than one after the other.

        Args:
            images: a path or an address, a PIL image or an array of uint8, (H, W, 3) or (H, W); or
                several of these, in a list or as one array (N, H, W, 3). In a list a path may also
                be a folder, a pattern or a manifest, as for ``tutelage.predict``.
            reject: call images that look like none of the classes "unknown".
            threshold: a decision threshold, as ``"defect=0.3"``; see ``tutelage.predict``.

        Returns:
            For one image its prediction, for several a list of them. Of several, those that cannot
            be read are left out, with a warning; ``tutelage.predict`` returns their reasons.

        Raises:
            TutelageError: no such image, a single one that cannot be read, or a model that cannot
                reject.
        """
        _check_reject(self._opened, self.path, reject=reject)
        pictures, alone = find_images(images), is_one(images)
        if alone and len(pictures) != 1:
            raise TutelageError(
                f"{images} stands for {len(pictures)} images; write predict([{images!r}])"
            )
        rows, skipped = _classified(self._opened, pictures, reject=reject, threshold=threshold)
        if skipped:
            name, reason = skipped[0]
            if alone:
                raise UnreadableImage(f"{name}: {reason}")
            warnings.warn(
                f"{len(skipped)} of {len(rows) + len(skipped)} images cannot be read and have no "
                f"answer (first: {name}: {reason})",
                stacklevel=2,
            )
        return rows[0] if alone else rows

    def evaluate(
        self, data: Data, *, split: Literal["train", "val", "test"] = "test"
    ) -> dict[str, Any]:
        """As ``tutelage.evaluate``, which has the arguments."""
        return evaluate(self._opened, *open_data(data, split=split), split=split)


def load(model: Path | str) -> Model:
    """Open a model, to use it many times.

    Args:
        model: a run folder, a model folder or an exported .onnx file. Only a model folder without
            an exported file needs torch.

    Raises:
        MissingExtra: a model folder without an exported file, and torch is not installed.
        TutelageError: no model there, or it is damaged.
    """
    return Model(model)


def predict(
    model: Path,
    images: Images,
    out: Path | None,
    *,
    reject: bool,
    threshold: str | None = None,
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Classify images; ``tutelage.api.predict`` has the arguments."""
    if out is not None:
        check_suffix(out)
    found = find_model(model)
    pictures = find_images(images)
    opened = open_model(found)
    _check_reject(opened, model, reject=reject)
    rows, skipped = _classified(opened, pictures, reject=reject, threshold=threshold)
    if out is not None and rows:
        write_predictions(rows, out)
    return rows, skipped


def _check_reject(opened: Any, model: Path, *, reject: bool) -> None:
    if reject and opened.unknown_threshold is None:
        raise TutelageError(
            f"{model} has no threshold for unknown images: no label was held out while its teacher "
            "was made, or it is older than such thresholds; train it again, with 2 or more labels "
            "per class (and export it again), or leave out --reject"
        )


def _classified(
    opened: Any, pictures: Sequence[Picture], *, reject: bool, threshold: str | None
) -> tuple[list[Prediction], list[tuple[str, str]]]:
    """Predictions in order, and (name, reason) of the images that cannot be read."""
    least = None if threshold is None else read_threshold(threshold, opened.classes)

    def look(picture: Picture) -> Prediction:
        named, pixels = [picture.name], [picture.pixels()]
        return answer(opened, named, pixels, reject=reject, threshold=least)[0]

    rows: list[Prediction] = []
    skipped: list[tuple[str, str]] = []
    for picture, found in zip(pictures, each_image(look, pictures), strict=True):
        if isinstance(found, Prediction):
            rows.append(found)
        else:
            skipped.append((picture.name, told(found)))
    return rows, skipped


def evaluate(opened: Any, catalog: Catalog, data: str, *, split: str) -> dict[str, Any]:
    """The figures of an opened model on one split; ``tutelage.api.evaluate`` describes them."""
    notes = [*catalog.warnings]
    if split == "test" and not catalog.has_splits and (catalog.labels >= 0).any():
        split, catalog = "labelled", replace(catalog, splits=np.full(len(catalog), "labelled"))
        notes.append(
            f"{data} says no split, so all of its labelled images are judged; if the model learned "
            "from some of them, the figures say nothing about new ones"
        )
    rows = _labeled_rows(catalog, data, split, opened.classes)

    def look(row: int) -> Any:
        return opened.probabilities([decode(catalog.source.read(row))])[0]

    index = {name: k for k, name in enumerate(opened.classes)}
    probs: list[np.ndarray] = []
    labels: list[int] = []
    reasons: dict[str, str] = {}
    for at, seen in zip(rows, each_image(look, rows.tolist()), strict=True):
        if isinstance(seen, np.ndarray):
            probs.append(seen)
            labels.append(index[catalog.classes[catalog.labels[at]]])
        else:
            reasons[catalog.names[at]] = told(seen)
    if not probs:
        raise TutelageError(f"none of the {len(rows)} '{split}' images of {data} can be read")
    stacked = np.stack(probs)
    predicted = decide(stacked, opened.classes, opened.decision_threshold)
    figures = metrics(stacked, np.array(labels), predicted)
    kept = opened.decision_threshold
    threshold = None if kept is None else threshold_text(kept)
    counts = {"skipped": len(reasons), "reasons": reasons, "notes": notes}
    return {"split": split, "threshold": threshold, **figures, **counts}


def _labeled_rows(catalog: Catalog, data: str, split: str, classes: Sequence[str]) -> np.ndarray:
    """Rows (n,) of a split's labelled images, whose classes must all be among the model's."""
    rows = np.flatnonzero((catalog.splits == split) & (catalog.labels >= 0))
    if not len(rows):
        labelled = sorted({*catalog.splits[catalog.labels >= 0].tolist()})
        if not labelled:
            raise TutelageError(
                f"{data} has no labelled {split} images, nor any other labelled image"
            )
        mend = f"; if the model did not learn from them, add --split {labelled[0]}"
        raise TutelageError(
            f"{data} has no labelled {split} images; it has labelled images of "
            f"{', '.join(labelled)}{mend * (split == 'test')}"
        )
    unknown = {catalog.classes[k] for k in catalog.labels[rows]} - set(classes)
    if unknown:
        raise TutelageError(
            f"the model does not know the classes {', '.join(sorted(unknown))}; "
            f"it knows {', '.join(classes)}"
        )
    return rows
