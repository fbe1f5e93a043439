"""A folder of images whose classes stand in tables, as Kaggle and Hugging Face lay them out.

The tables lie in the folder (``train.csv`` beside ``train/`` or ``images/``), or in the folders of
its splits (``train/metadata.csv``).
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.config import TableConfig
from tutelage.data import textfile
from tutelage.data.catalog import Catalog, make_catalog, split_of
from tutelage.data.folder import as_text, files_below
from tutelage.data.header import has_columns
from tutelage.data.layout import is_image, levels, split_words, visible
from tutelage.data.manifest import Rows, text_rows
from tutelage.data.places import find_images
from tutelage.data.sources import FileSource
from tutelage.system.errors import TutelageError
from tutelage.system.words import are, counted


def read_labelled(root: Path, asked: TableConfig, unused: list[str]) -> Catalog | None:
    """The catalog of a folder whose images stand in a table; None if the folders are the classes.

    The table has the columns of images and labels, and it lists images that lie below its own
    folder. Other images beside those, and in a folder ``unlabeled``, are a pool; the rest is left
    out. ``unused`` takes the reasons why tables are not used.

    Raises:
        TutelageError: a table contradicts itself, two tables are for one split, or the table gives
            the images other classes than the folders do.
    """
    for place in levels(root):
        if tables := [of for of in _files(place) if _lists_labels(of[0], asked, unused)]:
            break
    else:
        return None
    found = _Labelled(root, place)
    shown = ", ".join(str(path) for path, _ in tables)
    try:
        for split, path in _by_split(tables).items():
            found.add(text_rows(path, asked), split, asked.image_root)
    except TutelageError as error:
        if not found.has_class_folders():
            raise
        unused.append(str(error))
        return None
    if found.are_classes_of_folders(shown):
        return None
    found.warnings.insert(0, f"the classes are those in {shown}")
    found.add_rest()
    return found.catalog()


def _files(place: Path) -> Iterator[tuple[Path, str]]:
    """Files that may list the images of a folder, and what says their split."""
    for path in visible(place):
        if path.is_file():
            yield path, path.stem
        elif split_of(path.name) is not None:
            yield from ((inner, path.name) for inner in visible(path) if inner.is_file())


def _lists_labels(path: Path, asked: TableConfig, unused: list[str]) -> bool:
    """Whether it is a table of images and labels, and not of predictions or for a submission."""
    listing = path.suffix.lower() in (".csv", ".tsv") or path.name == "metadata.jsonl"
    if not listing or "submission" in path.name.lower():
        return False
    try:
        with textfile.opened(path) as table:
            names = table.names
    except TutelageError as error:
        unused.append(str(error))
        return False
    if not has_columns(names, asked):
        unused.append(
            f"{path} has no columns that are called as images and labels are; found: "
            f"{', '.join(names[:20])}; name them with --image-column and --label-column"
        )
        return False
    return "confidence" not in names


def _by_split(tables: Iterable[tuple[Path, str]]) -> dict[str, Path]:
    """The table of each split: what names it says which, or else it is for train.

    Raises:
        TutelageError: two are for the same split.
    """
    found: dict[str, Path] = {}
    for path, named in tables:
        splits = split_words(named) - {""}
        split = splits.pop() if len(splits) == 1 else "train"
        if split in found:
            raise TutelageError(
                f"{found[split]} and {path} both list images of {split} with labels; give the one "
                "you mean instead of the folder, or move the other one away"
            )
        found[split] = path
    return found


@dataclass
class _Labelled:
    """What the tables of a folder list, with the files found."""

    root: Path
    place: Path  # the folder that the tables and the images lie in
    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, rows: Rows, split: str, image_root: str | None) -> None:
        places = find_images(rows.path, rows.images, image_root)
        self.names += map(self._name, places.paths)  # as in a folder without tables
        self.labels += rows.labels
        self.splits += rows.splits or [split] * len(rows.images)
        self.paths += places.paths
        self.warnings += [*places.warnings, *rows.warnings]

    def are_classes_of_folders(self, tables: str) -> bool:
        """Whether the folders of the images say the same as their labels.

        Raises:
            TutelageError: some folders hold images of one label, and others do not.
        """
        labels, folders = defaultdict(set), defaultdict(set)
        for path, label in zip(self.paths, self.labels, strict=True):
            if label and (folder := self._folder(path)):
                labels[folder].add(label)
                folders[label].add(folder)
        pure = [folder for folder, of in labels.items() if len(of) == 1]
        if len(labels) < 2 or not pure:
            return False
        if len(pure) == len(labels) == len(folders):
            return True
        raise TutelageError(
            f"{self.place} holds folders, such as {pure[0]}, that seem to be classes, but "
            f"{tables} gives their images other labels; give the table itself to use its labels, "
            "or move it away to use the folders"
        )

    def has_class_folders(self) -> bool:
        """Whether images lie in several folders that may be classes."""
        below = (path for path in files_below(self.place, []) if is_image(path))
        folders = filter(None, map(self._folder, below))
        first = next(folders, "")
        return any(folder != first for folder in folders)

    def _folder(self, path: str) -> str:
        """The folder of an image that would be its class; empty if it is in none."""
        parts = Path(os.path.relpath(path, self.place)).parts[:-1]
        return next((part for part in parts if not split_words(part)), "")

    def add_rest(self) -> None:
        """Look at the images in no table: those beside training images, or in a pool, are a pool.

        The others, such as Kaggle's test images, are left out.
        """
        listed = dict(zip(map(os.path.abspath, self.paths), self.splits, strict=True))
        training = (
            path for path, split in listed.items() if split_of(split) not in ("val", "test")
        )
        homes = set(map(os.path.dirname, training))
        beside, left_out = 0, []
        for path in filter(is_image, files_below(self.place, [])):
            if os.path.abspath(path) in listed:
                continue
            folders = Path(path).relative_to(self.place).parts[:-1]
            pool = any(split_of(folder) == "" for folder in folders)
            if not pool and os.path.dirname(os.path.abspath(path)) not in homes:
                left_out.append(path)
                continue
            beside += not pool
            self.names.append(self._name(path))
            self.labels.append("")
            self.splits.append("train")
            self.paths.append(path)
        if beside:
            self.warnings.append(
                f"{counted(beside, 'image')} beside those of the table {are(beside)} in no table: "
                "taken as unlabelled"
            )
        if left_out:
            self.warnings.append(
                f"{counted(len(left_out), 'image')} {are(len(left_out))} in no table (first: "
                f"{left_out[0]}): left out; classify such images with tutelage predict, or move "
                "them into unlabeled to learn from them"
            )

    def _name(self, path: str) -> str:
        below = Path(path).is_relative_to(self.root)
        return as_text((Path(path).relative_to(self.root) if below else Path(path)).as_posix())

    def catalog(self) -> Catalog:
        source = FileSource(tuple(self.paths))
        where = str(self.root)
        return make_catalog(where, self.names, self.labels, self.splits, source, self.warnings)
