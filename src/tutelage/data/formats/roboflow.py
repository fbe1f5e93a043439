"""Roboflow's ``_classes.csv`` of classification: a column of 0 and 1 for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tutelage.data.formats.listing import Listed, Listing
from tutelage.system.errors import TutelageError

IMAGE = "filename"


def read_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> Listing:
    """The listing of a ``_classes.csv``, whose images lie beside it.

    Raises:
        TutelageError: it has no column ``filename``, or a cell is neither 0 nor 1.
    """
    if rows and IMAGE not in rows[0]:
        hint = ""
        if "Pixel Value" in rows[0]:
            hint = ": this is segmentation, and tutelage classifies whole images"
        raise TutelageError(
            f"{path} lacks the column {IMAGE}; found: {', '.join([*rows[0]][:20])}{hint}"
        )
    listing = Listing()
    for number, row in enumerate(rows, start=1):
        labels = frozenset(
            name
            for name, value in row.items()
            if name != IMAGE and _is_set(value, f"{path}: data row {number}, {name}")
        )
        if not row[IMAGE]:
            raise TutelageError(f"{path}: data row {number} has no {IMAGE}")
        listing.images.append(Listed(row[IMAGE], labels))
    return listing


def _is_set(value: str, where: str) -> bool:
    if value not in ("0", "1"):
        raise TutelageError(f"{where} is {value!r:.40}; expected 0 or 1")
    return value == "1"
