"""CVAT's XML, "CVAT for images 1.1": the tags of each image are its labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from xml.parsers import expat

from tutelage.data.catalog import Catalog
from tutelage.data.formats.annotations import Annotated, Annotations, read_files
from tutelage.data.listing import Given
from tutelage.system.errors import TutelageError
from tutelage.system.words import counted

PREDICTED = " (predicted)"
"""Ends the label of a tag that a model proposes: it is a hint for a person, and no label."""
SPLITS = {"(val)": "val", "(test)": "test"}
"""Tags that ``review.export`` writes: tasks have no splits, so that images would change theirs."""
OF_NO_USE = "(of no use)"
"""The tag of an image that is to be left out."""
_NAME = "annotations.xml"  # in a folder that CVAT exports
_SHAPES = {"box", "polygon", "polyline", "points", "ellipse", "mask", "cuboid", "skeleton"}
_LABEL = ("labels", "label", "name")  # where the file tells its labels


class _Reader:
    """Takes the elements of the file as the parser meets them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images: list[tuple[str, set[str], str]] = []  # path, tags, subset
        self.known: set[str] = set()  # the labels of the task
        self.shapes: Counter[str] = Counter()
        self._inside: list[str] = []
        self._image: dict[str, str] = {}
        self._tags: set[str] = set()
        self._text = ""

    def parse(self) -> None:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        try:
            with self.path.open("rb") as file:
                parser.ParseFile(file)
        except expat.ExpatError as error:
            raise TutelageError(f"{self.path} is not readable XML: {error}") from error

    def _doctype(self, *declared: object) -> None:
        raise TutelageError(
            f"{self.path} declares a document type, which CVAT never does; it is not read"
        )

    def _start(self, element: str, values: dict[str, str]) -> None:
        if not self._inside and element != "annotations":
            raise TutelageError(
                f"{self.path} is XML of the kind <{element}>; expected <annotations>, which CVAT "
                'exports as "CVAT for images 1.1"'
            )
        if element == "track":
            raise TutelageError(
                f'{self.path} holds tracks of a video; export it as "CVAT for images 1.1"'
            )
        if element == "image":
            self._image, self._tags = values, set()
        elif element == "tag" and self._image:
            self._tags.add(self._value(values, "label", element))
        elif element in _SHAPES:
            self.shapes[element] += 1
        self._inside.append(element)
        self._text = ""

    def _characters(self, text: str) -> None:
        if self._inside[-1] == "name":
            self._text += text

    def _end(self, element: str) -> None:
        if tuple(self._inside[-3:]) == _LABEL:
            self.known.add(self._text.strip())
        elif element == "image":
            name, subset = self._value(self._image, "name", element), self._image.get("subset", "")
            image = f"{subset}/{name}" if subset else name  # as in the folder that CVAT exports
            self.images.append((image, self._tags, "" if subset.lower() == "default" else subset))
            self._image = {}
        self._inside.pop()

    def _value(self, values: dict[str, str], name: str, element: str) -> str:
        if not values.get(name):
            raise TutelageError(f"{self.path}: a <{element}> has no {name}")
        return values[name]


def fits(given: Given) -> bool:
    """Whether this is XML, or a folder that CVAT exported."""
    return given.suffix == ".xml" or (given.path / _NAME).is_file()


def read(given: Given) -> Catalog:
    """The catalog of an export; TutelageError where it is other XML, or about detection."""
    return read_files(given, [(given.path / _NAME, "")], _annotations)


def _annotations(file: Given) -> Annotations:
    path = file.path
    reader = _Reader(path)
    reader.parse()
    hints = {label for label in reader.known if _of_class(label) in reader.known}
    found = Annotations()
    for image, tags, subset in reader.images:
        marks = {SPLITS[tag] for tag in tags & SPLITS.keys()}
        item = Annotated(
            image, frozenset(tags - hints - {*SPLITS, OF_NO_USE}), min(marks, default=subset)
        )
        (found.left_out if OF_NO_USE in tags else found.images).append(item)
    drawn = ", ".join(f"{count} of <{shape}>" for shape, count in reader.shapes.most_common())
    if drawn and not any(item.labels for item in found.images):
        raise TutelageError(
            f"{path} has no tags but shapes ({drawn}): this is detection, and tutelage classifies "
            "whole images; give the images tags in CVAT (New annotation: Setup tag)"
        )
    if drawn:
        found.warnings.append(f"shapes are not read ({drawn})")
    if unused := found.left_out:
        found.warnings.append(f"{counted(len(unused), 'image')} of no use: left out")
    return found


def _of_class(label: str) -> str | None:
    """The class that a tag's label proposes; None for a label as a person gives it."""
    return label.removesuffix(PREDICTED) if label.endswith(PREDICTED) else None
