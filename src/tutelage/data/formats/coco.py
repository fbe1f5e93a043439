"""COCO's JSON, where each image has annotations of one category."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.data.formats.listing import Listed, Listing, expect
from tutelage.system.errors import TutelageError
from tutelage.system.words import are, counted


def is_coco(content: Mapping[str, Any]) -> bool:
    """Whether a JSON object is COCO's."""
    return "images" in content and "categories" in content


def read_json(path: Path, content: Mapping[str, Any]) -> Listing:
    """The listing of a file: the category of an image's annotations is its label.

    Boxes are not looked at, nor are captions or key points.

    Raises:
        TutelageError: a wrong shape, an unknown id or one that two entries have, or images that
            hold several categories each: then it is about detection.
    """
    names = _by_id(path, content, "categories", "name")
    labels: dict[int, set[str]] = defaultdict(set)
    boxes = 0
    for place, row in enumerate(_rows(path, content, "annotations")):
        where = f"{path}: annotations[{place}]"
        category = _number(row, "category_id", where)
        if category not in names:
            raise TutelageError(f"{where} has the category {category}, which is not listed")
        labels[_number(row, "image_id", where)].add(names[category].strip())
        boxes += bool(row.get("bbox"))
    images = {
        number: Listed(file, frozenset(labels.get(number, ())))
        for number, file in _by_id(path, content, "images", "file_name").items()
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
    return Listing([*images.values()], warnings=warnings)


def _rows(path: Path, content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """One of the file's lists of objects; empty where it is missing."""
    rows = expect(content.get(key, []), list, f"{path}: {key}")
    return [expect(row, dict, f"{path}: {key}[{place}]") for place, row in enumerate(rows)]


def _by_id(path: Path, content: Mapping[str, Any], key: str, name: str) -> dict[int, str]:
    """What the entries of a list are called, by their ids; TutelageError if two have the same."""
    names: dict[int, str] = {}
    places: dict[int, int] = {}
    for place, row in enumerate(_rows(path, content, key)):
        where = f"{path}: {key}[{place}]"
        number = _number(row, "id", where)
        called = expect(row.get(name), str, f"{where}, {name}")
        if number in names:
            raise TutelageError(
                f"{where}, {called}, has the id {number} of {key}[{places[number]}], "
                f"{names[number]}; number the {key} anew, and in the annotations as well (were "
                "two files made into one?)"
            )
        names[number], places[number] = called, place
    return names


def _number(row: Mapping[str, Any], key: str, where: str) -> int:
    return expect(row.get(key), int, f"{where}, {key}")
