"""What the folders of a tree mean: splits, pools, classes, or the data of another task."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from tutelage.data.catalog import SPLIT_NAMES, split_of
from tutelage.data.decode import SUFFIXES
from tutelage.system.errors import TutelageError

# What macOS, Windows and Synology leave beside images.
_JUNK = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}
_PICTURES = {"images", "image", "imgs", "img", "jpegimages"}
_NEAR = 0.8  # of 1: how alike a folder's name and a split's are where one may be a slip
_DRAWN = {"labels", "annotations", "annotation", "masks", "mask", "segmentationclass"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is nothing that its owner put there to be seen."""
    return name.startswith(".") or name.lower() in _JUNK


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in order, without what is hidden."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))


def is_image(path: str) -> bool:
    """Whether a file is named like an image; decoding says of some of these why they are not."""
    return path.lower().endswith(SUFFIXES)


def leads_up(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in."""
    home = Path(os.path.realpath(folder.parent))  # Path.resolve raises on links in a circle
    return folder.is_symlink() and home.is_relative_to(os.path.realpath(folder))


def split_words(name: str) -> set[str]:
    """The splits that a name such as ``train_images`` or ``seg_test`` mentions; "" is the pool."""
    return {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_NAMES}


def meant_split(name: str, splits: Collection[str] = ("", "train", "val", "test")) -> str:
    """The end of a message about a folder that is no split: which one its name is near, if any."""
    known = [word for word, split in SPLIT_NAMES.items() if split in splits]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=_NEAR)
    return f"; did you mean {near[0]} by {name}?" if near else ""


def levels(root: Path) -> Iterator[Path]:
    """Yield ``root`` and, where that holds one folder and no image, the levels below it.

    A folder called like a split is no such level, nor is a link, which could lead in circles.
    """
    while True:
        yield root
        content = visible(root)
        folders = [path for path in content if path.is_dir()]
        images = any(is_image(path.name) for path in content if path not in folders)
        if images or len(folders) != 1 or split_of(folders[0].name) is not None:
            return
        (root,) = folders
        if root.is_symlink():
            return


def images_root(asked: str | None, own: Path) -> Path:
    """The folder that images are looked for in: ``--image-root``, or else a file's ``own`` folder.

    Raises:
        TutelageError: it is no folder.
    """
    root = own if asked is None else Path(asked)
    if not root.is_dir():
        raise TutelageError(f"--image-root {root} is not a folder; give the folder of the images")
    return root


def unwrapped(root: Path) -> Path:
    """The level that holds folders for splits or several classes; ``root`` if there is none."""
    *_, place = levels(root)
    folders = [path for path in visible(place) if path.is_dir()]
    return place if len(folders) > 1 or any(split_of(f.name) is not None for f in folders) else root


def inner(tree: Path, split: str) -> Path:
    """The folder in which a split's folder holds all it has, as in Kaggle's ``train/train``."""
    content = visible(tree)
    if len(content) == 1 and content[0].is_dir() and split in split_words(content[0].name):
        return content[0]
    return tree


def by_split(folders: Iterable[Path]) -> dict[str, Path]:
    """The folder of each split, by what its name means.

    Raises:
        TutelageError: two folders mean the same split.
    """
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


def check_task(folder: Path) -> None:
    """Refuse images whose objects are marked, with boxes or masks in a folder beside them.

    Raises:
        TutelageError: it names the folders.
    """
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


def check_names(place: Path, folders: Iterable[Path]) -> None:
    """Refuse folders in the place of classes that seem to be splits, such as ``seg_train``.

    Raises:
        TutelageError: one mentions train, and another one val or test.
    """
    mentioned = {path.name: split_words(path.name) - {""} for path in folders}
    named = sorted(name for name, splits in mentioned.items() if splits)
    if {"train"} < set().union(*mentioned.values()):
        raise TutelageError(
            f"{place} holds {' and '.join(named[:5])}, which look like splits, not classes; call "
            "them train, val and test, with class folders in them, or give a table with the "
            "columns image and label"
        )
