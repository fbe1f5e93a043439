"""A folder tree of images as a catalog, and the files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.data.catalog import SPLITS, UNLABELED, Catalog, make_catalog
from tutelage.data.decode import SUFFIXES
from tutelage.data.sources import FileSource
from tutelage.system.errors import TutelageError


@dataclass
class _Tree:
    root: Path
    rows: list[tuple[str, str, str]] = field(default_factory=list)  # path, class or "", split
    ignored: list[str] = field(default_factory=list)  # files that are not images
    closed: list[str] = field(default_factory=list)  # folders that are links or cannot be opened
    warnings: list[str] = field(default_factory=list)

    def add(self, folder: Path, label: str, split: str) -> None:
        for path in files_below(folder, self.closed):
            if is_image(path):
                self.rows.append((path, label, split))
            else:
                self.ignored.append(path)

    def add_classes(self, folders: list[Path], split: str) -> None:
        for folder in sorted(folders):
            before = len(self.rows)
            self.add(folder, as_text(folder.name), split)
            if len(self.rows) == before:
                self.warnings.append(
                    f"class folder {folder.relative_to(self.root).as_posix()} is empty: left out; "
                    "add images or delete it"
                )

    def add_loose(self, folders: set[Path], *, taken: bool) -> None:
        """Look at what lies beside class folders; its images are taken as a pool, or left out."""
        loose = [str(p) for folder in folders for p in _visible(folder) if not p.is_dir()]
        images = sorted(path for path in loose if is_image(path))
        self.ignored += [path for path in loose if not is_image(path)]
        if taken:
            self.rows += [(path, "", "train") for path in images]
        elif images:
            self.warnings.append(
                f"{len(images)} images outside a class folder (first: {images[0]}) are "
                "left out; move them into a class folder or into unlabeled"
            )

    def folders(self, parent: Path) -> list[Path]:
        """The visible folders in ``parent``; links to a folder that they lie in are closed."""
        found = [path for path in _visible(parent) if path.is_dir()]
        self.closed += [str(path) for path in found if _leads_up(path)]
        return [path for path in found if not _leads_up(path)]

    def catalog(self) -> Catalog:
        warnings, root = self.warnings, self.root
        if self.ignored:
            warnings.append(
                f"{len(self.ignored)} other files are ignored (first: {min(self.ignored)})"
            )
        if self.closed:
            warnings.append(
                f"{len(self.closed)} folders are left out, since they are links or cannot be "
                f"opened (first: {min(self.closed)}); move their images here"
            )
        if not self.rows:
            raise TutelageError(
                f"no images in {root}; expected train/<class>/*.jpg, unlabeled/*.jpg, or "
                f"<class>/*.jpg{'; ' + '; '.join(warnings) if warnings else ''}"
            )
        self.rows.sort()
        paths, labels, splits = zip(*self.rows, strict=True)
        self.rows.clear()
        start = 0 if root == Path() else len(os.path.join(root, ""))
        names = [as_text(path[start:].replace(os.sep, "/")) for path in paths]
        return make_catalog(str(root), names, labels, splits, FileSource(paths), warnings)


def read_folder(root: Path) -> Catalog:
    """The catalog of a folder tree.

    It holds ``train/<class>/**``, ``unlabeled/**``, ``val/<class>/**`` and ``test/<class>/**``; a
    bare ``<class>/**`` tree means train, and images that lie in the folder itself are an unlabelled
    pool where no folder beside them holds images.

    Raises:
        TutelageError: no images, or class folders beside a folder ``val`` or ``test``.
    """
    found = _Tree(root)
    folders = {path.name: path for path in found.folders(root)}
    places = [place / name for place in (root, root / "train") for name in UNLABELED]
    pools = [place for place in places if not _leads_up(place)]
    trees = _trees(root, folders, found.warnings)
    for split, tree in trees.items():
        of_tree = [*folders.values()] if tree is root else found.folders(tree)
        found.add_classes([path for path in of_tree if path not in pools], split)
    for pool in pools:
        found.add(pool, "", "train")
    found.add_loose({root, *trees.values()}, taken=not found.rows)
    return found.catalog()


def _trees(root: Path, folders: dict[str, Path], warnings: list[str]) -> dict[str, Path]:
    """The folder that holds the class folders of each split."""
    reserved = folders.keys() & {*SPLITS, *UNLABELED}
    if "train" in folders or reserved == folders.keys():
        warnings += [
            f"folder {name} is left out: beside train only unlabeled, val and test are read"
            for name in sorted(folders.keys() - reserved)
        ]
        return {name: folders[name] for name in SPLITS if name in folders}
    if clash := sorted(reserved & {*SPLITS}):
        raise TutelageError(
            f"{root} holds class folders and a folder {clash[0]}; move the class folders into "
            f"{root / 'train'} (a class must not be called {clash[0]})"
        )
    return {"train": root}


def files_below(folder: Path | str, closed: list[str]) -> Iterator[str]:
    """Yield every visible file below ``folder``, and everything else that is not a folder.

    Links to files are followed. ``folder`` itself may be a link, or not exist. ``closed`` takes the
    folders that are links, which could lead anywhere and in circles, or that cannot be listed.
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
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
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


def is_image(path: str) -> bool:
    """Whether a file is named like an image; decoding says of some of these why they are not."""
    return path.lower().endswith(SUFFIXES)


def as_text(name: str) -> str:
    """A file name as text: Linux allows names that are not text; tables and reports do not."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _leads_up(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in."""
    home = Path(os.path.realpath(folder.parent))  # Path.resolve raises on links in a circle
    return folder.is_symlink() and home.is_relative_to(os.path.realpath(folder))
