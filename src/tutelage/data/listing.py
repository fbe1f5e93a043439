"""What every reader of DATA takes and gives: a path that was looked at, a listing of files."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tutelage.config import TableConfig, option
from tutelage.data.catalog import Catalog, make_catalog, split_of
from tutelage.data.layout import as_text, files_below, is_image, split_words
from tutelage.data.sources import FileSource
from tutelage.system.errors import TutelageError
from tutelage.system.words import are, counted

LEFT_OUT = (
    "classify such images with tutelage predict, or move them into unlabeled to learn from them"
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # a drive of Windows has one letter
_UPLOADED = re.compile(r"(?:^|/)data/upload/(?:\d+/)?([^/]+)$")
_HASH = re.compile(r"^[0-9a-f]{8}-")


@dataclass(frozen=True)
class Given:
    """The path that a person gave as DATA, and what shows of it without a look at images."""

    path: Path
    asked: TableConfig
    unused: list[str] = field(default_factory=list)  # why tables beside the images are not used

    @cached_property
    def is_folder(self) -> bool:
        """Whether it is a folder, and not a file."""
        return self.path.is_dir()

    @cached_property
    def suffix(self) -> str:
        """The suffix of a file, in lower case; empty for a folder."""
        return "" if self.is_folder else self.path.suffix.lower()

    @cached_property
    def kinds(self) -> set[str]:
        """The suffixes of the files below a folder, or "image" alone where one is an image."""
        found = set()
        for file in files_below(self.path, []) if self.is_folder else ():
            if is_image(file):
                return {"image"}
            found.add(os.path.splitext(file)[1])
        return found

    @cached_property
    def json(self) -> Any:
        """The content of a JSON file, or None; TutelageError if it is not readable."""
        if self.suffix != ".json":
            return None
        try:
            return json.loads(self.path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise TutelageError(f"{self.path} is not readable JSON: {error}") from error

    @property
    def keys(self) -> set[str]:
        """The keys of a JSON file that holds an object."""
        return {*self.json} if isinstance(self.json, dict) else set()

    def check_no_table(self) -> None:
        """Refuse to pass over what was asked of a table where none is read."""
        if asked := [name for name, value in asdict(self.asked).items() if value is not None]:
            why = "; ".join(self.unused) or f"take out {option(asked[0])}"
            mark = ":" if self.unused else ";"
            raise TutelageError(f"no table of images and labels in {self.path}{mark} {why}")


@dataclass
class Listing:
    """Image files, and what a table, a tool or their folders say of each."""

    names: list[str] = field(default_factory=list)  # in the catalog
    paths: list[str] = field(default_factory=list)  # one may not exist: it cannot be read, then
    labels: list[str] = field(default_factory=list)  # empty = unlabelled
    splits: list[str] = field(default_factory=list)  # as in ``catalog.SPLIT_NAMES``; empty = train
    warnings: list[str] = field(default_factory=list)  # what a user should know, and do about it

    def add(self, name: str, path: str, label: str = "", split: str = "") -> None:
        """List one more image."""
        self.names.append(name)
        self.paths.append(path)
        self.labels.append(label)
        self.splits.append(split)

    def catalog(self, where: Path | str) -> Catalog:
        """The catalog of these files, which errors call ``where``."""
        source = FileSource(tuple(self.paths))
        splits = self.splits or [""] * len(self.names)
        return make_catalog(str(where), self.names, self.labels, splits, source, self.warnings)


@dataclass(frozen=True)
class Found:
    """An image on the disk."""

    path: str
    name: str  # as ``Images.name`` calls it


class Images:
    """The image files below a folder, found by what a table or a tool calls them."""

    def __init__(self, data: Path, asked: str | None, splits: Collection[str] = ()) -> None:
        """Look in ``--image-root`` or beside ``data``, first in the folders of the ``splits``."""
        own = data if data.is_dir() else data.parent
        self.root = Path(asked) if asked else own
        self._data, self._splits = data, set(splits)
        if not self.root.is_dir():
            raise TutelageError(
                f"--image-root {self.root} is not a folder; give the folder of the images"
            )

    def find(self, image: str, file: str = "") -> Found | None:
        """The file of an image, or None: ``file`` if it is there, or else what ``image`` fits."""
        for path in (file, str(self.root / path_in(image))):
            if path and os.path.isfile(path):
                return Found(path, self.name(path))
        fits = self._fits(image)
        if len(fits) > 1:
            meant = [path for path in fits if split_words(os.path.dirname(path)) & self._splits]
            fits = meant or fits
        if len(fits) > 1:
            raise TutelageError(
                f"{self._data}: {image} may be {fits[0]} or {fits[1]} in {self.root}; give the "
                "folder that the listed paths start from with --image-root, or list its suffix, too"
            )
        return self._found(fits[0]) if fits else None

    def none_found(self, listed: Sequence[str]) -> TutelageError:
        """The error where none of the listed images is there."""
        return TutelageError(
            f"{self._data}: none of the {len(listed)} images is found in {self.root} (first: "
            f"{listed[0]}); give the folder that the paths start from with --image-root"
        )

    def absent(self, image: str) -> Found:
        """Where an image would lie that is not there."""
        path = path_in(image)
        return Found(str(self.root / path), path)

    def besides(self, taken: Iterable[str]) -> list[Found]:
        """The images below the folder that are not among the paths ``taken``."""
        known = {os.path.abspath(path) for path in taken}
        # Where none of them lies below it, the folder has nothing to do with them.
        if not any(Path(path).is_relative_to(os.path.abspath(self.root)) for path in known):
            return []
        every = map(self._found, self._paths)
        return [found for found in every if os.path.abspath(found.path) not in known]

    def _fits(self, image: str) -> list[str]:
        """The paths below the folder that fit best what an image is called; one, if that is clear.

        A path fits whose end is the listed path, or the other way round: a folder may have been
        copied from deeper down, or higher up. The suffix may be missing. Of an upload to Label
        Studio only the name is left, behind a hash, as Django writes it.
        """
        listed = path_in(image)
        if uploaded := _UPLOADED.search(listed):
            whole = uploaded[1]
            return self._by_name.get(whole) or self._by_name.get(_HASH.sub("", whole)) or []
        parts, shared = _parts(listed), {}
        for path in self._by_name.get(parts[-1], []) if parts else []:
            own = _parts(path if is_image(listed) else os.path.splitext(path)[0])
            least = min(len(own), len(parts))
            if own[-least:] == parts[-least:]:
                shared[path] = least
        most = max(shared.values(), default=0)
        return [path for path, count in shared.items() if count == most]

    @cached_property
    def _paths(self) -> list[str]:
        """The path of every image, below the folder."""
        start = 0 if self.root == Path() else len(os.path.join(self.root, ""))
        return [path[start:] for path in files_below(self.root, []) if is_image(path)]

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The paths by the name of the file, with and without its suffix, and as it is uploaded."""
        found = defaultdict(list)
        for path in self._paths:
            name = _composed(os.path.basename(path))
            for key in {name, os.path.splitext(name)[0], _as_uploaded(name)}:
                found[key].append(path)
        return found

    def _found(self, path: str) -> Found:
        return Found(os.path.join(self.root, path), as_text(path.replace(os.sep, "/")))

    def name(self, path: str) -> str:
        """A file's path below the folder, or the whole path if it lies outside."""
        whole, root = os.path.abspath(path), os.path.abspath(self.root)
        inside = Path(whole).is_relative_to(root)
        return as_text((os.path.relpath(whole, root) if inside else path).replace(os.sep, "/"))


