"""CVAT's XML, "CVAT for images 1.1": the tags of each image are its labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tutelage.data.catalog import Catalog
from tutelage.data.formats.annotations import Annotated, Annotations, read_files
from tutelage.data.listing import Given
from tutelage.system.errors import TutelageError

PREDICTED = " (predicted)"
"""Ends the label of a tag that a model proposes: it is a hint for a person, and no label."""
SPLITS = {"(val)": "val", "(test)": "test"}
"""Tags that ``review.export`` writes: tasks have no splits, so that images would change theirs."""
OF_NO_USE = "(of no use)"
"""The tag of an image that is to be left out."""
_NAME = "annotations.xml"  # in a folder that CVAT exports
_SHAPES = {"box", "polygon", "polyline", "points", "ellipse", "mask", "cuboid", "skeleton"}


def fits(given: Given) -> bool:
    """Whether this is XML, or a folder that CVAT exported."""
    return given.suffix == ".xml" or (given.path / _NAME).is_file()


def read(given: Given) -> Catalog:
    """The catalog of an export; TutelageError where it is other XML, or about detection."""
    return read_files(given, [(given.path / _NAME, "")], _annotations)


def _annotations(file: Given) -> Annotations:
    path, root, found = file.path, _parsed(file.path), Annotations()
    known = {(name.text or "").strip() for name in root.iterfind(".//labels/label/name")}
    hints = {label for label in known if label.removesuffix(PREDICTED) in known - {label}}
    for element in root.iterfind("image"):
        tags = {_value(path, tag, "label") for tag in element.iterfind("tag")}
        name, subset = _value(path, element, "name"), element.get("subset", "")
        image = f"{subset}/{name}" if subset else name  # as in the folder that CVAT exports
        marks = {SPLITS[tag] for tag in tags & SPLITS.keys()}
        split = min(marks, default="" if subset.lower() == "default" else subset)
        labels = frozenset(tags - hints - {*SPLITS, OF_NO_USE})
        found.images.append(Annotated(image, labels, split, left_out=OF_NO_USE in tags))
    shapes = Counter(element.tag for element in root.iter() if element.tag in _SHAPES)
    drawn = ", ".join(f"{count} of <{shape}>" for shape, count in shapes.most_common())
    if drawn and not any(item.labels for item in found.images):
        raise TutelageError(
            f"{path} has no tags but shapes ({drawn}): this is detection, and tutelage classifies "
            "whole images; give the images tags in CVAT (New annotation: Setup tag)"
        )
    if drawn:
        found.warnings.append(f"shapes are not read ({drawn})")
    return found


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses what lets a small file grow without bounds, or name other files."""

    def doctype(self, *declared: object) -> None:
        raise TutelageError("declares a document type, which CVAT never does; it is not read")


def _parsed(path: Path) -> Any:
    """The root of the file, as an ElementTree's element."""
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=_NoDoctype())).getroot()
    except ElementTree.ParseError as error:
        raise TutelageError(f"{path} is not readable XML: {error}") from error
    except TutelageError as error:
        raise TutelageError(f"{path} {error}") from None
    if root.tag != "annotations":
        raise TutelageError(
            f"{path} is XML of the kind <{root.tag}>; expected <annotations>, which CVAT exports "
            'as "CVAT for images 1.1"'
        )
    if root.find("track") is not None:
        raise TutelageError(f'{path} holds tracks of a video; export it as "CVAT for images 1.1"')
    return root


def _value(path: Path, element: Any, name: str) -> str:
    if not element.get(name):
        raise TutelageError(f"{path}: a <{element.tag}> has no {name}")
    return str(element.get(name))
