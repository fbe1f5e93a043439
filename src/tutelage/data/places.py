"""Where the images lie that a table names."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from tutelage.data.folder import files_below
from tutelage.data.layout import images_root, is_image, split_words
from tutelage.system.errors import TutelageError


@dataclass(frozen=True)
class Places:
    """The images of a table, in its order."""

    names: list[str]  # as the table names them, with / and the suffix of the file
    paths: list[str]  # one may not exist: it is listed as an image that cannot be read
    warnings: list[str]


def find_images(table: Path, images: Sequence[str], root: str | None = None) -> Places:
    """Find a table's images from its own folder on, or from ``root`` on.

    They are looked for there and, if none is there, in the folders below it. A table may leave out
    the suffix of an image, and paths that are whole may come from another machine.

    Raises:
        TutelageError: none exists, the same names are found in several folders, or a name without
            suffix fits several images.
    """
    start = images_root(root, table.parent)
    names = [image.replace("\\", "/") for image in images]
    paths = [str(start / name) for name in names]
    if not paths or any(os.path.exists(path) and not os.path.isdir(path) for path in paths):
        return Places(names, paths, [])
    names, found = _without_common_folder(names), _Found(start)
    homes = [found.homes(name) for name in names]
    if not any(homes):
        raise TutelageError(
            f"{table}: none of the {len(names)} images exists (first: {paths[0]}); paths are "
            f"relative to {'the manifest' if root is None else start}, and --image-root names "
            "another folder"
        )
    chosen = _chosen(table, homes)
    placed = []
    for name, of in zip(names, homes, strict=True):
        home = next((home for home in chosen if home in of), chosen[0])
        fits = of.get(home, [name])
        if len(fits) > 1:
            first, second, *_ = sorted(fits)
            raise TutelageError(
                f"{table}: {name} may be {first} or {second} in {start / home}; write the suffix "
                "in the table as well, or name a folder that holds only one with --image-root"
            )
        placed.append((home, fits[0]))
    shown = ", ".join(str(start / home) for home in chosen[:5])
    said = [f"the images of {table} were found in {shown}"] if chosen != [""] else []
    return Places(
        names=[name for _, name in placed],
        paths=[str(start / home / name) for home, name in placed],
        warnings=said,
    )


def _without_common_folder(names: list[str]) -> list[str]:
    """Paths that are all whole, without the folder that all of them lie in."""
    if not all(PureWindowsPath(name).root for name in names):  # knows / and drives
        return names
    common = os.path.commonpath([name.rpartition("/")[0] + "/" for name in names])
    return [name.removeprefix(common).lstrip("/") for name in names]


class _Found:
    """The image files below a folder, by what a table may call them."""

    def __init__(self, start: Path) -> None:
        self.by_name: dict[str, list[str]] = defaultdict(list)
        for file in files_below(start, []):
            if is_image(file):
                path = os.path.relpath(file, start).replace(os.sep, "/")
                base = path.rpartition("/")[2]
                for name in (base, os.path.splitext(base)[0]):
                    self.by_name[_composed(name)].append(path)

    def homes(self, name: str) -> dict[str, list[str]]:
        """The folders in which an image of this name lies -> the name with its suffix.

        There are several where the name lacks its suffix, and no file is called exactly so.
        """
        plain = _composed(name.removeprefix("./"))
        depth = plain.count("/") + 1
        whole, found = defaultdict(list), defaultdict(list)
        for path in self.by_name.get(plain.rpartition("/")[2], ()):
            parts = path.split("/")
            end = "/".join(parts[-depth:])
            home = "/".join(parts[:-depth])
            if plain == _composed(end):
                whole[home].append(end)
            elif plain == _composed(os.path.splitext(end)[0]):
                found[home].append(end)
        return {**found, **whole}


def _composed(name: str) -> str:
    """The same text for a name as macOS writes it, with accents and Hangul taken apart."""
    return unicodedata.normalize("NFC", name)


def _chosen(table: Path, homes: Sequence[Collection[str]]) -> list[str]:
    """The folder that holds all images that exist, or those that hold a part each."""
    counts = Counter(home for of in homes for home in of)
    wanted = sum(map(bool, homes))
    if counts.total() == wanted:
        return [home for home, _ in counts.most_common()]
    whole = [home for home, count in counts.items() if count == wanted]
    splits = split_words(table.stem) or {"train"}
    if len(whole) > 1:
        whole = [home for home in whole if split_words(home) & splits]
    if len(whole) != 1:
        raise TutelageError(
            f"images that {table} names lie in several folders: {', '.join(sorted(counts)[:5])}; "
            "say which one with --image-root"
        )
    return whole
