"""A pool of images as shards: tars, Parquet files and blocks of folders, here or in object stores.

A shard is a unit of work: it is read once, from its start to its end, by one process. One that lies
in an object store is copied to a nameless temporary file first, in large requests: a tar is
then indexed and read like a local one, nothing is read twice, and a killed process leaves nothing.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import itertools
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NoReturn, TypeAlias

import numpy as np

from tutelage.data.columns import holds_bytes, open_parquet, undamaged
from tutelage.data.decode import MAX_BYTES, SUFFIXES, UnreadableImage
from tutelage.data.layout import as_text, files_below
from tutelage.data.open import FILES, read_catalog
from tutelage.data.sources import Source, bytes_in, read_file, selected
from tutelage.data.tars import Member, index_tar, read_member, tar_images
from tutelage.system.errors import TutelageError
from tutelage.system.storage import Place, as_oserror, file_system, size_in, state_of
from tutelage.system.words import did_you_mean

BLOCK = 4096  # files of a folder in one shard
_ROWS = 64  # rows of a Parquet file in memory at once
_NAMES = ("file", "key", "__key__")  # columns that name a Parquet row's image

Read = Callable[[], bytes]


@dataclass(frozen=True)
class FileShard:
    """A shard that is one file: a WebDataset tar, or a Parquet file with a column ``image``."""

    place: Place

    @property
    def name(self) -> str:
        """The path or URL; the same from any working directory."""
        return self.place.name

    def fingerprint(self) -> str:
        """Return a cheap text that changes when the bytes may have changed, or raise OSError."""
        return self.place.fingerprint()

    @contextmanager
    def opened(self, stop: threading.Event) -> Iterator[Iterator[tuple[str, Read]]]:
        """Open the shard: gives each image's name in it and a function that reads its bytes.

        Several threads may call these functions while the shard is open; they raise OSError or
        UnreadableImage, also to say why an image is refused. ``stop`` ends the copying of a remote
        shard.
        """
        with self.place.opened(stop) as file:
            yield _FORMATS[_suffix(self.name)](file, self.name)


@dataclass(frozen=True)
class FolderShard:
    """A block of a folder's image files."""

    place: Place  # the folder
    number: int  # which block it is, from 0
    files: Sequence[str]  # paths relative to the folder, sorted
    states: Sequence[str] = ()  # of remote files, what the listing said about each

    @property
    def name(self) -> str:
        """The folder and the number of the block; the same from any working directory."""
        return f"{self.place.name}#{self.number}"

    def fingerprint(self) -> str:
        """Return a digest of the files' names, sizes and times."""
        digest = hashlib.blake2b(digest_size=16)
        for file, state in zip(self.files, self.states or map(self._stat, self.files), strict=True):
            digest.update(f"{file}\0{state}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    @contextmanager
    def opened(self, stop: threading.Event) -> Iterator[Iterator[tuple[str, Read]]]:
        """Give the files as ``FileShard`` does; reading one waits in the thread that decodes it.

        Where a store does not give a file that it has, reading raises a TutelageError that is no
        UnreadableImage: that is not the image's fault, and another time it may.
        """
        if self.place.remote:
            both = zip(self.files, self.states, strict=True)
            yield ((as_text(file), partial(self._fetch, file, state)) for file, state in both)
        else:
            yield ((as_text(file), partial(self._read, file)) for file in self.files)

    def _stat(self, file: str) -> str:
        try:
            return Place(os.path.join(self.place.name, file), remote=False).fingerprint()
        except OSError as error:
            return str(error.errno)

    def _read(self, file: str) -> bytes:
        return read_file(os.path.join(self.place.name, file))

    def _fetch(self, file: str, state: str) -> bytes:
        _refuse_large(size_in(state))
        try:
            with as_oserror(f"{self.place.name.rstrip('/')}/{file}"):
                system, path = self.place.system
                content: bytes = system.cat_file(f"{path.rstrip('/')}/{file}")
                return content
        except FileNotFoundError:
            raise
        except OSError as error:
            raise TutelageError(str(error)) from error


@dataclass(frozen=True)
class CatalogShard:
    """A block of the images that a table or another tool's file lists, or of any other DATA."""

    place: Place  # what was given as DATA
    number: int  # which block it is, from 0
    names: Sequence[str]
    source: Source

    @property
    def name(self) -> str:
        """The path of DATA and the number of the block; the same from any working directory."""
        return f"{self.place.name}#{self.number}"

    def fingerprint(self) -> str:
        """Return a digest of the images' names and of what their source says of each."""
        digest = hashlib.blake2b(digest_size=16)
        for row, name in enumerate(self.names):
            text = f"{name}\0{self.source.signature(row)}\0"
            digest.update(text.encode(errors="surrogateescape"))
        return digest.hexdigest()

    @contextmanager
    def opened(self, stop: threading.Event) -> Iterator[Iterator[tuple[str, Read]]]:
        """Give the images as ``FileShard`` does."""
        yield ((name, partial(self.source.read, row)) for row, name in enumerate(self.names))


Shard: TypeAlias = FileShard | FolderShard | CatalogShard


def find_shards(images: Iterable[str | os.PathLike[str]]) -> list[Shard]:
    """The shards of a pool, in the order of ``images`` and sorted within each.

    These are tars, Parquet files, folders of images or of such shards, as paths or as URLs that
    fsspec knows; ``*``, ``?``, ``[...]``, ``{000..099}`` and ``{a,b}`` stand for several. A path
    may also be anything else that ``open.READERS`` read, such as a table.
    """
    shards: list[Shard] = []
    try:
        for one in images:
            for place in _places(os.fspath(one)):
                shards += _shards_at(place)
    except OSError as error:
        raise TutelageError(
            f"the images cannot be listed: {error}; run the same command again when they can be"
        ) from error
    if not shards:
        raise TutelageError("no images are named; name tars, Parquet files, or folders of images")
    (name, count), *_ = Counter(shard.name for shard in shards).most_common(1)
    if count > 1:
        raise TutelageError(f"{name} is named twice; name it once")
    return shards


def braces(text: str) -> list[str]:
    """Write out ``{a,b}`` and ``{000..099}`` as a shell does; a padded bound pads all numbers."""
    found = re.search(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}", text)
    if found is None:
        return [text]
    inner = found.group(1)
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if span:
        first, last = span.groups()
        width = max(map(len, (first, last))) if {first[0], last[0]} & {"0"} else 0
        words = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    else:
        words = inner.split(",")
    head, tail = text[: found.start()], text[found.end() :]
    return [head + word + rest for word in words for rest in braces(tail)]


def may_hold(images: str | os.PathLike[str], place: Place) -> bool:
    """Whether a pattern of ``find_shards`` stands for a place, or for a folder that it is in."""
    patterns = [Place.at(one).absolute().name for one in braces(os.fspath(images))]
    parts = place.absolute().name.rstrip("/").split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(name, one) for one in patterns for name in above)


