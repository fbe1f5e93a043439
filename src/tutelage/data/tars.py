"""WebDataset tars: where the images lie in them, and DATA that consists of them.

One pass over the headers gives each member's place, so that it is one seek and one read. Nothing is
written to a disk, and a hostile name is never more than a text. Compressed tars are refused: they
allow no seek, and images do not get smaller.

An image and its class share a key, as ``0001.jpg`` and ``0001.cls`` do (github.com/webdataset/
webdataset, "The WebDataset Format"). The class is a text, or ``label`` or ``cls`` in a ``.json``.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tutelage.data.catalog import Catalog, make_catalog
from tutelage.data.layout import files_below, is_image, split_words
from tutelage.data.listing import Given
from tutelage.data.sources import stat_text
from tutelage.system.errors import TutelageError, told

_Row = tuple[str, str, str, tuple[int, int, int]]  # name, label, split, place: see TarSource
LABELS = ("cls", "txt", "json")  # the first of these that a key has is its label
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstandard", "unzstd"),
}
_KINDS = (
    (tarfile.TarInfo.issym, "is a symbolic link"),
    (tarfile.TarInfo.islnk, "is a hard link"),
    (tarfile.TarInfo.isdev, "is a device or a pipe"),
    (tarfile.TarInfo.issparse, "is a sparse file"),
)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar."""

    name: str  # as it is stored; bytes that are no UTF-8 are backslash escapes
    offset: int  # where its first byte lies in the tar
    size: int


def index_tar(file: BinaryIO, where: str) -> tuple[list[Member], list[tuple[str, str]]]:
    """A tar's regular files, in its order, and pairs (member, reason) of what is refused.

    TutelageError if it is no tar from its start on.
    Absolute names, names with ``..``, links, devices, sparse files and a second member of the same
    name are refused one by one. In a tar that is cut off or damaged, everything before the damage
    is kept.
    """
    start = file.read(6)
    for magic, (kind, mend) in _COMPRESSED.items():
        if start.startswith(magic):
            raise TutelageError(
                f"{where} is compressed with {kind}, which allows no seeking, and images get no "
                f"smaller; unpack it to a plain .tar ({mend} {where})"
            )
    end = file.seek(0, 2)
    file.seek(0)
    members: list[Member] = []
    refused: list[tuple[str, str]] = []
    seen: set[str] = set()
    try:
        for info in _headers(file):
            name = info.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
            if info.isdir():
                continue
            if info.offset_data + info.size > end:
                refused.append((name, f"is cut off: the tar ends before its {info.size} bytes do"))
                break
            plain = posixpath.normpath(name)
            if reason := _refusal(info, name, plain in seen):
                refused.append((name, reason))
                continue
            seen.add(plain)
            members.append(Member(name, info.offset_data, info.size))
    except _Damage as damage:
        if not members and not refused:
            raise TutelageError(f"{where} is not a readable tar: {damage}") from damage
        refused.append((where, str(damage)))
    return members, refused


def tar_images(members: Sequence[Member]) -> list[tuple[Member, Member | None]]:
    """The images in the order of the tar, each with the member of its label, if there is one.

    A key is the name up to the first dot of its last part, as in WebDataset. Where a key has
    several images, all of them share its label. Hidden files are left out.
    """
    labels: dict[str, dict[str, Member]] = {}
    images: list[tuple[str, Member]] = []
    for member in members:
        folder, _, name = member.name.rpartition("/")
        if name.startswith("."):  # macOS packs a "._photo.jpg" beside each photo.jpg
            continue
        stem, _, extension = name.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if extension.lower() in LABELS:
            labels.setdefault(key, {})[extension.lower()] = member
        elif is_image(name):
            images.append((key, member))
    return [
        (image, next((labels[key][kind] for kind in LABELS if kind in labels.get(key, ())), None))
        for key, image in images
    ]


def read_member(file: BinaryIO, member: Member) -> bytes:
    """A member's bytes, or OSError; no other thread may use the file meanwhile."""
    file.seek(member.offset)
    data = file.read(member.size)
    if len(data) < member.size:
        raise OSError(f"{member.name}: {len(data)} of {member.size} bytes are there")
    return data


def label_of(member: Member, content: bytes) -> str:
    """A label member's text, or its JSON's ``label`` or ``cls``; TutelageError if it is neither."""
    try:
        text = content.decode("utf-8-sig").strip()
        if member.name.lower().endswith(".json"):
            value = json.loads(text)
            if isinstance(value, dict):
                value = value.get("label", value.get("cls"))
            if isinstance(value, bool) or not isinstance(value, str | int):
                raise ValueError("it has no text or whole number under label or cls")
            text = str(value).strip()
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError too
        raise TutelageError(f"{member.name} is not a label: {error}") from error
    return text


class _Damage(Exception):
    """The rest of the tar cannot be read."""


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members' headers; raises _Damage at the end of a tar that does not end properly."""
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            at = -1
            while (info := tar.next()) is not None:
                if tar.offset <= at:  # a negative size would send tarfile in circles
                    raise _Damage("a member's size is negative; what follows is not read")
                at = tar.offset
                yield info
                tar.members.clear()  # type: ignore[attr-defined] # undocumented: it keeps them all
            file.seek(tar.offset)
            rest = file.read(tarfile.RECORDSIZE)
    except (_Damage, OSError):
        raise
    except Exception as error:  # hostile headers make tarfile raise nearly every builtin exception
        raise _Damage(f"the tar is damaged: {told(error)}") from error
    if len(rest) < tarfile.BLOCKSIZE:
        raise _Damage("the tar has no end marker: it was cut off, and members may be missing")
    if rest.strip(b"\0"):
        raise _Damage("a header is damaged or data follows the end marker; the rest is not read")


