"""What an annotation file lists, as a catalog: every image found on the disk, with one label."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tutelage.data.catalog import Catalog, make_catalog, split_of
from tutelage.data.formats.images import Images, split_by_folder
from tutelage.data.sources import FileSource
from tutelage.system.errors import TutelageError
from tutelage.system.words import are, counted

_Kind = TypeVar("_Kind")
_WORDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


@dataclass(frozen=True)
class Listed:
    """An image as an annotation file lists it."""

    image: str  # a path or a URL, as the tool writes it
    labels: frozenset[str] = frozenset()  # none: it is unlabelled; several: it has no one label
    split: str = ""  # as ``catalog.split_of`` knows it; empty where the file does not say
    name: str = ""  # its name in the catalog, where the file says it
    file: str = ""  # where it lay when the file was written, if that is known


@dataclass
class Listing:
    """The images of an annotation file, and what a user should know about it."""

    images: list[Listed] = field(default_factory=list)
    left_out: list[Listed] = field(default_factory=list)  # by a person, and so no part of a pool
    warnings: list[str] = field(default_factory=list)

    def below(self, folder: str, split: str) -> Listing:
        """This listing as a part of a larger one: of ``folder``, which is one split."""
        images, left_out = (
            [
                replace(item, image=f"{folder}/{item.image}", split=item.split or split)
                for item in items
            ]
            for items in (self.images, self.left_out)
        )
        return Listing(images, left_out, self.warnings)


@dataclass(frozen=True)
class _Row:
    path: str
    labels: frozenset[str]
    split: str
    image: str  # as it is listed


def catalog_of(where: str, listing: Listing, root: Path, *, pool: bool) -> Catalog:
    """The catalog of a listing, whose images lie below ``root``; errors call the file ``where``.

    An image that is missing stays listed: a run says that it cannot be read. With ``pool`` the
    images below ``root`` that the file does not list are unlabelled ones, or else left out.

    Raises:
        TutelageError: no image is there, a name fits several, or most labelled images have several
            labels.
    """
    if not listing.images:
        raise TutelageError(f"{where} lists no images")
    images = Images(root)
    rows, missing = _find(where, listing.images, images)
    if len(missing) == len(listing.images):
        raise TutelageError(
            f"{where}: none of the {len(missing)} images is found in {root} (first: {missing[0]}); "
            "give the folder that holds them with --image-root"
        )
    warnings = [*listing.warnings]
    if missing:
        warnings.append(
            f"{len(missing)} of the {len(listing.images)} images that {where} lists are missing "
            f"(first: {missing[0]}); restore them, or give their folder with --image-root"
        )
    labels, said = _one_label(where, rows)
    left_out = filter(None, (images.find(item.image, item.file) for item in listing.left_out))
    taken = [*(row.path for row in rows.values()), *(found.path for found in left_out)]
    others, about_others = _unlisted(images, taken, pool=pool)
    rows |= others
    return make_catalog(
        where,
        [*rows],
        [*labels, *[""] * len(others)],
        [row.split for row in rows.values()],
        FileSource(tuple(row.path for row in rows.values())),
        [*warnings, *said, *about_others],
    )


def expect(value: Any, kind: type[_Kind], where: str) -> _Kind:
    """A part of a JSON file; TutelageError, which calls it ``where``, if it is of another kind."""
    if not isinstance(value, kind):
        shown = json.dumps(value)[:60]
        raise TutelageError(f"{where} is {shown}; expected {_WORDS[kind]}")
    return value


def _find(
    where: str, listed: Iterable[Listed], images: Images
) -> tuple[dict[str, _Row], list[str]]:
    """The images by their names in the catalog, and those that are missing, as they are listed."""
    rows: dict[str, _Row] = {}
    missing = []
    for item in listed:
        found = images.find(item.image, item.file)
        if found is None:
            missing.append(item.image)
            found = images.absent(item.image)
        name = item.name or found.name
        split = _known_split(item.split) or split_by_folder(name)
        row = _Row(found.path, item.labels, split, item.image)
        if name in rows:
            row = _merged(where, rows[name], row)
        rows[name] = row
    return rows, missing


def _merged(where: str, first: _Row, second: _Row) -> _Row:
    """One image that is listed twice: with all its labels."""
    if first.image != second.image:
        raise TutelageError(
            f"{where}: {first.image} and {second.image} would both be {first.path}; put the images "
            "into folders as they are listed, or give the right folder with --image-root"
        )
    if first.split != second.split:
        raise TutelageError(
            f"{where} lists {first.image} in {first.split} and in {second.split}; keep one"
        )
    return replace(first, labels=first.labels | second.labels)


def _known_split(split: str) -> str:
    """A split as catalogs call it; what nobody knows stays as it is, for the catalog to refuse."""
    known = split_of(split)
    return split.strip() if known is None else known or "train"


def _one_label(where: str, rows: dict[str, _Row]) -> tuple[list[str], list[str]]:
    """The label of each row, empty for none or several, and what is to say about the latter."""
    several = [(name, row) for name, row in rows.items() if len(row.labels) > 1]
    labels = [next(iter(row.labels)) if len(row.labels) == 1 else "" for row in rows.values()]
    if not several:
        return labels, []
    name, row = several[0]
    count = counted(len(several), "image")
    first = f"{count} with several labels (first: {name}: {_listed(row.labels)})"
    if len(several) > len(labels) - labels.count(""):
        raise TutelageError(
            f"{where}: {first}; tutelage gives an image one class; keep the one that matters, "
            "or learn each class by itself, with the classes yes and no"
        )
    return labels, [f"{first}: taken as unlabelled; give each one label"]


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(sorted(labels))


def _unlisted(
    images: Images, listed: Iterable[str], *, pool: bool
) -> tuple[dict[str, _Row], list[str]]:
    """The images that are not listed, as an unlabelled pool, and what is to say about them."""
    others = images.besides(listed)
    if not pool:
        if not others:
            return {}, []
        return {}, [
            f"{counted(len(others), 'image')} in {images.root} {are(len(others))} not listed "
            f"(first: {others[0].name}) and left out; --image-root {images.root} takes them "
            "as unlabelled"
        ]
    held_out = [found for found in others if split_by_folder(found.name) != "train"]
    taken = [found for found in others if split_by_folder(found.name) == "train"]
    said = []
    if taken:
        count = f"{counted(len(taken), 'image')} {are(len(taken))}"
        said.append(f"{count} not listed: taken as unlabelled")
    if held_out:
        said.append(
            f"{counted(len(held_out), 'image')} of val or test {are(len(held_out))} not listed "
            f"(first: {held_out[0].name}) and left out"
        )
    return {found.name: _Row(found.path, frozenset(), "train", "") for found in taken}, said


def all_of(parts: Sequence[Listing]) -> Listing:
    """Several listings as one."""
    return Listing(
        [item for part in parts for item in part.images],
        [item for part in parts for item in part.left_out],
        [text for part in parts for text in part.warnings],
    )