def _places(text: str) -> list[Place]:
    place = Place.at(text)
    if place.remote:
        return _remote_places(text)
    text = place.name
    if os.path.exists(text):
        return [place.absolute()]
    found: list[str] = []
    for one in braces(text):
        matches = sorted(glob.glob(one, recursive=True)) if glob.has_magic(one) else [one]
        if not matches or not os.path.exists(matches[0]):
            raise TutelageError(f"no such file or folder: {one}{did_you_mean(one)}")
        found += matches
    return [Place(os.path.abspath(path), remote=False) for path in found]


def _remote_places(text: str) -> list[Place]:
    found: list[str] = []
    for one in braces(text):
        system, path = file_system(one)
        if not glob.has_magic(path):
            found.append(one)
            continue
        with as_oserror(one):
            system.invalidate_cache()  # another command of this process may have listed it
            matches = sorted(system.glob(path))
        if not matches:
            raise TutelageError(f"nothing matches {one}; expected the address of shards or folders")
        # Before the path a URL may name its server, or its account, which a match does not.
        head, inside, _ = one.rpartition(path)
        if not inside:
            raise TutelageError(
                f"{one}: this kind of address takes no patterns; name each shard, or their folder"
            )
        found += [head + match for match in matches]
    return [Place(url.rstrip("/"), remote=True) for url in found]


def _shards_at(place: Place) -> list[Shard]:
    folder = not place.remote and os.path.isdir(place.name)
    if not folder and _suffix(place.name) in _FORMATS:
        with suppress(TutelageError):  # what is damaged fails later, and alone
            if not place.remote and not _holds_images(place.name):
                return _listed(place)
        return [FileShard(place)]
    if re.search(r"\.tgz$|\.tar\.\w+$", place.name.lower()):
        raise TutelageError(
            f"{place.name} is a compressed tar, which allows no seeking, and images get no "
            "smaller; unpack it to a plain .tar (gunzip)"
        )
    if not folder and not place.remote:
        if _suffix(place.name) in FILES:
            return _listed(place)
        raise TutelageError(
            f"{place.name} is not a .tar or .parquet shard, nor a table; for images, give their "
            "folder or use tutelage predict"
        )
    files = dict(_remote_files(place) if place.remote else _local_files(place.name))
    root = place.name.rstrip("/")
    inside = [f"{root}/{file}" for file in sorted(files) if _suffix(file) in _FORMATS]
    images = sorted(file for file in files if _suffix(file) in SUFFIXES)
    if inside and images:
        raise TutelageError(
            f"{place.name} holds shards ({inside[0]}) and images ({images[0]}); name the "
            "shards, or move them to a folder of their own"
        )
    if not inside and not images:
        if folder:
            return _listed(place)
        raise TutelageError(
            f"no images in {place.name}; expected a .tar or .parquet shard, or a folder of "
            "shards or of images"
        )
    blocks = (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))
    return [FileShard(Place(name, place.remote)) for name in inside] or [
        FolderShard(place, number, block, [files[f] for f in block] if place.remote else ())
        for number, block in enumerate(blocks)
    ]


