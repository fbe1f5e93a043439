"""A folder whose images stand in tables, of Kaggle (``train.csv``) or Hugging Face (metadata)."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from tutelage.data.catalog import Catalog, split_of
from tutelage.data.layout import files_below, is_image, levels, split_words, visible
from tutelage.data.listing import Found, Given, Images, Listing, add_unlisted, find_images
from tutelage.data.manifest import text_rows
from tutelage.data.tables import has_columns, opened
from tutelage.system.errors import TutelageError


def fits(given: Given) -> bool:
    """Whether it is a folder, which may hold such tables."""
    return given.is_folder


def read(given: Given) -> Catalog | None:
    """The catalog of a folder whose images stand in a table; None if the folders are the classes.

    Other images beside those of training, and in a folder ``unlabeled``, are a pool; the rest is
    left out.
    """
    for place in levels(given.path):
        if tables := [(path, of) for path, of in _files(place) if _lists_labels(path, given)]:
            break
    else:
        return None
    found, images = Listing(), Images(given.path, None)
    shown = ", ".join(str(path) for path, _ in tables)
    try:
        for split, path in _by_split(tables).items():
            rows = text_rows(path, given.asked)
            find_images(rows, path, given.asked.image_root)
            found.names += map(images.name, rows.paths)
            found.paths += rows.paths
            found.labels += rows.labels
            found.splits += rows.splits or [split] * len(rows.paths)
            found.warnings += rows.warnings
    except TutelageError as error:
        below = (path for path in files_below(place, []) if is_image(path))
        if len({_class_folder(path, place) for path in below} - {""}) < 2:
            raise
        given.unused.append(str(error))
        return None
    if _says_what_folders_say(found, place, shown):
        return None
    found.warnings.insert(0, f"the classes are those in {shown}")
    homes = {
        os.path.dirname(os.path.abspath(path))
        for path, split in zip(found.paths, found.splits, strict=True)
        if split_of(split) not in ("val", "test")
    }

    def is_pool(image: Found) -> bool:
        path = Path(os.path.abspath(image.path))
        named = any(split_of(part) == "" for part in image.name.split("/")[:-1])
        return named or str(path.parent) in homes

    add_unlisted(found, images, [], is_pool)
    return found.catalog(given.path)


def _files(place: Path) -> Iterator[tuple[Path, str]]:
    """Files that may list the images of a folder, and what says their split."""
    for path in visible(place):
        if path.is_file():
            yield path, path.stem
        elif split_of(path.name) is not None:
            yield from ((inner, path.name) for inner in visible(path) if inner.is_file())


def _lists_labels(path: Path, given: Given) -> bool:
    """Whether it is a table of images and labels, and not of predictions or for a submission."""
    listing = path.suffix.lower() in (".csv", ".tsv") or path.name == "metadata.jsonl"
    if not listing or "submission" in path.name.lower():
        return False
    try:
        with opened(path) as table:
            names = table.names
    except TutelageError as error:
        given.unused.append(str(error))
        return False
    if not has_columns(names, given.asked):
        given.unused.append(
            f"{path} has no columns that are called as images and labels are; found: "
            f"{', '.join(names[:20])}; name them with --image-column and --label-column"
        )
        return False
    return "confidence" not in names


def _by_split(tables: Iterable[tuple[Path, str]]) -> dict[str, Path]:
    """The table of each split: what names it says which; "" where nothing does, which is train."""
    found: dict[str, Path] = {}
    for path, named in tables:
        splits = split_words(named) - {""}
        split = splits.pop() if len(splits) == 1 else ""
        if other := [found[known] for known in found if (known or "train") == (split or "train")]:
            raise TutelageError(
                f"{other[0]} and {path} both list images of {split or 'train'} with labels; give "
                "the one you mean instead of the folder, or move the other one away"
            )
        found[split] = path
    return found


def _says_what_folders_say(found: Listing, place: Path, tables: str) -> bool:
    """Whether the folders of the images are their labels; TutelageError where only some are."""
    labels, folders = defaultdict(set), defaultdict(set)
    for path, label in zip(found.paths, found.labels, strict=True):
        if label and (folder := _class_folder(path, place)):
            labels[folder].add(label)
            folders[label].add(folder)
    pure = [folder for folder, of in labels.items() if len(of) == 1]
    if len(labels) < 2 or not pure:
        return False
    if len(pure) == len(labels) == len(folders):
        return True
    raise TutelageError(
        f"{place} holds folders, such as {pure[0]}, that seem to be classes, but {tables} gives "
        "their images other labels; give the table itself to use its labels, or move it away to "
        "use the folders"
    )


def _class_folder(path: str, place: Path) -> str:
    """The folder of an image that would be its class; empty if it is in none."""
    parts = Path(os.path.relpath(path, place)).parts[:-1]
    return next((part for part in parts if not split_words(part)), "")
