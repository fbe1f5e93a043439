"""What lies in a folder and below it, and what the names there say: images, splits, neither."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tutelage.data.catalog import SPLIT_NAMES, split_of
from tutelage.data.decode import SUFFIXES

# What macOS, Windows and Synology leave beside images.
_JUNK = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}
RESULTS = {"config.json", "events.jsonl"}  # what a folder holds that a run works or worked in


def is_hidden(name: str) -> bool:
    """Whether a file or folder is nothing that its owner put there to be seen."""
    return name.startswith(".") or name.lower() in _JUNK


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in order, without what is hidden."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))


def folders_in(folder: Path) -> list[Path]:
    """The visible folders in a folder, in order."""
    return [path for path in visible(folder) if path.is_dir()]


def is_image(path: str) -> bool:
    """Whether a file is named like an image; decoding says of some of these why they are not."""
    return path.lower().endswith(SUFFIXES)


def as_text(name: str) -> str:
    """A file name as text: Linux allows names that are not text; tables and reports do not."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def split_words(name: str) -> set[str]:
    """The splits that a name such as ``train_images`` or ``seg_test`` mentions; "" is the pool."""
    return {SPLIT_NAMES[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_NAMES}


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


def files_below(folder: Path | str, closed: list[str]) -> Iterator[str]:
    """Yield every visible file below ``folder``, and everything else that is not a folder.

    Links to files are followed. ``folder`` itself may be a link, or not exist. ``closed`` takes the
    folders that are links, which could lead anywhere and in circles, or that cannot be listed. The
    results of a run below it are passed over: its pictures are copies, and name no class.
    """
    todo = [str(folder)]  # os.walk recurses, and deep trees exhaust Python's stack before 3.12
    while todo:
        parent = todo.pop()
        try:
            with os.scandir(parent) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            closed.append(parent)
            continue
        if parent != str(folder) and {entry.name for entry in entries} >= RESULTS:
            continue
        folders = []
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.is_symlink() and os.path.isdir(entry.path):
                closed.append(entry.path)
            else:
                yield entry.path
        todo += reversed(folders)


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, in order; other files and linked folders are passed over."""
    return [Path(path) for path in files_below(folder, []) if is_image(path)]
