"""A pool of images as shards: tars, Parquet files and blocks of folders, here or in object stores.

A shard is a unit of work: it is read once, from its start to its end, by one process. One that lies
in an object store is copied to a nameless temporary file first, in large requests: a tar is
then indexed and read like a local one, nothing is read twice, and a killed process leaves nothing.
"""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, NoReturn, TypeAlias

import numpy as np

from tutelage.data.columns import holds_bytes, open_parquet, undamaged
from tutelage.data.decode import MAX_BYTES, SUFFIXES, UnreadableImage
from tutelage.data.layout import as_text, files_below
from tutelage.data.open import FILES, read_catalog
from tutelage.data.sources import FileSource, Source, bytes_in, selected
from tutelage.data.tars import Member, index_tar, read_member, tar_images
from tutelage.system.errors import TutelageError
from tutelage.system.files import digest_of
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
class Block:
    """A block of images that lie in a folder, or that a table or any other DATA lists."""

    place: Place  # the folder, or what was given as DATA
    number: int  # which block it is, from 0
    names: Sequence[str]
    source: Source

    @property
    def name(self) -> str:
        """The path and the number of the block; the same from any working directory."""
        return f"{self.place.name}#{self.number}"

    def fingerprint(self) -> str:
        """Return a digest of the images' names and of what their source says of each."""
        rows = enumerate(self.names)
        return digest_of(text for row, name in rows for text in (name, self.source.signature(row)))

    @contextmanager
    def opened(self, stop: threading.Event) -> Iterator[Iterator[tuple[str, Read]]]:
        """Give the images as ``FileShard`` does."""
        yield ((name, partial(self.source.read, row)) for row, name in enumerate(self.names))


class _LocalFiles(FileSource):
    """Files that are known by their content's time alone: see ``Place.fingerprint``."""

    def signature(self, index: int) -> str:
        try:
            return Place(self.paths[index], remote=False).fingerprint()
        except OSError as error:
            return str(error.errno)


@dataclass(frozen=True)
class _RemoteFiles:
    """Files below a folder of an object store; reading one waits in the thread that decodes it.

    Where a store does not give a file that it has, reading raises a TutelageError that is no
    UnreadableImage: that is not the image's fault, and another time it may.
    """

    folder: Place
    files: Sequence[str]
    states: Sequence[str]  # what the listing said about each

    def signature(self, index: int) -> str:
        return self.states[index]

    def read(self, index: int) -> bytes:
        _refuse_large(size_in(self.states[index]))
        try:
            with as_oserror((self.folder / self.files[index]).name):
                system, path = self.folder.system
                content: bytes = system.cat_file(f"{path.rstrip('/')}/{self.files[index]}")
                return content
        except FileNotFoundError:
            raise
        except OSError as error:
            raise TutelageError(str(error)) from error


Shard: TypeAlias = FileShard | Block


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
    if not place.remote and os.path.exists(place.name):
        return [place.absolute()]
    matches = _remote_matches if place.remote else _local_matches
    found = [name for one in braces(place.name) for name in matches(one)]
    return [Place(name, place.remote).absolute() for name in found]


def _local_matches(text: str) -> list[str]:
    matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else [text]
    if not matches or not os.path.exists(matches[0]):
        raise TutelageError(f"no such file or folder: {text}{did_you_mean(text)}")
    return matches


def _remote_matches(url: str) -> list[str]:
    system, path = file_system(url)
    if not glob.has_magic(path):
        return [url.rstrip("/")]
    with as_oserror(url):
        system.invalidate_cache()  # another command of this process may have listed it
        matches = sorted(system.glob(path))
    if not matches:
        raise TutelageError(f"nothing matches {url}; expected the address of shards or folders")
    # Before the path a URL may name its server, or its account, which a match does not.
    head, inside, _ = url.rpartition(path)
    if not inside:
        raise TutelageError(
            f"{url}: this kind of address takes no patterns; name each shard, or their folder"
        )
    return [head + match.rstrip("/") for match in matches]


