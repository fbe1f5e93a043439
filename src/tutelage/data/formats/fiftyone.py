"""FiftyOne's FiftyOneImageClassificationDataset: ``labels.json`` beside a folder ``data``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.data.formats.listing import Listed, Listing, expect
from tutelage.system.errors import TutelageError


def is_fiftyone(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is FiftyOne's."""
    return isinstance(content.get("labels"), dict)


def read_json(path: Path, content: Mapping[str, Any]) -> Listing:
    """The listing of a ``labels.json``; images are named by their paths in ``data``, no suffix.

    Raises:
        TutelageError: a wrong shape, a number beyond the classes, or boxes: that is detection.
    """
    classes = content.get("classes")
    names = None
    if classes is not None:
        names = [
            expect(name, str, f"{path}: classes[{place}]")
            for place, name in enumerate(expect(classes, list, f"{path}: classes"))
        ]
    return Listing(
        [
            Listed(f"data/{image}", _labels(target, names, f"{path}: the label of {image}"))
            for image, target in content["labels"].items()
        ]
    )


def _labels(target: Any, names: Sequence[str] | None, where: str) -> frozenset[str]:
    """The labels in one target: a number, a text, an object around either, or a list of these."""
    if target is None:
        return frozenset()
    if isinstance(target, list):
        return frozenset[str]().union(*(_labels(part, names, where) for part in target))
    if isinstance(target, dict):
        if "bounding_box" in target:
            raise TutelageError(
                f"{where} has a bounding_box: this is detection, and tutelage classifies whole "
                "images; export a field of Classification labels"
            )
        return _labels(target.get("label"), names, where)
    if isinstance(target, int) and names is not None:
        if not 0 <= target < len(names):
            raise TutelageError(f"{where} is {target}; expected 0 to {len(names) - 1}")
        return frozenset([names[target]])
    return frozenset([expect(target, str, where)])
