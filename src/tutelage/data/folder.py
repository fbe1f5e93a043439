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
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.data.catalog import SPLIT_NAMES, SPLITS, Catalog, alike, split_of
from tutelage.data.layout import (
    RESULTS,
    as_text,
    files_below,
    is_image,
    levels,
    split_words,
    visible,
)
from tutelage.data.listing import Given, Listing
from tutelage.system.errors import TutelageError
from tutelage.system.words import are, counted

PACKED = (".zip", ".rar", ".7z", ".gz", ".tgz", ".bz2", ".xz", ".zst")
_PICTURES = {"images", "image", "imgs", "img", "jpegimages"}
_DRAWN = {"labels", "annotations", "annotation", "masks", "mask", "segmentationclass"}
_NEAR = 0.8  # of 1: how alike a folder's name and a split's are where one may be a slip


def fits(given: Given) -> bool:
    """Whether this is a folder: every one that no other reader takes is looked at."""
    return given.is_folder


def read(given: Given) -> Catalog:
    """The catalog of a folder tree.

    TutelageError where there are no images, class folders beside a folder ``val`` or ``test``, two
    folders for one split, or folders of another task.
    """
    given.check_no_table()
    root = given.path
    found, place = _Tree(root), _unwrapped(root)
    _check_task(place)
    folders = found.folders(place)
    if place != root:
        shown = ", ".join(found.name(folder) for folder in folders[:5])
        found.warnings.append(f"{root} holds one folder, whose content is read; found: {shown}")
    trees = _trees(place, folders, found.warnings)
    pools, loose = [path for path in folders if split_of(path.name) == ""], [place]
    for split, tree in trees.items():
        if tree != place:
            _check_task(tree)
            folders = found.folders(tree)
            loose.append(tree)
        found.add_classes([path for path in folders if split_of(path.name) != ""], split)
        if split != "train" and found.leave_out_nameless(tree, split):
            loose.remove(tree)
        elif split == "train" and tree != place:
            pools += [path for path in folders if split_of(path.name) == ""]
    for pool in pools:
        found.add(pool, "", "train")
    splits = {split for _, _, split in found.rows}
    held_out = [trees[split] for split in splits if split != "train"]
    for folder in loose:
        taken = "train" not in splits and folder not in held_out
        found.add_loose(folder, taken=taken, beside=" and ".join(sorted(splits)))
    return found.catalog(has_splits=place not in trees.values())


