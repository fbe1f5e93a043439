"""Data sets as Hugging Face writes them to a disk: ``save_to_disk`` folders and the hub's Parquet.

Read by pyarrow alone: the files are memory-mapped or streamed, and no image is decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.data.catalog import (
    Catalog,
    ParquetSource,
    Source,
    check_file,
    check_labels,
    class_names,
    features,
    files_below,
    image_files,
    label_text,
    make_catalog,
    open_parquet,
    stat_text,
    undamaged,
)
from tutelage.data.decode import read_file
from tutelage.system.errors import TutelageError, need

# What data sets call their splits -> split here; "" is train without its labels.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabeled", "unlabelled", "unsupervised"), ""),
}
_SHARD = re.compile(r"-\d+-of-\d+$")
_DICT, _STATE = "dataset_dict.json", "state.json"


@dataclass(frozen=True)
class Rows:
    """n images of one split.

    Attributes:
        names: n ids, unique in the split.
        labels: n class names, empty = unlabelled.
        source: reads image i.
    """

    names: Sequence[str]
    labels: Sequence[str]
    source: Source


@dataclass(frozen=True, eq=False)
class Parts:
    """Images of several sources: image i is number ``rows[i]`` of source ``which[i]``."""

    sources: tuple[Source, ...]
    which: NDArray[np.intp]
    rows: NDArray[np.intp]

    def read(self, index: int) -> bytes:
        """Return the bytes of one image."""
        return self.sources[int(self.which[index])].read(int(self.rows[index]))

    def signature(self, index: int) -> str:
        """Return what its source says of it."""
        return self.sources[int(self.which[index])].signature(int(self.rows[index]))

    def select(self, indices: NDArray[np.intp]) -> Parts:
        """Return the source of these images."""
        return Parts(self.sources, self.which[indices], self.rows[indices])


class Selectable:
    """A source of which some images are taken by their numbers."""

    def select(self: Any, indices: NDArray[np.intp]) -> Parts:
        """Return the source of these images."""
        return Parts((self,), np.zeros(len(indices), dtype=np.intp), indices)


class ArrowSource(Selectable):
    """Image bytes in a memory-mapped Arrow stream file: quick in any order."""

    def __init__(self, path: Path, column: str) -> None:
        """Map the file and look at one of its columns."""
        self.path = path
        self._column = _sound(open_arrow(path).column(column), path)

    def read(self, index: int) -> bytes:
        """Return the bytes of one image."""
        return bytes_of(self._column[index].as_py(), f"row {index} of {self.path}")

    def signature(self, index: int) -> str:
        """Return the file's state and the row."""
        return f"{stat_text(self.path)}#{index}"


def held_of(value: Any) -> Any:
    """What an undecoded image is: its bytes, else a path, else None."""
    if not isinstance(value, Mapping):
        return value
    return value.get("path") if value.get("bytes") is None else value["bytes"]


def bytes_of(value: Any, where: str) -> bytes:
    """The file's bytes of one undecoded image: bytes, a path, or Hugging Face's pair of both.

    Raises:
        OSError: neither is there, or the file cannot be read.
    """
    held = held_of(value)
    if held is None:
        raise OSError(f"{where} has neither image bytes nor a path")
    if isinstance(held, str):
        return read_file(held)
    if not isinstance(held, bytes | bytearray | memoryview):  # of a number, bytes() makes zeros
        raise OSError(f"{where} holds {type(held).__name__}, not image bytes")
    return bytes(held)


def is_hub_folder(path: Path) -> bool:
    """A folder written by ``save_to_disk``, or one of Parquet files and without image files."""
    if not path.is_dir():
        return False
    if any((path / name).is_file() for name in (_DICT, _STATE)):
        return True
    return any(_parquet_files(path)) and not image_files(path)


def read_hub_folder(path: Path) -> Catalog:
    """The catalog of a folder for which ``is_hub_folder`` holds.

    Names are ``<split>/<row>``, so the folder, the hub's files and the data set in memory are the
    same catalog.

    Raises:
        TutelageError: an unknown split, no image column, or a damaged file.
        MissingExtra: pyarrow is not installed.
    """
    parts: dict[str, list[Rows]] = {}
    for split, file in _files(path):
        parts.setdefault(split, []).append(_shard(file))
    return catalog_of_splits(str(path), {name: chain(shards) for name, shards in parts.items()})


def catalog_of_splits(where: str, splits: Mapping[str, Rows]) -> Catalog:
    """One catalog of data sets by the names of their splits; an image is ``<split>/<name>``.

    Args:
        where: what the data is called in an error.
        splits: keys of ``SPLIT_NAMES`` -> images.

    Raises:
        TutelageError: an unknown split, no images, or a name that is there twice.
    """
    if unknown := sorted(set(splits) - set(SPLIT_NAMES)):
        raise TutelageError(
            f"{where} has the split {', '.join(unknown)}; known are {', '.join(SPLIT_NAMES)}. "
            "Give the splits you mean in Python: tutelage.run({'train': ..., 'test': ...}, OUT)"
        )
    splits = {name: splits[name] for name in SPLIT_NAMES if name in splits}  # in one order
    names, labels, roles = [], [], []
    for split, rows in splits.items():
        role = SPLIT_NAMES[split]
        names += [f"{split}/{name}" for name in rows.names]
        labels += [label if role else "" for label in rows.labels]
        roles += [role or "train"] * len(rows.names)
    return make_catalog(where, names, labels, roles, chain(list(splits.values())).source)


