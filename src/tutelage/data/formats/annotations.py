"""What another tool's file lists, as a catalog: every image found on the disk, with one label."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tutelage.data.catalog import Catalog, split_of
from tutelage.data.images import Images, split_by_folder
from tutelage.data.listing import Given, Listing
from tutelage.system.errors import TutelageError
from tutelage.system.words import are, counted

_Kind = TypeVar("_Kind")
_WORDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


@dataclass(frozen=True)
class Annotated:
    """An image as an annotation file lists it."""

    image: str  # a path or a URL, as the tool writes it
    labels: frozenset[str] = frozenset()  # none: it is unlabelled; several: it has no one label
    split: str = ""  # as ``catalog.split_of`` knows it; empty where the file does not say
    name: str = ""  # its name in the catalog, where the file says it
    file: str = ""  # where it lay when the file was written, if that is known


@dataclass
class Annotations:
    """The images of an annotation file, and what a user should know about it."""

    images: list[Annotated] = field(default_factory=list)
    left_out: list[Annotated] = field(default_factory=list)  # by a person: no part of a pool
    warnings: list[str] = field(default_factory=list)


def files_called(name: str, given: Given, beside: str = ".") -> list[tuple[Path, str]]:
    """The file of this name in a folder, or that of each split, with the split's folder.

    ``beside`` is a folder that has to lie beside it.
    """
    if not given.is_folder:
        return []
    splits = sorted(home for home in given.path.iterdir() if split_of(home.name))
    for homes, below in (([given.path], False), (splits, True)):
        found = [home for home in homes if (home / name).is_file() and (home / beside).is_dir()]
        if found:
            return [(home / name, home.name if below else "") for home in found]
    return []


def read_files(
    given: Given, files: Iterable[tuple[Path, str]], read: Callable[[Given], Annotations]
) -> Catalog:
    """The catalog of what a tool wrote: the file that is given, or these of a folder."""
    whole = Annotations()
    for path, folder in files if given.is_folder else [(given.path, "")]:
        part = read(replace(given, path=path))
        for listed, items in ((whole.images, part.images), (whole.left_out, part.left_out)):
            listed += items if not folder else (_below(folder, item) for item in items)
        whole.warnings += part.warnings
    return catalog_of(given, whole)


def _below(folder: str, item: Annotated) -> Annotated:
    return replace(item, image=f"{folder}/{item.image}", split=item.split or folder)


@dataclass(frozen=True)
class _Row:
    path: str
    labels: frozenset[str]
    split: str
    image: str  # as it is listed


def catalog_of(given: Given, listed: Annotations) -> Catalog:
    """The catalog of what is listed in a file, whose images lie beside it or in --image-root.

    An image that is missing stays listed: a run says that it cannot be read. With --image-root the
    images there that the file does not list are unlabelled ones, or else left out. TutelageError
    where no image is there, a name fits several, or most labelled images have several labels.
    """
    where, asked = str(given.path), given.asked.image_root or None
    images = Images(asked, given.path if given.is_folder else given.path.parent)
    if not listed.images:
        raise TutelageError(f"{where} lists no images")
    rows, missing = _find(where, listed.images, images)
    if len(missing) == len(listed.images):
        raise TutelageError(
            f"{where}: none of the {len(missing)} images is found in {images.root} (first: "
            f"{missing[0]}); give the folder that holds them with --image-root"
        )
    found = Listing(warnings=[*listed.warnings])
    if missing:
        found.warnings.append(
            f"{len(missing)} of the {len(listed.images)} images that {where} lists are missing "
            f"(first: {missing[0]}); restore them, or give their folder with --image-root"
        )
    found.warnings += _check_several(where, rows)
    for name, row in rows.items():
        label = next(iter(row.labels)) if len(row.labels) == 1 else ""
        found.add(name, row.path, label, row.split)
    left_out = filter(None, (images.find(item.image, item.file) for item in listed.left_out))
    _add_unlisted(found, images, [item.path for item in left_out], pool=bool(asked))
    return found.catalog(where)


def expect(value: Any, kind: type[_Kind], where: str) -> _Kind:
    """A part of a JSON file; TutelageError, which calls it ``where``, if it is of another kind."""
    if not isinstance(value, kind):
        shown = json.dumps(value)[:60]
        raise TutelageError(f"{where} is {shown}; expected {_WORDS[kind]}")
    return value


def _find(
    where: str, listed: Iterable[Annotated], images: Images
) -> tuple[dict[str, _Row], list[str]]:
    """The images by their names in the catalog, and those that are missing, as they are listed."""
    rows: dict[str, _Row] = {}
    missing = []
    for item in listed:
        found = images.find(item.image, item.file)
        if found is None:
            missing.append(item.image)
            found = images.absent(item.image)
        name, known = item.name or found.name, split_of(item.split)
        # A split that nobody knows stays as it is, for the catalog to refuse.
        split = (item.split.strip() if known is None else known or "train") or split_by_folder(name)
        row = _Row(found.path, item.labels, split, item.image)
        rows[name] = _merged(where, rows[name], row) if name in rows else row
    return rows, missing


def _merged(where: str, first: _Row, second: _Row) -> _Row:
    """One image that is listed twice: with all its labels."""
    if first.image != second.image:
        raise TutelageError(
            f"{where}: {first.image} and {second.image} would both be {first.path}; put the images "
            "into folders as they are listed, or give the right folder with --image-root"
        )
    splits = [row.split or "train" for row in (first, second)]
    if splits[0] != splits[1]:
        raise TutelageError(
            f"{where} lists {first.image} in {splits[0]} and in {splits[1]}; keep one"
        )
    return replace(first, labels=first.labels | second.labels)


def _check_several(where: str, rows: dict[str, _Row]) -> list[str]:
    """What is to say about images with several labels, which are refused if they are the most."""
    several = [(name, row.labels) for name, row in rows.items() if len(row.labels) > 1]
    if not several:
        return []
    name, labels = several[0]
    count = counted(len(several), "image")
    first = f"{count} with several labels (first: {name}: {', '.join(sorted(labels))})"
    if len(several) > sum(len(row.labels) == 1 for row in rows.values()):
        raise TutelageError(
            f"{where}: {first}; tutelage gives an image one class; keep the one that matters, "
            "or learn each class by itself, with the classes yes and no"
        )
    return [f"{first}: taken as unlabelled; give each one label"]


def _add_unlisted(found: Listing, images: Images, left_out: Iterable[str], *, pool: bool) -> None:
    """Add the images that are not listed as an unlabelled pool, or say that they are left out."""
    others = images.besides([*found.paths, *left_out])
    if not pool:
        if others:
            found.warnings.append(
                f"{counted(len(others), 'image')} in {images.root} {are(len(others))} not listed "
                f"(first: {others[0].name}) and left out; --image-root {images.root} takes them "
                "as unlabelled"
            )
        return
    held_out = [other for other in others if split_by_folder(other.name) in ("val", "test")]
    taken = [other for other in others if other not in held_out]
    for other in taken:
        found.add(other.name, other.path)
    if taken:
        count = f"{counted(len(taken), 'image')} {are(len(taken))}"
        found.warnings.append(f"{count} not listed: taken as unlabelled")
    if held_out:
        found.warnings.append(
            f"{counted(len(held_out), 'image')} of val or test {are(len(held_out))} not listed "
            f"(first: {held_out[0].name}) and left out"
        )
