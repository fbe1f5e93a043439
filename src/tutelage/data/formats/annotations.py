"""Annotation files of other tools as catalogs: which tool wrote a file shows in its content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tutelage.config import TableConfig
from tutelage.data import textfile
from tutelage.data.catalog import Catalog, split_of
from tutelage.data.formats import coco, cvat, fiftyone, label_studio, roboflow
from tutelage.data.formats.listing import Listing, all_of, catalog_of
from tutelage.data.layout import images_root
from tutelage.system.errors import TutelageError

ONE_HOT, FIFTYONE = "_classes.csv", "labels.json"
IN_FOLDERS = (ONE_HOT, "_annotations.coco.json", FIFTYONE)
"""Files that describe the images beside them, in a folder or in one for each split."""
CVAT = "annotations.xml"
_SUFFIXES = (".json", ".xml")


def is_annotations(path: Path) -> bool:
    """Whether a file is one of annotations, or a folder is one that a tool exported."""
    if path.is_dir():
        return (path / CVAT).is_file() or any(_parts(path))
    if path.suffix.lower() in _SUFFIXES or path.name == ONE_HOT:
        return True
    return path.suffix.lower() == ".csv" and label_studio.is_table(_columns(path))


def read_annotations(path: Path, table: TableConfig) -> Catalog:
    """The catalog of an annotation file, or of a folder that holds some.

    Images are looked for in ``--image-root``, or else beside the file; with ``--image-root`` those
    that are not listed are unlabelled.

    Raises:
        TutelageError: nobody's file, a file about another task, or images that are not there.
    """
    home = path if path.is_dir() else path.parent
    root = images_root(table.image_root or None, home)
    listing = _of_folder(path, table) if path.is_dir() else _of_file(path, table)
    return catalog_of(str(path), listing, root, pool=bool(table.image_root))


def _of_folder(path: Path, table: TableConfig) -> Listing:
    if (path / CVAT).is_file():
        return cvat.read_xml(path / CVAT)
    return all_of(
        [
            _of_file(file, table) if folder is None else _of_file(file, table).below(folder, split)
            for file, folder, split in _parts(path)
        ]
    )


def _parts(path: Path) -> Iterator[tuple[Path, str | None, str]]:
    """Each annotation file of a folder, the folder of its split in there, if any, and the split."""
    for name in IN_FOLDERS:
        if _describes(path, name):
            yield path / name, None, ""
            return
        splits = [
            (folder / name, folder.name, folder.name)
            for folder in sorted(path.iterdir())
            if split_of(folder.name) and _describes(folder, name)
        ]
        if splits:
            yield from splits
            return


def _describes(folder: Path, name: str) -> bool:
    """Whether a file of this name is there, and so are its images; labels.json may be anything."""
    there = (folder / name).is_file()
    return there and (name != FIFTYONE or (folder / "data").is_dir())


def _of_file(path: Path, table: TableConfig) -> Listing:
    if path.suffix.lower() == ".xml":
        return cvat.read_xml(path)
    if path.suffix.lower() == ".json":
        return _of_json(path, table)
    rows = _rows(path)
    if path.name == ONE_HOT:
        return roboflow.read_rows(path, rows)
    return label_studio.read_rows(path, rows, table)


def _columns(path: Path) -> list[str]:
    """The header of a CSV file."""
    with textfile.opened(path) as table:
        return table.names


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by their columns."""
    with textfile.opened(path) as table:
        columns = table.columns(table.names)
    return [dict(zip(table.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _of_json(path: Path, table: TableConfig) -> Listing:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise TutelageError(f"{path} is not readable JSON: {error}") from error
    if isinstance(content, list):
        return label_studio.read_json(path, content, table)
    if isinstance(content, dict):
        readers: list[tuple[Callable[[dict[str, Any]], bool], Callable[..., Listing]]] = [
            (coco.is_coco, coco.read_json),
            (fiftyone.is_fiftyone, fiftyone.read_json),
        ]
        for fits, read in readers:
            if fits(content):
                return read(path, content)
    keys = ", ".join([*content][:10]) if isinstance(content, dict) else type(content).__name__
    raise TutelageError(
        f"{path} holds {keys or 'nothing'}; expected an export of Label Studio (a list of tasks), "
        "COCO (images, annotations, categories) or FiftyOne (labels, classes)"
    )
