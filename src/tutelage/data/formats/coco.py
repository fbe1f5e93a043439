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
        TutelageError: a wrong shape, an unknown id, or images that hold several categories each:
            then it is about detection.
    """
    names = {}
    for place, row in enumerate(_rows(path, content, "categories")):
        where = f"{path}: categories[{place}]"
        names[_number(row, "id", where)] = expect(row.get("name"), str, f"{where}, name").strip()
    labels: dict[int, set[str]] = defaultdict(set)
    boxes = 0
    for place, row in enumerate(_rows(path, content, "annotations")):
        where = f"{path}: annotations[{place}]"
        category = _number(row, "category_id", where)
        if category not in names:
            raise TutelageError(f"{where} has the category {category}, which is not listed")
        labels[_number(row, "image_id", where)].add(names[category])
        boxes += bool(row.get("bbox"))
    images = {}
    for place, row in enumerate(_rows(path, content, "images")):
        where = f"{path}: images[{place}]"
        number = _number(row, "id", where)
        file = expect(row.get("file_name"), str, f"{where}, file_name")
        images[number] = Listed(file, frozenset(labels.get(number, ())))
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


def _number(row: Mapping[str, Any], key: str, where: str) -> int:
    return expect(row.get(key), int, f"{where}, {key}")