def find_images(listing: Listing, table: Path, asked: str | None) -> None:
    """Find a table's images: where it says or, if none is there, in the folders below."""
    images = Images(table, asked, split_words(table.stem) or {"train"})
    listing.names = [name.replace("\\", "/") for name in listing.names]
    listing.paths = [str(images.root / name) for name in listing.names]
    if not listing.names or any(map(os.path.isfile, listing.paths)):
        return
    found = [images.find(name) for name in listing.names]
    if not any(found):
        found = [images.find(name) for name in _without_common_folder(listing.names)]
    there = [image for image in found if image is not None]
    if not there:
        raise images.none_found(listing.names)
    said = Path(listing.paths[found.index(there[0])])
    for row, image in enumerate(found):
        if image is not None:
            listing.names[row], listing.paths[row] = image.name, image.path
    if said.parent != Path(there[0].path).parent:  # and not only its suffix was missing
        listing.warnings.insert(
            0, f"the images of {table} lie elsewhere, and were found (first: {there[0].path})"
        )


def _without_common_folder(names: list[str]) -> list[str]:
    """Whole paths, as another machine has them, without the folder that all of them lie in."""
    if not all(PureWindowsPath(name).root for name in names):  # knows / and drives
        return names
    common = os.path.commonpath([name.rpartition("/")[0] + "/" for name in names])
    return [name.removeprefix(common).lstrip("/") for name in names]


def add_unlisted(
    listing: Listing,
    images: Images,
    left_out: Iterable[str],
    is_pool: Callable[[Found], bool],
    mend: str = LEFT_OUT,
) -> None:
    """Add the images that are not listed as a pool, or say that they are left out."""
    pool: list[Found] = []
    rest: list[Found] = []
    for other in images.besides([*listing.paths, *left_out]):
        (pool if is_pool(other) else rest).append(other)
    for other in pool:
        listing.add(other.name, other.path)
    for others, done in ((pool, "taken as unlabelled"), (rest, f"left out; {mend}")):
        if others:
            listing.warnings.append(
                f"{counted(len(others), 'image')} in {images.root} {are(len(others))} not listed "
                f"(first: {others[0].name}): {done}"
            )


def path_in(image: str) -> str:
    """The path in what a tool calls an image; that of ``/data/upload/`` stays whole."""
    text = image.strip().replace("\\", "/")
    if "/data/local-files/" in text:
        return "".join(parse_qs(urlsplit(text).query).get("d", [])[:1])
    if _URL.match(text):
        url = urlsplit(text)
        web = url.scheme in ("http", "https")
        return (unquote(url.path) if web else url.path).lstrip("/")
    return unquote(text).lstrip("/") if _UPLOADED.search(text) else text


def split_by_folder(name: str) -> str:
    """The split whose folder an image lies in, "train" for a pool's; "" where that is none's."""
    first, _, rest = name.partition("/")
    split = split_of(first) if rest else None
    return "" if split is None else split or "train"


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(_composed(path).replace(os.sep, "/").lstrip("/")).parts


def _composed(name: str) -> str:
    """The same text for a name as macOS writes it, with accents and Hangul taken apart."""
    return unicodedata.normalize("NFC", name)


def _as_uploaded(name: str) -> str:
    """What Django's ``get_valid_filename`` makes of a name."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))