@dataclass
class _Tree:
    root: Path
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # path, class or "", split
    ignored: list[str] = field(default_factory=list)  # files that are not images
    closed: list[str] = field(default_factory=list)  # folders that are links or cannot be opened
    warnings: list[str] = field(default_factory=list)

    def add(self, folder: Path, label: str, split: str) -> int:
        """Take the images below a folder; how many there are."""
        before = len(self.rows)
        for path in files_below(folder, self.closed):
            if is_image(path):
                self.rows.append((path, label, split))
            else:
                self.ignored.append(path)
        return len(self.rows) - before

    def add_classes(self, folders: list[Path], split: str) -> None:
        for folder in sorted(folders):
            if not self.add(folder, as_text(folder.name), split):
                self.warnings.append(
                    f"folder {self.name(folder)} holds results of tutelage, and is no class"
                    if any({*files} >= RESULTS for _, _, files in os.walk(folder))
                    else f"class folder {self.name(folder)} is empty: left out; add images or "
                    "delete it"
                )

    def add_loose(self, folder: Path, *, taken: bool, beside: str) -> None:
        """Look at what lies beside class folders; its images are taken as a pool, or left out.

        ``beside`` names the splits that lie beside a pool, if any.
        """
        loose = [str(path) for path in visible(folder) if not path.is_dir()]
        images = list(filter(is_image, loose))
        self.ignored += [path for path in loose if not is_image(path)]
        if not images:
            return
        count = counted(len(images), "image")
        if not taken:
            self.warnings.append(
                f"{count} outside a class folder (first: {images[0]}): left out; move such images "
                "into a class folder or into unlabeled"
            )
            return
        self.rows += [(path, "", "train") for path in images]
        if beside:
            self.warnings.append(
                f"{count} beside {beside} (first: {images[0]}): taken as unlabelled images to "
                "learn from"
            )

    def leave_out_nameless(self, tree: Path, split: str) -> bool:
        """Leave out a val or test split whose images lie in no folder, or in one of no class."""
        rows = [row for row in self.rows if row[2] == split]
        classes = {alike(label) for _, label, of in self.rows if of == "train"}
        folders = {label for _, label, _ in rows}
        loose = sum(is_image(path.name) for path in visible(tree) if not path.is_dir())
        if loose and not rows:
            place = self.name(tree)
        elif len(folders) == 1 and classes and not classes & set(map(alike, folders)):
            place = f"{self.name(tree)}/{folders.pop()}"
        else:
            return False
        self.rows = [row for row in self.rows if row[2] != split]
        self.warnings.append(
            f"the images in {place} have no class of train: {len(rows) + loose} left out; classify "
            "them with tutelage predict, or move them into unlabeled to learn from them"
        )
        return True

    def folders(self, parent: Path) -> list[Path]:
        """The visible folders in ``parent``; links to a folder that they lie in are closed."""
        found = [path for path in visible(parent) if path.is_dir()]
        self.closed += [str(path) for path in found if _leads_up(path)]
        return [path for path in found if not _leads_up(path)]

    def name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def catalog(self, *, has_splits: bool) -> Catalog:
        warnings, root = self.warnings, self.root
        if self.ignored:
            warnings.append(
                f"{counted(len(self.ignored), 'other file')} {are(len(self.ignored))} ignored "
                f"(first: {min(self.ignored)})"
            )
        if self.closed:
            warnings.append(
                f"folders that are links or cannot be opened are left out: {len(self.closed)} "
                f"(first: {min(self.closed)}); move their images here"
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


def _holds_images(folder: Path) -> bool:
    return any(map(is_image, files_below(folder, [])))


def _leads_up(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in."""
    home = Path(os.path.realpath(folder.parent))  # Path.resolve raises on links in a circle
    return folder.is_symlink() and home.is_relative_to(os.path.realpath(folder))


def _unwrapped(root: Path) -> Path:
    """The level that holds folders for splits or several classes; ``root`` if there is none."""
    *_, place = levels(root)
    folders = [path for path in visible(place) if path.is_dir()]
    return place if len(folders) > 1 or any(split_of(f.name) is not None for f in folders) else root


def _trees(place: Path, folders: list[Path], warnings: list[str]) -> dict[str, Path]:
    """The folder that holds the class folders of each split."""
    others = [folder for folder in folders if split_of(folder.name) is None]
    splits = _by_split(folders)
    if splits and "train" not in splits:  # a folder without images is no class: runs lie there
        others = [path for path in others if _holds_images(path)]
    if "train" in splits or not others:
        _check_train(splits.get("train"), others)
        warnings += [
            f"folder {path.name} is left out: beside train only unlabeled, val and test are read"
            f"{_meant_split(path.name)}"
            for path in others
        ]
        return {split: _inner(splits[split], split) for split in SPLITS if split in splits}
    if splits:
        clash = min(tree.name for tree in splits.values())
        meant = "".join(_meant_split(path.name) for path in others)
        raise TutelageError(
            f"{place} holds class folders and a folder {clash}; move the class folders into "
            f"{place / 'train'} (a class must not be called {clash}){meant}"
        )
    _check_names(place, others)
    warnings += [
        f"folder {path.name} is taken for a class{meant}"
        for path in others
        if (meant := _meant_split(path.name, {""}))
    ]
    return {"train": place}


def _by_split(folders: Iterable[Path]) -> dict[str, Path]:
    """The folder of each split, by what its name means; TutelageError if two mean the same."""
    found: dict[str, Path] = {}
    for folder in folders:
        split = split_of(folder.name)
        if split and split in found:
            raise TutelageError(
                f"{folder.parent} holds {found[split].name} and {folder.name}, which both mean "
                f"{split}; move all their content into one of them"
            )
        if split:
            found[split] = folder
    return found


def _inner(tree: Path, split: str) -> Path:
    """The folder in which a split's folder holds all it has, as in Kaggle's ``train/train``."""
    content = visible(tree)
    if len(content) == 1 and content[0].is_dir() and split in split_words(content[0].name):
        return content[0]
    return tree


def _meant_split(name: str, splits: Collection[str] = ("", *SPLITS)) -> str:
    """The end of a message about a folder that is no split: which one its name is near, if any."""
    known = [word for word, split in SPLIT_NAMES.items() if split in splits]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=_NEAR)
    return f"; did you mean {near[0]} by {name}?" if near else ""


def _check_train(train: Path | None, others: list[Path]) -> None:
    """Refuse a folder ``train`` of images alone that has other folders of images beside it."""
    if train is None or any(p.is_dir() for p in visible(_inner(train, "train"))):
        return
    if beside := [path.name for path in others if _holds_images(path)]:
        raise TutelageError(
            f"{train} holds no class folders, but {beside[0]} lies beside it; move the class "
            f"folders into {train} (a class must not be called {train.name}), or give a table with "
            "the columns image and label"
        )


def _check_task(folder: Path) -> None:
    """Refuse images whose objects are marked, with boxes or masks in a folder beside them."""
    folders = [path.name for path in visible(folder) if path.is_dir()]
    pictures = [name for name in folders if name.lower() in _PICTURES]
    drawn = [name for name in folders if name.lower() in _DRAWN]
    if pictures and drawn:
        raise TutelageError(
            f"{folder} holds {pictures[0]} and {drawn[0]}, which look like boxes or masks of "
            "objects (YOLO, VOC, COCO); tutelage learns one class for each image. Put the images "
            "into class folders (train/<class>/*.jpg), or give a table with the columns image and "
            "label"
        )


def _check_names(place: Path, folders: Iterable[Path]) -> None:
    """Refuse folders in the place of classes that seem to be splits, such as ``seg_train``."""
    mentioned = {path.name: split_words(path.name) - {""} for path in folders}
    named = sorted(name for name, splits in mentioned.items() if splits)
    if {"train"} < set().union(*mentioned.values()):
        raise TutelageError(
            f"{place} holds {' and '.join(named[:5])}, which look like splits, not classes; call "
            "them train, val and test, with class folders in them, or give a table with the "
            "columns image and label"
        )
