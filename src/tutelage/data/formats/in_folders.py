"""Files that lie beside their images or their splits': COCO's JSON and Roboflow's table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from tutelage.data.catalog import Catalog
from tutelage.data.formats.annotations import (
    Annotated,
    Annotations,
    expect,
    files_called,
    read_files,
)
from tutelage.data.listing import Given
from tutelage.data.tables import records
from tutelage.system.errors import TutelageError
from tutelage.system.words import are, counted

_COCO, _ONE_HOT = "_annotations.coco.json", "_classes.csv"
_IMAGE = "filename"  # of Roboflow's columns; each other one is a class


def is_coco(given: Given) -> bool:
    """Whether this is COCO's JSON, or a folder of it."""
    return given.keys >= {"images", "categories"} or bool(files_called(_COCO, given))


def read_coco(given: Given) -> Catalog:
    """The catalog of COCO's JSON: the category of an image's annotations is its label."""
    return read_files(given, files_called(_COCO, given), _of_coco)


def _of_coco(file: Given) -> Annotations:
    path, content = file.path, expect(file.json, dict, str(file.path))
    names = _by_id(content, "categories", "name", path)
    labels: dict[int, set[str]] = defaultdict(set)
    boxes = 0
    for place, row in enumerate(_rows(content, "annotations", path)):
        where = f"{path}: annotations[{place}]"
        category = _number(row, "category_id", where)
        if category not in names:
            raise TutelageError(f"{where} has the category {category}, which is not listed")
        labels[_number(row, "image_id", where)].add(names[category].strip())
        boxes += bool(row.get("bbox"))
    images = {
        number: Annotated(image, frozenset(labels.get(number, ())))
        for number, image in _by_id(content, "images", "file_name", path).items()
    }
    if strangers := sorted(labels.keys() - images.keys()):
        raise TutelageError(
            f"{path}: {counted(len(strangers), 'image')} with annotations {are(len(strangers))} "
            f"not listed (first: id {strangers[0]})"
        )
    several = sum(len(found) > 1 for found in labels.values())
    if boxes and 2 * several > len(labels):
        raise TutelageError(
            f"{path}: {several} of {len(labels)} images hold objects of several categories: this "
            "is detection, and tutelage classifies whole images; give each image one category"
        )
    warnings = [f"{path}: the boxes are not used: whole images are classified"] if boxes else []
    return Annotations([*images.values()], warnings=warnings)


def _rows(content: Mapping[str, Any], key: str, path: object) -> list[dict[str, Any]]:
    """One of the file's lists of objects; empty where it is missing."""
    rows = expect(content.get(key, []), list, f"{path}: {key}")
    return [expect(row, dict, f"{path}: {key}[{place}]") for place, row in enumerate(rows)]


def _by_id(content: Mapping[str, Any], key: str, name: str, path: object) -> dict[int, str]:
    """What the entries of a list are called, by their ids; TutelageError if two have the same."""
    names: dict[int, str] = {}
    for place, row in enumerate(_rows(content, key, path)):
        where = f"{path}: {key}[{place}]"
        number, called = _number(row, "id", where), expect(row.get(name), str, f"{where}, {name}")
        if number in names:
            raise TutelageError(
                f"{where}, {called}, has the id {number} of {names[number]}; number the {key} "
                "anew, and in the annotations as well (were two files made into one?)"
            )
        names[number] = called
    return names


def _number(row: Mapping[str, Any], key: str, where: str) -> int:
    return expect(row.get(key), int, f"{where}, {key}")


def is_one_hot(given: Given) -> bool:
    """Whether this is Roboflow's table of classification, or a folder of it."""
    named = not given.is_folder and given.path.name == _ONE_HOT
    return named or bool(files_called(_ONE_HOT, given))


def read_one_hot(given: Given) -> Catalog:
    """The catalog of Roboflow's ``_classes.csv``: a column of 0 and 1 for each class."""
    return read_files(given, files_called(_ONE_HOT, given), _of_one_hot)


def _of_one_hot(file: Given) -> Annotations:
    path, found = file.path, Annotations()
    rows = records(path)
    if rows and _IMAGE not in rows[0]:
        raise TutelageError(
            f"{path} lacks the column {_IMAGE}, as where images are segmented and not classified; "
            f"found: {', '.join([*rows[0]][:20])}"
        )
    for number, row in enumerate(rows, start=1):
        where = f"{path}: data row {number}"
        image = row.pop(_IMAGE)
        if odd := [(name, value) for name, value in row.items() if value not in ("0", "1")]:
            raise TutelageError(f"{where}, {odd[0][0]} is {odd[0][1]!r:.40}; expected 0 or 1")
        if not image:
            raise TutelageError(f"{where} has no {_IMAGE}")
        labels = frozenset(name for name, value in row.items() if value == "1")
        found.images.append(Annotated(image, labels))
    return found
