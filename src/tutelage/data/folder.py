"""A folder tree of images as a catalog, and the files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tutelage.data import layout
from tutelage.data.catalog import SPLITS, Catalog, alike, make_catalog, split_of
from tutelage.data.layout import is_hidden, is_image, leads_up, visible
from tutelage.data.sources import FileSource
from tutelage.system.errors import TutelageError
from tutelage.system.words import are, counted

_RESULTS = {"config.json", "events.jsonl"}  # what a folder holds that a run works or worked in
PACKED = (".zip", ".rar", ".7z", ".gz", ".tgz", ".bz2", ".xz", ".zst")


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
                    if any({*files} >= _RESULTS for _, _, files in os.walk(folder))
                    else f"class folder {self.name(folder)} is empty: left out; add images or "
                    "delete it"
                )

    def add_loose(self, folder: Path, *, taken: bool, beside: str) -> None:
        """Look at what lies beside class folders; its images are taken as a pool, or left out.

        ``beside`` names the splits that lie beside a pool, if any.
        """
        loose = [str(path) for path in visible(folder) if not path.is_dir()]
        images = sorted(path for path in loose if is_image(path))
        self.ignored += [path for path in loose if not is_image(path)]
        if taken:
            self.rows += [(path, "", "train") for path in images]
            if images and beside:
                self.warnings.append(
                    f"{counted(len(images), 'image')} beside {beside} (first: {images[0]}): taken "
                    "as unlabelled images to learn from"
                )
        elif images:
            self.warnings.append(
                f"{counted(len(images), 'image')} outside a class folder (first: {images[0]}): "
                "left out; move such images into a class folder or into unlabeled"
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
        self.closed += [str(path) for path in found if leads_up(path)]
        return [path for path in found if not leads_up(path)]

    def name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def catalog(self) -> Catalog:
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
        paths, labels, splits = zip(*self.rows, strict=True)
        self.rows.clear()
        start = 0 if root == Path() else len(os.path.join(root, ""))
        names = [as_text(path[start:].replace(os.sep, "/")) for path in paths]
        return make_catalog(str(root), names, labels, splits, FileSource(paths), warnings)


def read_folder(root: Path) -> Catalog:
    """The catalog of a folder tree.

    It holds ``train/<class>/**``, ``unlabeled/**``, ``val/<class>/**`` and ``test/<class>/**``, or
    other names of these splits (``catalog.SPLIT_NAMES``); a bare ``<class>/**`` tree means train,
    and images that lie in the folder itself are an unlabelled pool where no folder beside them
    holds images, or val and test alone do. Where all of this lies in a folder alone in ``root``, it
    is found there.

    Raises:
        TutelageError: no images, class folders beside a folder ``val`` or ``test``, two folders
            for one split, or folders of another task.
    """
    found, place = _Tree(root), layout.unwrapped(root)
    layout.check_task(place)
    folders = found.folders(place)
    if place != root:
        shown = ", ".join(found.name(folder) for folder in folders[:5])
        found.warnings.append(f"{root} holds one folder, whose content is read; found: {shown}")
    trees = _trees(place, folders, found.warnings)
    pools, loose = [path for path in folders if split_of(path.name) == ""], [place]
    for split, tree in trees.items():
        if tree != place:
            layout.check_task(tree)
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
    return found.catalog()


def _trees(place: Path, folders: list[Path], warnings: list[str]) -> dict[str, Path]:
    """The folder that holds the class folders of each split."""
    others = [folder for folder in folders if split_of(folder.name) is None]
    splits = layout.by_split(folders)
    if splits and "train" not in splits:  # a folder without images is no class: runs lie there
        others = [path for path in others if any(map(is_image, files_below(path, [])))]
    if "train" in splits or not others:
        _check_train(splits.get("train"), others)
        warnings += [
            f"folder {path.name} is left out: beside train only unlabeled, val and test are read"
            f"{layout.meant_split(path.name)}"
            for path in others
        ]
        return {split: layout.inner(splits[split], split) for split in SPLITS if split in splits}
    if splits:
        clash = min(tree.name for tree in splits.values())
        meant = "".join(layout.meant_split(path.name) for path in others)
        raise TutelageError(
            f"{place} holds class folders and a folder {clash}; move the class folders into "
            f"{place / 'train'} (a class must not be called {clash}){meant}"
        )
    layout.check_names(place, others)
    warnings += [
        f"folder {path.name} is taken for a class{meant}"
        for path in others
        if (meant := layout.meant_split(path.name, {""}))
    ]
    return {"train": place}


def _check_train(train: Path | None, others: list[Path]) -> None:
    """Refuse a folder ``train`` of images alone that has other folders of images beside it."""
    if train is None or any(p.is_dir() for p in visible(layout.inner(train, "train"))):
        return
    beside = [path.name for path in others if any(map(is_image, files_below(path, [])))]
    if beside:
        raise TutelageError(
            f"{train} holds no class folders, but {beside[0]} lies beside it; move the class "
            f"folders into {train} (a class must not be called {train.name}), or give a table with "
            "the columns image and label"
        )


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
        if parent != str(folder) and {entry.name for entry in entries} >= _RESULTS:
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


def as_text(name: str) -> str:
    """A file name as text: Linux allows names that are not text; tables and reports do not."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")