def _shards_at(place: Place) -> list[Shard]:
    folder = not place.remote and os.path.isdir(place.name)
    suffix = "" if folder else _suffix(place.name)
    if suffix in _FORMATS:
        with suppress(TutelageError):  # what is damaged fails later, and alone
            table = suffix == ".parquet" and not place.remote
            if table and not _has_images(open_parquet(place.name)):
                return _listed(place)
        return [FileShard(place)]
    if re.search(r"\.tgz$|\.tar\.\w+$", place.name.lower()):
        raise TutelageError(
            f"{place.name} is a compressed tar, which allows no seeking, and images get no "
            "smaller; unpack it to a plain .tar (gunzip)"
        )
    if suffix in FILES and not place.remote:
        return _listed(place)
    if not folder and not place.remote:
        raise TutelageError(
            f"{place.name} is not a .tar or .parquet shard, nor a table; for images, give their "
            "folder or use tutelage predict"
        )
    files = dict(_remote_files(place) if place.remote else _local_files(place.name))
    inside = sorted(file for file in files if _suffix(file) in _FORMATS)
    images = sorted(file for file in files if _suffix(file) in SUFFIXES)
    if inside and images:
        raise TutelageError(
            f"{place.name} holds shards ({inside[0]}) and images ({images[0]}); name the "
            "shards, or move them to a folder of their own"
        )
    if inside:
        return [FileShard(place / file) for file in inside]
    if images:
        return [
            Block(place, number, [as_text(file) for file in block], _block(place, files, block))
            for number, block in enumerate(_cut(images))
        ]
    if folder:
        return _listed(place)
    raise TutelageError(
        f"no images in {place.name}; expected a .tar or .parquet shard, or a folder of shards or "
        "of images"
    )


def _cut(images: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (images[start : start + BLOCK] for start in range(0, len(images), BLOCK))


def _block(place: Place, states: Mapping[str, str], files: Sequence[str]) -> Source:
    if place.remote:
        return _RemoteFiles(place, files, [states[file] for file in files])
    return _LocalFiles(tuple(os.path.join(place.name, file) for file in files))


def _listed(place: Place) -> list[Shard]:
    """The images of any other DATA, whatever their labels and splits."""
    catalog = read_catalog(place.name)
    return [
        Block(
            place,
            number,
            [catalog.names[row] for row in rows],
            selected(catalog.source, np.array(rows)),
        )
        for number, rows in enumerate(_cut(range(len(catalog))))
    ]


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
    for path, info in found.items():
        below = path[len(root.rstrip("/")) :].lstrip("/")
        hidden = any(part.startswith(".") for part in below.split("/"))
        if below and not hidden and _suffix(below) in (*SUFFIXES, *_FORMATS):
            yield below, state_of(info)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _in_tar(file: BinaryIO, name: str) -> Iterator[tuple[str, Read]]:
    """The images of a tar in its order, then the members that are refused."""
    members, refused = index_tar(file, name)
    images = [image for image, _label in tar_images(members)]
    if not images and not refused:
        raise TutelageError(f"{name} has no images")
    lock = threading.Lock()
    return itertools.chain(
        ((image.name, partial(_member, file, lock, image)) for image in images),
        ((member, partial(_refuse, reason)) for member, reason in refused),
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
    columns = {field.name: field.type for field in table.schema_arrow}
    if not _has_images(table):
        found = ", ".join(f"{column} ({kind})" for column, kind in columns.items())
        raise TutelageError(
            f"{name} lacks a column image of bytes or struct<bytes, path>; found: {found}. "
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


def _has_images(table: Any) -> bool:
    """Whether an opened Parquet file holds images themselves: it may hold their paths."""
    schema = table.schema_arrow
    return "image" in schema.names and holds_bytes(schema.field("image").type)


def _cell(value: Any) -> bytes:
    content = bytes_in(value.as_py())
    if content is None:
        raise UnreadableImage("the row has no image bytes")
    return content


_FORMATS: dict[str, Callable[[BinaryIO, str], Iterator[tuple[str, Read]]]] = {
    ".tar": _in_tar,
    ".parquet": _in_parquet,
}