def _holds_images(name: str) -> bool:
    """Whether a shard holds the images themselves: a Parquet file may hold their paths."""
    if _suffix(name) != ".parquet":
        return True
    schema = open_parquet(name).schema_arrow
    return "image" in schema.names and holds_bytes(schema.field("image").type)


def _listed(place: Place) -> list[Shard]:
    """The images of any other DATA, whatever their labels and splits."""
    catalog = read_catalog(place.name)
    shards: list[Shard] = []
    for number, start in enumerate(range(0, len(catalog), BLOCK)):
        rows = np.arange(start, min(start + BLOCK, len(catalog)))
        source = selected(catalog.source, rows)
        shards.append(CatalogShard(place, number, catalog.names[start : start + BLOCK], source))
    return shards


def _local_files(root: str) -> Iterator[tuple[str, str]]:
    """The visible images and shards below a folder, relative to it."""
    closed: list[str] = []
    for path in files_below(root, closed):
        if _suffix(path) in (*SUFFIXES, *_FORMATS):
            yield os.path.relpath(path, root).replace(os.sep, "/"), ""
    if closed:
        raise TutelageError(
            f"{closed[0]} is a link to a folder or cannot be opened; take it out, and name the "
            "folder it leads to as well"
        )


def _remote_files(place: Place) -> Iterator[tuple[str, str]]:
    """The same in an object store, with what its listing says about each file."""
    with as_oserror(place.name):
        system, root = place.system
        system.invalidate_cache()
        found = system.find(root, detail=True)
    root = root.rstrip("/")
    for path, info in found.items():
        below = path[len(root) :].lstrip("/")
        hidden = any(part.startswith(".") for part in below.split("/"))
        if below and not hidden and _suffix(below) in (*SUFFIXES, *_FORMATS):
            yield below, state_of(info)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _in_tar(file: BinaryIO, name: str) -> Iterator[tuple[str, Read]]:
    """The images of a tar in its order, then the members that are refused."""
    index = index_tar(file, name)
    images = [image for image, _label in tar_images(index.members)]
    if not images and not index.refused:
        raise TutelageError(f"{name} has no images")
    lock = threading.Lock()
    return itertools.chain(
        ((image.name, partial(_member, file, lock, image)) for image in images),
        ((member, partial(_refuse, reason)) for member, reason in index.refused),
    )


def _member(file: BinaryIO, lock: threading.Lock, member: Member) -> bytes:
    _refuse_large(member.size)
    with lock:
        return read_member(file, member)


def _refuse_large(size: int) -> None:
    if size > MAX_BYTES:
        raise UnreadableImage(f"its file has {size} bytes; at most {MAX_BYTES} are read")


def _refuse(reason: str) -> NoReturn:
    raise UnreadableImage(reason)


def _in_parquet(file: BinaryIO, name: str) -> Iterator[tuple[str, Read]]:
    """The rows of a Parquet file, named by one of ``_NAMES``, or by "#" and the row's number."""
    table = open_parquet(name, file)
    columns = table.schema_arrow.names
    if "image" not in columns:
        raise TutelageError(f"{name} lacks the column image; found: {', '.join(columns)}")
    kind = table.schema_arrow.field("image").type
    if not holds_bytes(kind):
        raise TutelageError(
            f"{name}: column image holds {kind}; expected bytes or struct<bytes, path>. "
            "Instead of a manifest of paths, give the folder of the images"
        )
    if not table.metadata.num_rows:
        raise TutelageError(f"{name} has no images")
    named = [column for column in _NAMES if column in columns][:1]
    row = 0
    with undamaged(name):
        for batch in table.iter_batches(_ROWS, columns=["image", *named]):
            texts = batch.column(1).to_pylist() if named else [None] * len(batch)
            for value, text in zip(batch.column(0), texts, strict=True):
                yield str(text or f"#{row}"), partial(_cell, value)
                row += 1


def _cell(value: Any) -> bytes:
    content = bytes_in(value.as_py())
    if content is None:
        raise UnreadableImage("the row has no image bytes")
    return content


_FORMATS: dict[str, Callable[[BinaryIO, str], Iterator[tuple[str, Read]]]] = {
    ".tar": _in_tar,
    ".parquet": _in_parquet,
}
