"""A folder tree of images, whose folders say the splits and the classes.

It holds ``train/<class>/**``, ``unlabeled/**``, ``val/<class>/**`` and ``test/<class>/**``, or
other names of these splits (``catalog.SPLIT_NAMES``); a bare ``<class>/**`` tree means train, and
images that lie in the folder itself are an unlabelled pool where no folder beside them holds
images, or val and test alone do. Where all of this lies in a folder alone in the one given, it is
found there.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.data.catalog import SPLIT_NAMES, SPLITS, Catalog, alike, split_of
from tutelage.data.layout import (
    as_text,
    files_below,
    folders_in,
    is_image,
    levels,
    split_words,
    visible,
)
from tutelage.data.listing import LEFT_OUT, Given, Listing
from tutelage.system.errors import TutelageError
from tutelage.system.words import are, counted

PACKED = (".zip", ".rar", ".7z", ".gz", ".tgz", ".bz2", ".xz", ".zst")
_PICTURES = {"images", "image", "imgs", "img", "jpegimages"}
_DRAWN = {"labels", "annotations", "annotation", "masks", "mask", "segmentationclass"}
_NEAR = 0.8  # of 1: how alike a folder's name and a pool's are where one may be a slip
_MEND = "or give a table with the columns image and label"


def fits(given: Given) -> bool:
    """Whether this is a folder: every one that no other reader takes is looked at."""
    return given.is_folder


def read(given: Given) -> Catalog:
    """The catalog of a folder tree."""
    given.check_no_table()
    root = given.path
    found, place = _Tree(root), _unwrapped(root)
    _check_task(place)
    if place != root:
        shown = ", ".join(found.name(folder) for folder in folders_in(place)[:5])
        found.warnings.append(f"{root} holds one folder, whose content is read; found: {shown}")
    trees = _trees(place, found.warnings)
    for split, tree in {"": place, **trees}.items():
        if split and tree != place:
            _check_task(tree)
        for folder in found.folders(tree):
            if split_of(folder.name) != "":
                if split:
                    found.add(folder, as_text(folder.name), split)
            elif not split or (split == "train" and tree != place):
                found.add(folder, "", "train")
    loose = dict.fromkeys([place, *trees.values()])
    held_out = {trees[split]: split for split in trees if split != "train"}
    for tree, split in held_out.items():
        if found.leave_out_nameless(tree, split):
            del loose[tree]
    splits = sorted({split for _, _, split in found.rows})
    for folder in loose:
        found.add_loose(folder, "train" not in splits and folder not in held_out, splits)
    return found.catalog(has_splits=place not in trees.values())


@dataclass
class _Tree:
    root: Path
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # path, class or "", split
    ignored: list[str] = field(default_factory=list)  # files that are not images
    closed: list[str] = field(default_factory=list)  # folders that are links or cannot be opened
    warnings: list[str] = field(default_factory=list)

    def add(self, folder: Path, label: str, split: str) -> None:
        """Take the images below a folder."""
        before = len(self.rows)
        for path in files_below(folder, self.closed):
            if is_image(path):
                self.rows.append((path, label, split))
            else:
                self.ignored.append(path)
        if label and len(self.rows) == before:
            self.warnings.append(
                f"class folder {self.name(folder)} holds no images: left out; add some or delete it"
            )

    def add_loose(self, folder: Path, is_pool: bool, splits: list[str]) -> None:
        """Look at the files in a folder itself: its images are a pool, or are left out."""
        loose = [str(path) for path in visible(folder) if not path.is_dir()]
        images = list(filter(is_image, loose))
        self.ignored += [path for path in loose if not is_image(path)]
        self.rows += [(path, "", "train") for path in images if is_pool]
        if images and not is_pool:
            done = "left out; move such images into a class folder or into unlabeled"
            place = "outside a class folder"
        elif images and splits:
            done = "taken as unlabelled images to learn from"
            place = f"beside {' and '.join(splits)}"
        else:
            return
        self.warnings.append(
            f"{counted(len(images), 'image')} {place} (first: {images[0]}): {done}"
        )

    def leave_out_nameless(self, tree: Path, split: str) -> bool:
        """Leave out a val or test split whose images lie in no folder, or in one of no class."""
        rows = [row for row in self.rows if row[2] == split]
        classes = {alike(label) for _, label, of in self.rows if label and of == "train"}
        folders = {label for _, label, _ in rows}
        loose = sum(is_image(path.name) for path in visible(tree) if not path.is_dir())
        if loose and not rows:
            place = self.name(tree)
        elif len(folders) == 1 and classes and not classes & set(map(alike, folders)):
            place = f"{self.name(tree)}/{folders.pop()}"
        else:
            return False
        self.rows = [row for row in self.rows if row[2] != split]
        count = len(rows) + loose
        self.warnings.append(
            f"the images in {place} have no class of train: {count} left out; {LEFT_OUT}"
        )
        return True

    def folders(self, parent: Path) -> list[Path]:
        """The folders in ``parent``; links to a folder that they lie in are closed."""
        home = Path(os.path.realpath(parent))  # Path.resolve raises on links in a circle
        found = folders_in(parent)
        up = [f for f in found if f.is_symlink() and home.is_relative_to(os.path.realpath(f))]
        self.closed += map(str, up)
        return [path for path in found if path not in up]

    def name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def catalog(self, *, has_splits: bool) -> Catalog:
        warnings, root, closed = self.warnings, self.root, sorted({*self.closed})
        if self.ignored:
            warnings.append(
                f"{counted(len(self.ignored), 'other file')} {are(len(self.ignored))} ignored "
                f"(first: {min(self.ignored)})"
            )
        if closed:
            warnings.append(
                f"folders that are links or cannot be opened are left out: {len(closed)} "
                f"(first: {closed[0]}); move their images here"
            )
        if not self.rows:
            if packed := [path for path in self.ignored if path.lower().endswith(PACKED)]:
                raise TutelageError(f"no images in {root}, but {packed[0]}; unpack it first")
            raise TutelageError(
                f"no images in {root}; expected train/<class>/*.jpg, unlabeled/*.jpg, or "
                f"<class>/*.jpg{'; ' + '; '.join(warnings) if warnings else ''}"
            )
        self.rows.sort()
        paths, labels, splits = map(list, zip(*self.rows, strict=True))
        self.rows.clear()
        start = 0 if root == Path() else len(os.path.join(root, ""))
        names = [as_text(path[start:].replace(os.sep, "/")) for path in paths]
        said = splits if has_splits else []
        return Listing(names, paths, labels, said, warnings).catalog(root)


def _unwrapped(root: Path) -> Path:
    """The level that holds folders for splits or several classes; ``root`` if there is none."""
    *_, place = levels(root)
    folders = folders_in(place)
    return place if len(folders) > 1 or any(split_of(f.name) is not None for f in folders) else root


def _trees(place: Path, warnings: list[str]) -> dict[str, Path]:
    """The folder that holds the class folders of each split."""
    splits: dict[str, Path] = {}
    others = []
    for folder in folders_in(place):
        split = split_of(folder.name)
        if split is None:
            others.append(folder)
        elif split and splits.setdefault(split, folder) != folder:
            raise TutelageError(
                f"{place} holds {splits[split].name} and {folder.name}, which both mean {split}; "
                "move all their content into one of them"
            )
    if splits and "train" not in splits:  # a folder without images is no class: runs lie there
        others = [path for path in others if any(map(is_image, files_below(path, [])))]
    if "train" in splits or not others:
        warnings += [
            f"folder {path.name} is left out: beside train only unlabeled, val and test are read"
            f"{_meant_pool(path.name)}"
            for path in others
        ]
        return {split: _inner(splits[split], split) for split in SPLITS if split in splits}
    if splits:
        clash = min(tree.name for tree in splits.values())
        raise TutelageError(
            f"{place} holds class folders and a folder {clash}; move the class folders into "
            f"{place / 'train'} (a class must not be called {clash})"
            f"{''.join(_meant_pool(path.name) for path in others)}"
        )
    mentioned = {path.name: split_words(path.name) - {""} for path in others}
    if {"train"} < set().union(*mentioned.values()):
        named = [name for name, words in mentioned.items() if words]
        raise TutelageError(
            f"{place} holds {' and '.join(named[:5])}, which look like splits, not classes; call "
            f"them train, val and test, with class folders in them, {_MEND}"
        )
    warnings += [
        f"folder {path.name} is taken for a class{meant}"
        for path in others
        if (meant := _meant_pool(path.name))
    ]
    return {"train": place}


def _inner(tree: Path, split: str) -> Path:
    """The folder in which a split's folder holds all it has, as in Kaggle's ``train/train``."""
    content = visible(tree)
    if len(content) == 1 and content[0].is_dir() and split in split_words(content[0].name):
        return content[0]
    return tree


def _meant_pool(name: str) -> str:
    """The end of a message about a folder whose name may be a slip for that of a pool."""
    known = [word for word, split in SPLIT_NAMES.items() if split == ""]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=_NEAR)
    return f"; did you mean {near[0]} by {name}?" if near else ""


def _check_task(folder: Path) -> None:
    """Refuse images whose objects are marked, with boxes or masks in a folder beside them."""
    folders = [path.name for path in folders_in(folder)]
    pictures = [name for name in folders if name.lower() in _PICTURES]
    drawn = [name for name in folders if name.lower() in _DRAWN]
    if pictures and drawn:
        raise TutelageError(
            f"{folder} holds {pictures[0]} and {drawn[0]}, which look like boxes or masks of "
            "objects (YOLO, VOC, COCO); tutelage learns one class for each image. Put the images "
            f"into class folders (train/<class>/*.jpg), {_MEND}"
        )
