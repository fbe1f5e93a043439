"""Any DATA as a catalog: a path to images in any layout, or a data set in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from tutelage.config import TableConfig
from tutelage.data import folder, hf, labelled, tars
from tutelage.data.catalog import Catalog
from tutelage.data.columns import check_file
from tutelage.data.folder import PACKED
from tutelage.data.formats import cvat, in_folders, label_studio
from tutelage.data.listing import Given
from tutelage.data.manifest import is_parquet, is_text, read_parquet, read_text
from tutelage.data.memory import MapStyle, read_memory
from tutelage.data.tables import SUFFIXES
from tutelage.system.errors import TutelageError
from tutelage.system.words import did_you_mean

Data: TypeAlias = Path | str | MapStyle | Mapping[str, MapStyle]

READERS: tuple[tuple[Callable[[Given], bool], Callable[[Given], Catalog | None]], ...] = (
    (cvat.fits, cvat.read),
    (in_folders.is_one_hot, in_folders.read_one_hot),
    (in_folders.is_coco, in_folders.read_coco),
    (label_studio.fits, label_studio.read),
    (is_text, read_text),
    (is_parquet, read_parquet),
    (hf.fits, hf.read),
    (tars.fits, tars.read),
    (labelled.fits, labelled.read),
    (folder.fits, folder.read),
)
"""What reads DATA: the first whose ``fits`` says so, unless its ``read`` finds nothing of its own.

To add a layout, write a module with these two functions, each of a ``listing.Given``, and list it
here before those that would take its files as well. ``fits`` looks at names and headers, never at
images. ``read`` fills a ``listing.Listing`` and returns its catalog, or, where images are not files
of their own, calls ``catalog.make_catalog``; ``formats.annotations`` finds the images of another
tool's file. A case in tests/data/test_layouts.py shows what comes out.
"""

FILES = (*SUFFIXES, ".parquet", ".tar", ".json", ".xml")
"""The suffixes of the files that they read."""
_MENDS = {
    **dict.fromkeys(PACKED, "packed; unpack it first, and give the folder"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet; save it as CSV UTF-8"),
}
_KNOWN = f"a folder, a {', '.join(FILES[:-1])} or {FILES[-1]} file"


def open_data(
    data: Data, split: str = "train", table: TableConfig | None = None
) -> tuple[Catalog, str]:
    """The catalog of any DATA, and its path or, for data in memory, words for what the images are.

    A single data set in memory is the split ``split``; ``table`` says how to read a table.
    """
    if isinstance(data, str | os.PathLike):
        return read_catalog(data, table), str(data)
    Given(Path("memory"), table or TableConfig()).check_no_table()
    catalog = read_memory(data, split)
    return catalog, in_memory(catalog)


def read_catalog(data: Path | str, table: TableConfig | None = None) -> Catalog:
    """The catalog of a path; TutelageError says what was found, was expected, and can be done."""
    given = Given(Path(data), table or TableConfig())
    if not given.path.exists():
        raise TutelageError(
            f"{given.path} does not exist; expected {_KNOWN}{did_you_mean(given.path)}"
        )
    if not given.is_folder:
        check_file(given.path)
    for fits, read in READERS:
        if fits(given) and (catalog := read(given)) is not None:
            labelled = (catalog.labels >= 0).any()
            said = catalog.warnings if labelled else (*given.unused, *catalog.warnings)
            return replace(catalog, warnings=said)
    if given.suffix == ".json":
        keys = ", ".join([*given.json][:10] if given.keys else [type(given.json).__name__])
        raise TutelageError(
            f"{given.path} holds {'nothing' if given.json == {} else keys}; expected an export of "
            "Label Studio (a list of tasks) or COCO (images, annotations, categories)"
        )
    mend = _MENDS.get(given.suffix, f"none of these: {_KNOWN}")
    raise TutelageError(f"{given.path} is {mend}")


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
