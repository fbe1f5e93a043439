"""Where the images of an annotation file lie: its tool may have renamed, uploaded or moved them."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from tutelage.data.catalog import split_of
from tutelage.data.folder import as_text, files_below
from tutelage.data.layout import is_image
from tutelage.system.errors import TutelageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # a drive of Windows has one letter
_UPLOADED = re.compile(r"(?:^|/)data/upload/(?:\d+/)?([^/]+)$")
_HASH = re.compile(r"^[0-9a-f]{8}-")


@dataclass(frozen=True)
class Found:
    """An image on the disk."""

    path: str
    name: str  # its path below the folder that was searched, or the whole path if it lies outside


class Images:
    """The images below a folder, found by what an annotation file calls them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, image: str, file: str = "") -> Found | None:
        """The file of an image, or None: ``file`` if it is there, or else what ``image`` fits.

        It fits a path below the folder, and a file whose own path ends as it does, or the other
        way round: a folder may have been copied from deeper down, or higher up. Of an upload to
        Label Studio only the name is left, behind a hash, as Django writes it.

        Raises:
            TutelageError: it fits several files.
        """
        if file and os.path.isfile(file):
            return Found(file, self._name(file))
        path = self.root / path_in(image)
        if os.path.isfile(path):
            return Found(str(path), self._name(str(path)))
        fits = self._fits(image)
        if len(fits) > 1:
            raise TutelageError(
                f"{image} may be {fits[0]} or {fits[1]} in {self.root}; give the folder that the "
                "listed paths start from with --image-root"
            )
        return self._found(fits[0]) if fits else None

    def absent(self, image: str) -> Found:
        """Where an image would lie that is not there."""
        path = path_in(image)
        return Found(str(self.root / path), path)

    def besides(self, taken: Iterable[str]) -> list[Found]:
        """The images below the folder that are not among the paths ``taken``.

        None where none of these lies below it: then the folder has nothing to do with them.
        """
        known = {os.path.abspath(path) for path in taken}
        if not any(Path(path).is_relative_to(os.path.abspath(self.root)) for path in known):
            return []
        every = map(self._found, self._paths)
        return [found for found in every if os.path.abspath(found.path) not in known]

    @cached_property
    def _paths(self) -> list[str]:
        """The path of every image, below the folder."""
        start = len(os.path.join(self.root, ""))
        start = 0 if self.root == Path() else start
        return [path[start:] for path in files_below(self.root, []) if is_image(path)]

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The paths by the name of the file, with and without its suffix, and as it is uploaded."""
        found = defaultdict(list)
        for path in self._paths:
            name = os.path.basename(path)
            for key in {name, os.path.splitext(name)[0], _as_uploaded(name)}:
                found[key].append(path)
        return found

    def _fits(self, image: str) -> list[str]:
        """The paths that fit best; one, if it is clear what is meant."""
        listed = path_in(image)
        if uploaded := _UPLOADED.search(listed):
            whole = uploaded[1]
            return self._by_name.get(whole) or self._by_name.get(_HASH.sub("", whole)) or []
        parts = _parts(listed)
        shared = {}
        for path in self._by_name.get(parts[-1], []) if parts else []:
            own = _parts(path if is_image(listed) else os.path.splitext(path)[0])
            least = min(len(own), len(parts))
            if own[-least:] == parts[-least:]:
                shared[path] = least
        most = max(shared.values(), default=0)
        return [path for path, count in shared.items() if count == most]

    def _found(self, path: str) -> Found:
        return Found(os.path.join(self.root, path), as_text(path.replace(os.sep, "/")))

    def _name(self, path: str) -> str:
        whole, root = os.path.abspath(path), os.path.abspath(self.root)
        inside = Path(whole).is_relative_to(root)
        return as_text((os.path.relpath(whole, root) if inside else path).replace(os.sep, "/"))


def path_in(image: str) -> str:
    """The path in what a tool calls an image: a path, a URL, or Label Studio's own kinds of these.

    That of ``/data/upload/`` stays whole.
    """
    text = image.strip().replace("\\", "/")
    if "/data/local-files/" in text:
        return "".join(parse_qs(urlsplit(text).query).get("d", [])[:1])
    if _URL.match(text):
        url = urlsplit(text)
        web = url.scheme in ("http", "https")
        return (unquote(url.path) if web else url.path).lstrip("/")
    return unquote(text).lstrip("/") if _UPLOADED.search(text) else text


def split_by_folder(name: str) -> str:
    """The split whose folder an image lies in: "train" where that is no folder of a split."""
    first, _, rest = name.partition("/")
    return (split_of(first) if rest else None) or "train"


def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path.replace(os.sep, "/").lstrip("/")).parts


def _as_uploaded(name: str) -> str:
    """What Django's ``get_valid_filename`` makes of a name."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))
