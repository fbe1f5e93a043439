"""Data sets as Hugging Face writes them, read by pyarrow alone: no image is decoded."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.catalog import SPLIT_NAMES, Catalog, make_catalog, split_of
from tutelage.data.columns import Table, label_text
from tutelage.data.layout import files_below
from tutelage.data.listing import Given
from tutelage.data.sources import ArrowSource, ParquetSource, Parts, Source
from tutelage.system.errors import TutelageError

_SHARD = re.compile(r"-\d+-of-\d+$")
_DICT, _STATE = "dataset_dict.json", "state.json"


@dataclass(frozen=True)
class SplitImages:
    """The images of one split."""

    names: Sequence[str]  # unique in the split
    labels: Sequence[str]  # class names, empty = unlabelled
    source: Source


def fits(given: Given) -> bool:
    """Whether ``save_to_disk`` wrote this folder, or it holds Parquet files and no image."""
    saved = any((given.path / name).is_file() for name in (_DICT, _STATE))
    return saved or ".parquet" in given.kinds


def read(given: Given) -> Catalog:
    """The catalog of a folder; the data set in memory gives the same one."""
    given.check_no_table()
    parts: list[tuple[str, SplitImages]] = []
    counts: Counter[str] = Counter()
    for split, file in _files(given.path):
        parts.append((split, _shard(file, counts[split])))
        counts[split] += len(parts[-1][1].names)
    return catalog_of_splits(str(given.path), parts)


def catalog_of_splits(where: str, parts: Iterable[tuple[str, SplitImages]]) -> Catalog:
    """One catalog of several data sets, each of a split; an image is ``<split>/<name>``."""
    known = [*SPLIT_NAMES]  # their order, whatever order they come in
    parts = [*parts]
    if unknown := sorted({split for split, _ in parts if split_of(split) is None}):
        raise TutelageError(
            f"{where} has the split {', '.join(unknown)}; known: {', '.join(known)}. "
            "Give the splits you mean in Python: tutelage.run({'train': ..., 'test': ...}, OUT)"
        )
    parts.sort(key=lambda part: known.index(part[0].strip().lower()))
    sizes = [len(of.names) for _, of in parts]
    source = Parts(
        sources=tuple(of.source for _, of in parts),
        which=np.repeat(np.arange(len(parts)), sizes),
        rows=np.concatenate([np.arange(size) for size in (*sizes, 0)]),
    )
    names = [f"{split}/{name}" for split, of in parts for name in of.names]
    labels = [label for _, of in parts for label in of.labels]
    roles = [split for split, of in parts for _ in of.names]
    return make_catalog(where, names, labels, roles, source)


def image_and_label(kinds: Mapping[str, str], where: str) -> tuple[str, str | None]:
    """The columns of images and of classes, if there are any of these.

    They are "image" and "label", or else the only ones of the kinds Image and ClassLabel;
    ``kinds`` maps the columns to Hugging Face's names of their kinds.
    """
    images = _column(kinds, "Image", "image", where)
    if images is None:
        raise TutelageError(
            f"{where} has no column of images; found: {', '.join(kinds) or 'none'}. Expected one "
            "of the kind Image, or one called image"
        )
    return images, _column(kinds, "ClassLabel", "label", where)


def class_text(value: Any, names: Sequence[str] | None) -> str:
    """A label as ``label_text`` gives it; -1 is none, with or without class names."""
    return "" if value == -1 else label_text(value, names)


def _column(kinds: Mapping[str, str], kind: str, usual: str, where: str) -> str | None:
    found = [name for name, of in kinds.items() if of == kind]
    if usual in found or (not found and usual in kinds):
        return usual
    if len(found) > 1:
        raise TutelageError(
            f"{where} has several columns of the kind {kind}: {', '.join(found)}; "
            f"call the one you mean {usual}: dataset.rename_column(..., {usual!r})"
        )
    return found[0] if found else None


def _shard(file: Path, before: int) -> SplitImages:
    """The images of a file, numbered from ``before``."""
    table = Table(file)
    kinds = {
        name: str(table.features.get(name, {}).get("_type", "")) for name in table.schema.names
    }
    images, label = image_and_label(kinds, str(file))
    labels = [""] * table.count
    if label is not None:
        values, names = table.labels(label)
        labels = [class_text(value, names) for value in values]
    source = ArrowSource(file, images) if file.suffix == ".arrow" else ParquetSource(file, images)
    return SplitImages([str(before + row) for row in range(len(labels))], labels, source)


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """(split, file) of a folder, in the order of the rows."""
    if (path / _DICT).is_file():
        for split in _parts(path, _DICT, _json(path / _DICT).get("splits")):
            yield from ((split.name, file) for _, file in _files(split))
    elif (path / _STATE).is_file():
        files = _json(path / _STATE).get("_data_files")
        if isinstance(files, list):
            files = [f.get("filename") if isinstance(f, dict) else f for f in files]
        yield from (("train", file) for file in _parts(path, _STATE, files))
    else:
        yield from _of_parquet(path)


def _parts(path: Path, listing: str, names: Any) -> list[Path]:
    """The paths that a folder's JSON file lists; none may lie outside of the folder."""
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not known or any(name in ("", "..") or Path(name).name != name for name in names):
        raise TutelageError(
            f"{path / listing} lists {str(names)[:80]}; expected names of what lies beside it; "
            "save the data set again"
        )
    return [path / name for name in names]


def _of_parquet(path: Path) -> Iterator[tuple[str, Path]]:
    """``<split>-00000-of-00002.parquet``, ``<split>/0000.parquet`` or ``<split>.parquet``."""
    homes = set()
    for file in sorted(Path(f) for f in files_below(path, []) if f.endswith(".parquet")):
        numbered = file.stem.isdecimal()
        homes.add(file.parent.parent if numbered else file.parent)
        yield file.parent.name if numbered else _SHARD.sub("", file.stem), file
    if len(homes) > 1:
        raise TutelageError(
            f"{path} holds Parquet files of several data sets or versions; give one of the folders "
            f"{', '.join(sorted(map(str, homes)))}"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise TutelageError(f"cannot read {path}: {error}; save the data set again") from error
    return content