def _refusal(info: tarfile.TarInfo, name: str, twice: bool) -> str | None:
    for is_kind, reason in _KINDS:
        if is_kind(info):
            return f"{reason}; only regular files are read"
    if not info.isreg():
        return f"is of the unknown kind {info.type!r}; only regular files are read"
    path = PureWindowsPath(name)  # knows / and \ and drives
    if path.root:
        return "has an absolute name"
    if ".." in path.parts:
        return "has .. in its name"
    return "is there twice; the first is read" if twice else None


@dataclass(frozen=True, eq=False)
class TarSource:
    """Members of tars, each one seek and one read; any number of threads may read."""

    tars: tuple[Path, ...]
    # (N, 3) the tar of each image, its first byte there, and its size. A tar below 0 is an image
    # that is refused, for reason -1 - tar.
    places: NDArray[np.int64]
    reasons: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """Return the bytes of one image."""
        tar, offset, size = map(int, self.places[index])
        if tar < 0:
            raise OSError(self.reasons[-1 - tar])
        with open(self.tars[tar], "rb") as file:
            return read_member(file, Member(f"image {index}", offset, size))

    def signature(self, index: int) -> str:
        """Return the tar's state and the place in it."""
        tar, offset, size = map(int, self.places[index])
        if tar < 0:
            return self.reasons[-1 - tar]
        return f"{stat_text(self.tars[tar])}#{offset}+{size}"


def fits(given: Given) -> bool:
    """Whether this is a tar, or a folder that holds some and no image."""
    return given.suffix == ".tar" or ".tar" in given.kinds


def read(given: Given) -> Catalog:
    """The catalog of a tar, or of the tars below a folder; an image is ``<tar>/<member>``.

    A tar's split is a word of its path below the folder, as in ``train-0001.tar``,
    ``unlabeled/a.tar`` or ``imagenet-val-3.tar``; without one it is train, and images without a
    label member are unlabelled. Refused members and damaged tars are in the catalog, too, so that
    they are listed with the reason. TutelageError where no image is in them, or a tar has the words
    of several splits.
    """
    given.check_no_table()
    path = given.path
    alone = not given.is_folder
    root, files = path.parent, [path]
    if not alone:
        root, files = path, sorted(Path(f) for f in files_below(path, []) if f.endswith(".tar"))
    rows: list[_Row] = []
    reasons: list[str] = []
    bad_labels: list[str] = []
    for number, file in enumerate(files):
        name = file.relative_to(root).as_posix()
        split = "train" if alone else _split(name)
        rows += _rows(file, name, number, split, reasons, bad_labels)
    if all(place[0] < 0 for _, _, _, place in rows):
        why = f": {rows[0][0]}: {reasons[0]}" if reasons else ""
        raise TutelageError(
            f"no images in the {len(files)} tars of {path}{why}; expected members such as "
            "0001.jpg and, with its class, 0001.cls"
        )
    warnings = []
    if bad_labels:
        warnings.append(
            f"{len(bad_labels)} label members cannot be read (first: {bad_labels[0]}): "
            "their images are unlabelled"
        )
    names, labels, splits, places = zip(*rows, strict=True)
    source = TarSource(tuple(files), np.array(places, dtype=np.int64), tuple(reasons))
    said = [""] * len(names) if alone else splits
    return make_catalog(str(path), names, labels, said, source, warnings)


def _rows(
    file: Path, name: str, number: int, split: str, reasons: list[str], bad_labels: list[str]
) -> Iterator[_Row]:
    """The images of one tar; reasons of refused ones and unreadable labels join the lists."""

    def refused(name: str, reason: str) -> _Row:
        reasons.append(reason)
        return name, "", split or "train", (-len(reasons), 0, 0)

    try:
        with open(file, "rb") as opened:
            members, refusals = index_tar(opened, name)
            for image, labelled_by in tar_images(members):
                label = ""
                if labelled_by is not None and split:
                    try:
                        label = label_of(labelled_by, read_member(opened, labelled_by))
                    except (TutelageError, OSError) as error:
                        bad_labels.append(f"{name}/{error}")
                place = (number, image.offset, image.size)
                label = "" if label == "-1" else label
                yield f"{name}/{image.name}", label, split or "train", place
    except (TutelageError, OSError) as error:
        yield refused(name, str(error))
        return
    for count, (member, reason) in enumerate(refusals, start=1):
        # Numbered, because a refused name may be there again, or be that of a good member.
        yield refused(f"{name}#{count}: {member}", reason)


def _split(name: str) -> str:
    """The split whose word is in a tar's path: "train" if there is none, "" for a pool."""
    found = split_words(name) or {"train"}
    if found == {"train", ""}:  # train/unlabeled/0.tar
        return ""
    if len(found) > 1:
        words = ", ".join(sorted(word or "unlabeled" for word in found))
        raise TutelageError(
            f"{name} has the words of several splits: {words}; rename it so that there is one, as "
            "in train-0001.tar"
        )
    return found.pop()
