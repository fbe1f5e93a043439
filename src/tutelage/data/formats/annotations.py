"""What another tool's file lists, as a catalog: every image found on the disk, with one label."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tutelage.data.catalog import Catalog, split_of
from tutelage.data.listing import LEFT_OUT, Given, Images, Listing, add_unlisted, split_by_folder
from tutelage.system.errors import TutelageError
from tutelage.system.words import counted

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
    left_out: bool = False  # by a person: it is no part of a pool, either


@dataclass
class Annotations:
    """The images of an annotation file, and what a user should know about it."""

    images: list[Annotated] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def files_called(name: str, given: Given) -> list[tuple[Path, str]]:
    """The file of this name in a folder, or that of each split, with the split's folder."""
    if not given.is_folder:
        return []
    splits = sorted(home for home in given.path.iterdir() if split_of(home.name))
    for homes, below in (([given.path], False), (splits, True)):
        if found := [home for home in homes if (home / name).is_file()]:
            return [(home / name, home.name if below else "") for home in found]
    return []


def read_files(
    given: Given, files: Iterable[tuple[Path, str]], read: Callable[[Given], Annotations]
) -> Catalog:
    """The catalog of what a tool wrote: the file that is given, or these of a folder."""
    whole = Annotations()
    for path, folder in files if given.is_folder else [(given.path, "")]:
        part = read(replace(given, path=path))
        whole.warnings += part.warnings
        for item in part.images:
            image = f"{folder}/{item.image}" if folder else item.image
            whole.images.append(replace(item, image=image, split=item.split or folder))
    return catalog_of(given, whole)


def catalog_of(given: Given, listed: Annotations) -> Catalog:
    """The catalog of what is listed in a file, whose images lie beside it or in --image-root.

    An image that is missing stays listed: a run says that it cannot be read. With --image-root the
    images there that the file does not list are unlabelled ones, or else left out.
    """
    where, asked = str(given.path), given.asked.image_root or None
    images = Images(given.path, asked)
    found, missing, left_out = Listing(warnings=[*listed.warnings]), [], []
    # An image that is listed twice has all its labels; two images of one name are refused later.
    rows: dict[tuple[str, str, str], Annotated] = {}
    for item in listed.images:
        there = images.find(item.image, item.file)
        if item.left_out:
            left_out.append(there.path if there else item.image)
            continue
        if there is None:
            missing.append(item.image)
            there = images.absent(item.image)
        name, known = item.name or there.name, split_of(item.split)
        # A split that nobody knows stays as it is, for the catalog to refuse.
        split = (item.split.strip() if known is None else known or "train") or split_by_folder(name)
        key = name, item.image, split or "train"
        labels = item.labels | rows[key].labels if key in rows else item.labels
        rows[key] = Annotated(item.image, labels, split, name, there.path)
    if missing and len(missing) == len(listed.images) - len(left_out):
        raise images.none_found(missing)
    if left_out:
        found.warnings.append(
            f"{counted(len(left_out), 'image')} skipped or of no use (first: {left_out[0]}): left "
            "out; label such images in the tool to learn from them"
        )
    if missing:
        found.warnings.append(
            f"{len(missing)} of the {len(listed.images)} images that {where} lists are missing "
            f"(first: {missing[0]}); restore them, or give their folder with --image-root"
        )
    found.warnings += _check_several(where, [*rows.values()])
    for row in rows.values():
        label = next(iter(row.labels)) if len(row.labels) == 1 else ""
        found.add(row.name, row.file, label, row.split)
    if found.names:
        add_unlisted(
            found,
            images,
            left_out,
            lambda other: bool(asked) and split_by_folder(other.name) not in ("val", "test"),
            LEFT_OUT if asked else f"--image-root {images.root} takes them as unlabelled",
        )
    return found.catalog(where)


def expect(value: Any, kind: type[_Kind], where: str) -> _Kind:
    """A part of a JSON file; TutelageError, which calls it ``where``, if it is of another kind."""
    if not isinstance(value, kind):
        shown = json.dumps(value)[:60]
        raise TutelageError(f"{where} is {shown}; expected {_WORDS[kind]}")
    return value


def _check_several(where: str, rows: Sequence[Annotated]) -> list[str]:
    """What is to say about images with several labels, which are refused if they are the most."""
    several = [row for row in rows if len(row.labels) > 1]
    if not several:
        return []
    first, count = several[0], counted(len(several), "image")
    said = f"{count} with several labels (first: {first.name}: {', '.join(sorted(first.labels))})"
    if len(several) > sum(len(row.labels) == 1 for row in rows):
        raise TutelageError(
            f"{where}: {said}; tutelage gives an image one class; keep the one that matters, "
            "or learn each class by itself, with the classes yes and no"
        )
    return [f"{said}: taken as unlabelled; give each one label"]
