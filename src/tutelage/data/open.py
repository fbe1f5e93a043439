"""Any DATA as a catalog: a path to images in any layout, or a data set in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeAlias

from tutelage.config import TableConfig, option
from tutelage.data import textfile
from tutelage.data.catalog import Catalog
from tutelage.data.columns import check_file
from tutelage.data.folder import PACKED, files_below, read_folder
from tutelage.data.formats.annotations import is_annotations, read_annotations
from tutelage.data.hf import is_saved, read_hub_folder
from tutelage.data.labelled import read_labelled
from tutelage.data.layout import is_image
from tutelage.data.manifest import read_parquet, read_text
from tutelage.data.memory import MapStyle, read_memory
from tutelage.data.tars import read_tars
from tutelage.system.errors import TutelageError
from tutelage.system.nearest import did_you_mean

Data: TypeAlias = Path | str | MapStyle | Mapping[str, MapStyle]

_TABLES: dict[str, Callable[[Path, TableConfig], Catalog]] = {
    **dict.fromkeys(textfile.SUFFIXES, read_text),
    ".parquet": read_parquet,
}
_MENDS = {
    **dict.fromkeys(PACKED, "packed; unpack it first, and give the folder"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet; save it as CSV UTF-8"),
}
_KNOWN = "a folder, a .csv, .tsv, .jsonl, .parquet, .tar, .json or .xml file"


def open_data(
    data: Data, split: str = "train", table: TableConfig | None = None
) -> tuple[Catalog, str]:
    """The catalog of any DATA, and its path or, for data in memory, words for what the images are.

    A single data set in memory is the split ``split``; ``table`` says how to read a table.

    Raises:
        TutelageError: what was found, what was expected, and what to do.
    """
    if isinstance(data, str | os.PathLike):
        return read_catalog(data, table), str(data)
    _check_no_table("memory", table or TableConfig())
    catalog = read_memory(data, split)
    return catalog, in_memory(catalog)


def read_catalog(data: Path | str, table: TableConfig | None = None) -> Catalog:
    """The catalog of a folder tree, a table, tars, another tool's file, or Hugging Face's folder.

    Raises:
        TutelageError: nothing there, no images, or data that contradicts itself.
        MissingExtra: Parquet or Arrow files without pyarrow installed.
    """
    path, asked = Path(data), table or TableConfig()
    if not path.exists():
        raise TutelageError(f"{path} does not exist; expected {_KNOWN}{did_you_mean(path)}")
    if not path.is_dir():
        check_file(path)
    if is_annotations(path):
        return read_annotations(path, asked)
    if path.is_dir():
        return _read_folder(path, asked)
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return _TABLES[suffix](path, asked)
    if suffix == ".tar":
        _check_no_table(path, asked)
        return read_tars(path)
    raise TutelageError(f"{path} is {_MENDS.get(suffix, f'none of these: {_KNOWN}')}")


def _read_folder(folder: Path, asked: TableConfig) -> Catalog:
    read, unused = _reader_of(folder), list[str]()
    if read is read_folder and (labelled := read_labelled(folder, asked, unused)):
        return labelled
    _check_no_table(folder, asked, unused)
    catalog = read(folder)
    if (catalog.labels >= 0).any():
        return catalog
    return replace(catalog, warnings=(*unused, *catalog.warnings))


def _check_no_table(data: object, asked: TableConfig, unused: Sequence[str] = ()) -> None:
    """Refuse to pass over what was asked of a table where none is read."""
    if given := [name for name, value in asdict(asked).items() if value is not None]:
        why = f": {'; '.join(unused)}" if unused else f"; take out {option(given[0])}"
        raise TutelageError(f"no table of images and labels in {data}{why}")


def _reader_of(folder: Path) -> Callable[[Path], Catalog]:
    """What reads a folder: images decide, then Parquet files, then tars."""
    if is_saved(folder):
        return read_hub_folder
    suffixes = set()
    for file in files_below(folder, []):
        if is_image(file):
            return read_folder
        suffixes.add(os.path.splitext(file)[1])
    if ".parquet" in suffixes:
        return read_hub_folder
    return read_tars if ".tar" in suffixes else read_folder


def in_memory(catalog: Catalog) -> str:
    """Words for a catalog that was made in memory; they change with images, labels and splits."""
    digest = hashlib.blake2b(catalog.labels.tobytes(), digest_size=8)
    texts = [*catalog.classes, *catalog.splits.tolist()]
    for text in (*texts, *map(catalog.source.signature, range(len(catalog)))):
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return f"{len(catalog)} images in memory, {digest.hexdigest()}"


def is_in_memory(words: str) -> bool:
    """Whether ``in_memory`` wrote this."""
    count, _, rest = words.partition(" ")
    return count.isdecimal() and rest.startswith("images in memory, ")