def chain(parts: Sequence[Rows]) -> Rows:
    """Data sets one after another; several parts count their rows on."""
    sizes = [len(part.names) for part in parts]
    if len(parts) == 1:
        return parts[0]
    which = np.repeat(np.arange(len(parts)), sizes)
    rows = np.concatenate([np.arange(size) for size in (*sizes, 0)])
    return Rows(
        names=[str(number) for number in range(sum(sizes))],
        labels=[label for part in parts for label in part.labels],
        source=Parts(tuple(part.source for part in parts), which, rows),
    )


def image_column(kinds: Mapping[str, str], where: str) -> str:
    """The column that holds the images: the only one of the kind Image, or else "image".

    Args:
        kinds: column -> Hugging Face's name of its kind.
        where: what the data is called in an error.

    Raises:
        TutelageError: there is none, or several.
    """
    found = _column(kinds, "Image", "image", where)
    if found is None:
        raise TutelageError(
            f"{where} has no column of images; found: {', '.join(kinds) or 'none'}. Expected one "
            "of the kind Image, or one called image"
        )
    return found


def label_column(kinds: Mapping[str, str], where: str) -> str | None:
    """The column of the classes: the only one of the kind ClassLabel, else "label", else None.

    Raises:
        TutelageError: there are several.
    """
    return _column(kinds, "ClassLabel", "label", where)


def class_text(value: Any, names: Sequence[str] | None) -> str:
    """``label_text``, where -1 means unlabelled with and without class names."""
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


def _shard(file: Path) -> Rows:
    """One Arrow or Parquet file."""
    arrow = file.suffix == ".arrow"
    opened = open_arrow(file) if arrow else open_parquet(file)
    schema = opened.schema if arrow else opened.schema_arrow
    known = features(schema)
    kinds = {name: str(known.get(name, {}).get("_type", "")) for name in schema.names}
    images, label = image_column(kinds, str(file)), label_column(kinds, str(file))
    count = opened.num_rows if arrow else opened.metadata.num_rows
    labels = [""] * count
    if label is not None:
        check_labels(file, schema, label)
        names = class_names(known.get(label, {}))
        with undamaged(file):
            column = (opened if arrow else opened.read(columns=[label])).column(label)
            values = _sound(column, file).to_pylist()
        labels = [class_text(value, names) for value in values]
        count = len(labels)
    source = ArrowSource(file, images) if arrow else ParquetSource(file, np.arange(count), images)
    return Rows([str(row) for row in range(count)], labels, source)


def _sound(column: Any, path: Path) -> Any:
    """A column whose offsets lie inside its data: others would make pyarrow crash the process."""
    with undamaged(path):
        column.validate(full=True)
    return column


def open_arrow(path: Path) -> Any:
    """The memory-mapped table of an Arrow stream file.

    Raises:
        TutelageError: the file is missing or damaged.
        MissingExtra: pyarrow is not installed.
    """
    arrow, ipc = need("pyarrow", "train"), need("pyarrow.ipc", "train")
    with undamaged(path):
        check_file(path)
        return ipc.open_stream(arrow.memory_map(str(path))).read_all()


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


def _parts(path: Path, told_by: str, names: Any) -> list[Path]:
    """What a folder's JSON file says that the folder holds; nothing outside of it."""
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not known or any(name in ("", "..") or Path(name).name != name for name in names):
        raise TutelageError(
            f"{path / told_by} lists {str(names)[:80]}; expected names of what lies beside it; "
            "save the data set again"
        )
    return [path / name for name in names]


def _of_parquet(path: Path) -> Iterator[tuple[str, Path]]:
    """``<split>-00000-of-00002.parquet``, ``<split>/0000.parquet`` or ``<split>.parquet``."""
    homes = set()
    for file in _parquet_files(path):
        numbered = file.stem.isdecimal()
        homes.add(file.parent.parent if numbered else file.parent)
        yield file.parent.name if numbered else _SHARD.sub("", file.stem), file
    if len(homes) > 1:
        raise TutelageError(
            f"{path} holds Parquet files of several data sets or versions; give one of the folders "
            f"{', '.join(sorted(map(str, homes)))}"
        )


def _parquet_files(path: Path) -> list[Path]:
    return sorted(Path(f) for f in files_below(path, []) if f.endswith(".parquet"))


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise TutelageError(f"cannot read {path}: {error}; save the data set again") from error
    return content
