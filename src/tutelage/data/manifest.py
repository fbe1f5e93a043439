"""A table of images, as CSV, JSON lines or Parquet.

It has a column of images (paths; in Parquet also bytes or Hugging Face's struct), one of labels
(empty = unlabelled) and, if a person likes, one of splits (empty = train). ``tables`` says what
these may be called, and ``listing`` where the images may lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.config import TableConfig
from tutelage.data.catalog import Catalog, make_catalog
from tutelage.data.columns import Table, holds_bytes, label_text, undamaged, value_type
from tutelage.data.listing import Given, Listing, find_images
from tutelage.data.sources import ParquetSource
from tutelage.data.tables import SUFFIXES, check_labels, find_columns, opened, splits_in
from tutelage.system.errors import TutelageError, need


def is_text(given: Given) -> bool:
    """Whether this is a table that is text."""
    return given.suffix in SUFFIXES


def read_text(given: Given) -> Catalog:
    """The catalog of a .csv, .tsv or .jsonl file; TutelageError where it contradicts itself."""
    listing = text_rows(given.path, given.asked)
    find_images(listing, given.path, given.asked.image_root)
    return listing.catalog(given.path)


def text_rows(path: Path, asked: TableConfig) -> Listing:
    """What a .csv, .tsv or .jsonl file says, with images as it calls them; none is looked for."""
    with opened(path) as table:
        found = find_columns(str(path), table.names, asked)
        known = [name for name in (found.image, found.label, *found.splits) if name is not None]
        columns = dict(zip(known, table.columns(known), strict=True))
        images = columns[found.image]
        labels = columns[found.label] if found.label is not None else [""] * len(images)
        said = [*table.warnings, *found.warnings]
    check_labels(str(path), found.label, labels)
    _check_images(path, images)
    splits = splits_in(str(path), {name: columns[name] for name in found.splits})
    return Listing(images, [], labels, splits, said)


def is_parquet(given: Given) -> bool:
    """Whether this is a table in one Parquet file."""
    return given.suffix == ".parquet"


def read_parquet(given: Given) -> Catalog:
    """The catalog of a ``.parquet`` manifest; TutelageError where it contradicts itself.

    Images whose bytes it holds are named by its column ``file``, where that has a name for each
    and none twice, or else ``<manifest>#<row>``.
    """
    path = given.path
    table = Table(path)
    columns = table.schema.names
    found = find_columns(str(path), columns, given.asked)
    labels = [""] * table.count
    if found.label is not None:
        values, classes = table.labels(found.label)
        labels = [label_text(value, classes) for value in values]
    images = _paths(table, found.image)
    check_labels(str(path), found.label, labels)
    said = [*found.warnings]
    texts = {
        name: [str(split or "") for split in table.column(name).to_pylist()]
        for name in found.splits
    }
    splits = splits_in(str(path), texts)
    if images is not None:
        _check_images(path, images)
        listing = Listing(images, [], labels, splits, said)
        find_images(listing, path, given.asked.image_root)
        return listing.catalog(path)
    names = []
    if "file" in columns:
        names = [str(name or "") for name in table.column("file").to_pylist()]
    if "" in names or len(set(names)) < len(labels):
        names = [f"{path.name}#{row}" for row in range(len(labels))]
    source = ParquetSource(path, found.image)
    return make_catalog(str(path), names, labels, splits or [""] * len(names), source, said)


def _paths(table: Table, column: str) -> list[Any] | None:
    """The image column's paths, or None when it holds the bytes."""
    types = need("pyarrow", "train").types
    kind = value_type(table.schema.field(column).type)
    if types.is_string(kind) or types.is_large_string(kind):
        return [value or "" for value in table.column(column).to_pylist()]
    if not holds_bytes(kind):
        raise TutelageError(
            f"{table.path}: column {column} holds {kind}; expected paths, bytes or "
            "struct<bytes, path>"
        )
    if types.is_struct(kind) and kind.get_field_index("path") >= 0:
        with undamaged(table.path):  # Hugging Face writes the struct for both kinds
            first = next(table.opened.iter_batches(1, columns=[column]), None)
        if first is not None and (first.column(0)[0].as_py() or {}).get("bytes") is None:
            values = table.column(f"{column}.path").to_pylist()
            return [(value or {}).get("path") or "" for value in values]
    return None


def _check_images(path: Path, images: Sequence[Any]) -> None:
    if odd := [image for image in images if not isinstance(image, str)]:
        raise TutelageError(f"{path}: an image is {odd[0]!r:.80}; expected a path")
    if "" in images:
        raise TutelageError(f"{path}: data row {images.index('') + 1} has no image; fill it in")
    if nul := [row for row, image in enumerate(images, start=1) if "\0" in image]:
        raise TutelageError(
            f"{path}: the image of data row {nul[0]} holds a NUL byte; remove it, "
            "or save the manifest as UTF-8 if it is UTF-16"
        )
