"""A table of images, as CSV or Parquet, as a catalog.

It has the columns ``image`` (a path relative to the manifest; in Parquet also bytes or Hugging
Face's struct), ``label`` (empty = unlabelled) and optionally ``split`` (empty = train).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tutelage.data.catalog import Catalog, make_catalog
from tutelage.data.columns import Table, holds_bytes, label_text, undamaged, value_type
from tutelage.data.sources import FileSource, ParquetSource
from tutelage.system.errors import TutelageError, need


def read_csv(path: Path) -> Catalog:
    """The catalog of a ``.csv`` manifest; its columns are separated by commas, semicolons or tabs.

    Raises:
        TutelageError: it contradicts itself, or is not a readable CSV file.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=header.count)  # spreadsheets in many countries write ;
            rows = (row for row in csv.reader(file, delimiter=delimiter) if any(row))
            columns = [name.strip().lower() for name in next(rows, [])]
            _check_header(path, columns)
            places = {name: place for place, name in enumerate(columns)}  # the last of equal names
            wanted = [places.get(name, len(columns)) for name in ("image", "label", "split")]
            images, labels, splits = _csv_columns(path, rows, len(columns), wanted)
    except UnicodeDecodeError as error:
        raise TutelageError(f"{path} is not UTF-8 ({error}); save it as CSV UTF-8") from error
    except csv.Error as error:  # a cell of more than csv.field_size_limit
        raise TutelageError(
            f"{path} is not a readable CSV file: {error}; is a quote left open?"
        ) from error
    return _of_files(path, images, labels, splits)


def _csv_columns(
    path: Path, rows: Iterable[list[str]], width: int, wanted: Sequence[int]
) -> list[list[str]]:
    """The wanted columns; a short row's missing cells, and a place beyond ``width``, are empty."""
    columns: list[list[str]] = [[] for _ in wanted]
    for number, row in enumerate(rows, start=1):
        if len(row) > width:
            raise TutelageError(
                f"{path}: data row {number} has {len(row)} cells, the header {width}; "
                f"put quotes around a path that contains a comma: {row}"
            )
        for column, place in zip(columns, wanted, strict=True):
            column.append(row[place].strip() if place < len(row) else "")
    return columns


def read_parquet(path: Path) -> Catalog:
    """The catalog of a ``.parquet`` manifest.

    Images whose bytes it holds are named by its column ``file``, where that has a name for each
    and none twice, or else ``<manifest>#<row>``.

    Raises:
        TutelageError: it contradicts itself, or is damaged.
        MissingExtra: pyarrow is not installed.
    """
    table = Table(path)
    columns = table.schema.names
    _check_header(path, columns)
    values, classes = table.labels("label")
    images = _paths(table)
    labels = [label_text(value, classes) for value in values]
    splits = [""] * len(labels)
    if "split" in columns:
        splits = [str(split or "") for split in table.column("split").to_pylist()]
    if images is not None:
        return _of_files(path, images, labels, splits)
    names = []
    if "file" in columns:
        names = [str(name or "") for name in table.column("file").to_pylist()]
    if "" in names or len(set(names)) < len(labels):
        names = [f"{path.name}#{row}" for row in range(len(labels))]
    return make_catalog(str(path), names, labels, splits, ParquetSource(path))


def _paths(table: Table) -> list[Any] | None:
    """The image column's paths, or None when it holds the bytes."""
    types = need("pyarrow", "train").types
    kind = value_type(table.schema.field("image").type)
    if types.is_string(kind) or types.is_large_string(kind):
        return [value or "" for value in table.column("image").to_pylist()]
    if not holds_bytes(kind):
        raise TutelageError(
            f"{table.path}: column image holds {kind}; expected paths, bytes or struct<bytes, path>"
        )
    if types.is_struct(kind) and kind.get_field_index("path") >= 0:
        with undamaged(table.path):  # Hugging Face writes the struct for both kinds
            first = next(table.opened.iter_batches(1, columns=["image"]), None)
        if first is not None and (first.column(0)[0].as_py() or {}).get("bytes") is None:
            values = table.column("image.path").to_pylist()
            return [(value or {}).get("path") or "" for value in values]
    return None


def _of_files(path: Path, images: list[Any], labels: list[str], splits: list[str]) -> Catalog:
    if odd := [image for image in images if not isinstance(image, str)]:
        raise TutelageError(f"{path}: an image is {odd[0]!r:.80}; expected a path")
    if "" in images:
        raise TutelageError(f"{path}: data row {images.index('') + 1} has no image; fill it in")
    if nul := [row for row, image in enumerate(images, start=1) if "\0" in image]:
        raise TutelageError(
            f"{path}: the image of data row {nul[0]} holds a NUL byte; remove it, "
            "or save the manifest as UTF-8 if it is UTF-16"
        )
    names = [image.replace("\\", "/") for image in images]
    paths = tuple(str(path.parent / name) for name in names)
    if paths and not any(os.path.exists(p) for p in paths):
        raise TutelageError(
            f"{path}: none of the {len(paths)} images exists (first: {paths[0]}); "
            "paths are relative to the manifest"
        )
    return make_catalog(str(path), names, labels, splits, FileSource(paths))


def _check_header(path: Path, columns: Sequence[str]) -> None:
    if twice := [name for name in ("image", "label", "split") if columns.count(name) > 1]:
        raise TutelageError(f"{path} has the column {twice[0]} twice; keep one")
    if missing := [name for name in ("image", "label") if name not in columns]:
        raise TutelageError(
            f"{path} lacks the column {' and '.join(missing)}; found: {', '.join(columns[:20])}. "
            "Expected image, label (empty = unlabelled) and, if you like, split"
        )
