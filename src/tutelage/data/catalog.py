"""The table of images: a stable name, a label or none, a split, and where the bytes are."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import stat
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.data.decode import SUFFIXES, read_file
from tutelage.system.errors import TutelageError, need

SPLITS = ("train", "val", "test")
UNLABELED = ("unlabeled", "unlabelled")
_DIGITS = 1000  # of a class name that is sorted as a number; Python refuses to read 4,301


class Source(Protocol):
    """Where the bytes of a catalog's images come from."""

    def read(self, index: int) -> bytes:
        """Return the image file's bytes; raises OSError when they cannot be had."""

    def signature(self, index: int) -> str:
        """Return a cheap text that changes when the bytes may have changed; never raises."""

    def select(self, indices: NDArray[np.intp]) -> Source:
        """Return the source of these images, in this order."""


@dataclass(frozen=True, eq=False)
class Catalog:
    """N images, sorted and deterministic; it knows no method.

    Attributes:
        names: N unique stable ids: the path relative to the root, or "<file>.parquet#<row>".
        labels: int32 (N,) index into ``classes``, -1 = unlabelled.
        splits: str (N,) "train", "val" or "test"; an unlabelled pool is part of "train".
        classes: the class names of all splits, sorted (by value when all are whole numbers).
        source: reads image i.
        warnings: what a user should know about the data, each with its mend.
        reviewed: names of training images whose label a person gave in a review; they have it
            in every label draw.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int32]
    splits: NDArray[np.str_]
    classes: tuple[str, ...]
    source: Source
    warnings: tuple[str, ...] = ()
    reviewed: frozenset[str] = frozenset()

    def __len__(self) -> int:
        """Return N."""
        return len(self.names)

    def select(self, indices: ArrayLike) -> Catalog:
        """Return the catalog of these images, in this order, with the same classes."""
        chosen = np.asarray(indices, dtype=np.intp).reshape(-1)
        names = tuple(self.names[i] for i in chosen)
        return replace(
            self,
            names=names,
            labels=self.labels[chosen],
            splits=self.splits[chosen],
            source=self.source.select(chosen),
            warnings=(),
            reviewed=self.reviewed & frozenset(names),
        )

    def named(self, classes: tuple[str, ...]) -> Catalog:
        """Return the same catalog with the classes of a model, which may know more.

        Raises:
            TutelageError: an image has a class that is none of them.
        """
        if unknown := [name for name in self.classes if name not in classes]:
            raise TutelageError(
                f"the data has the classes {', '.join(unknown)}, which the model does not know; "
                f"it knows {', '.join(classes)}"
            )
        index = np.array([*map(classes.index, self.classes), -1], dtype=np.int32)  # -1 stays -1
        return replace(self, labels=index[self.labels], classes=classes)


def read_catalog(data: Path | str) -> Catalog:
    """Read a folder tree, a ``.csv`` manifest or a ``.parquet`` manifest.

    A folder holds ``train/<class>/**``, ``unlabeled/**``, ``val/<class>/**``, ``test/<class>/**``;
    a bare ``<class>/**`` tree means train, and a folder of images alone is an unlabelled pool.
    A manifest has the columns ``image`` (a path relative to the manifest; in Parquet also bytes
    or Hugging Face's struct), ``label`` (empty = unlabelled) and optionally ``split``
    (empty = train).

    Raises:
        TutelageError: nothing there, no images, or a manifest that contradicts itself.
        MissingExtra: a Parquet manifest without pyarrow installed.
    """
    path = Path(data)
    if not path.exists():
        raise TutelageError(f"{path} does not exist; expected a folder, a .csv or a .parquet file")
    if path.is_dir():
        return _read_folder(path)
    check_file(path)
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    raise TutelageError(f"{path} is neither a folder nor a .csv or .parquet file")


def catalog_from_arrays(
    names: Sequence[str],
    labels: ArrayLike,
    splits: Sequence[str],
    classes: Sequence[str],
    paths: Sequence[Path | str],
) -> Catalog:
    """Make a catalog of image files from columns of equal length.

    Args:
        names: N unique ids.
        labels: (N,) index into ``classes``, -1 = unlabelled.
        splits: N of "train", "val", "test".
        classes: class names, in the order of the indices.
        paths: N image files.

    Raises:
        TutelageError: the lengths differ, a name is there twice, a label or split is unknown.
    """
    indices = np.asarray(labels, dtype=np.int32)
    lengths = {len(names), len(indices), len(splits), len(paths)}
    if len(lengths) > 1:
        raise TutelageError(f"names, labels, splits and paths have different lengths: {lengths}")
    if len(indices) and not -1 <= indices.min() <= indices.max() < len(classes):
        raise TutelageError(
            f"labels go from {indices.min()} to {indices.max()}; expected -1 (unlabelled) "
            f"to {len(classes) - 1} for {len(classes)} classes"
        )
    source = FileSource(tuple(str(path) for path in paths))
    checked = _check_rows("the arrays", names, splits)
    return Catalog(tuple(names), indices, checked, tuple(classes), source)


@dataclass(frozen=True)
class FileSource:
    """One file an image."""

    paths: tuple[str, ...]

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.paths[index])

    def signature(self, index: int) -> str:
        """Return path, size and times: ctime betrays a replaced file that kept its mtime."""
        return stat_text(self.paths[index])

    def select(self, indices: NDArray[np.intp]) -> FileSource:
        """Return the source of these files."""
        return FileSource(tuple(self.paths[i] for i in indices))


class ParquetSource:
    """Image bytes in a Parquet column, streamed in small batches: quick when read in order.

    Two batches are kept, so threads that read nearly in order share them. Memory does not grow
    with the file, even when it is one single row group.
    """

    _BATCH = 128

    def __init__(self, path: Path, rows: NDArray[np.intp], column: str = "image") -> None:
        """Read a column's rows ``rows`` of the file ``path``."""
        self.path = path
        self.rows = rows
        self.column = column
        self._lock = threading.Lock()
        self._batches: Iterator[Any] = iter(())
        self._held: list[tuple[int, Any]] = []  # (first row, column), oldest first
        self._groups: NDArray[np.intp] | None = None  # first row of each row group
        self._file: Any = None

    def read(self, index: int) -> bytes:
        """Return the bytes of one image."""
        row = int(self.rows[index])
        with self._lock:
            try:
                value = self._value(row)
            except Exception as error:  # on damaged pages pyarrow raises nearly every kind
                self._held = []  # the stream is broken: the next read seeks anew
                raise OSError(f"row {row} of {self.path} is damaged: {error}") from error
        if isinstance(value, dict):
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise OSError(f"row {row} has no image bytes")
        return value

    def signature(self, index: int) -> str:
        """Return the file's state and the row."""
        return f"{stat_text(self.path)}#{self.rows[index]}"

    def select(self, indices: NDArray[np.intp]) -> ParquetSource:
        """Return the source of these rows."""
        return ParquetSource(self.path, self.rows[indices], self.column)

    def _value(self, row: int) -> Any:
        for first, column in self._held:
            if first <= row < first + len(column):
                return column[row - first].as_py()
        self._seek(row)
        while True:
            first = self._held[-1][0] + len(self._held[-1][1])
            self._held = [*self._held[-1:], (first, next(self._batches).column(0))]
            if row < first + len(self._held[-1][1]):
                return self._held[-1][1][row - first].as_py()

    def _seek(self, row: int) -> None:
        """Start streaming at the row's group, unless reading on from here gets there sooner."""
        if self._groups is None:
            self._file = open_parquet(self.path)
            meta = self._file.metadata
            sizes = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
            self._groups = np.cumsum([0, *sizes[:-1]])
        group = int(np.searchsorted(self._groups, row, side="right")) - 1
        first = int(self._groups[group])
        here = self._held[-1][0] if self._held else -1
        if not first <= here <= row:
            groups = list(range(group, len(self._groups)))
            self._batches = self._file.iter_batches(self._BATCH, groups, [self.column])
            self._held = [(first, ())]


def _read_folder(root: Path) -> Catalog:
    closed: list[str] = []
    folders = {p.name: p for p in _folders(root, closed)}
    warnings: list[str] = []
    rows: list[tuple[str, str, str]] = []  # path, label, split
    ignored: list[str] = []
    reserved = folders.keys() & {*SPLITS, *UNLABELED}
    places = [place / name for place in (root, root / "train") for name in UNLABELED]
    pools = [place for place in places if not _leads_up(place)]
    trees: dict[str, Path] = {}
    if "train" in folders or reserved == folders.keys():
        trees = {name: folders[name] for name in SPLITS if name in folders}
        warnings += [
            f"folder {name} is left out: beside train only unlabeled, val and test are read"
            for name in sorted(folders.keys() - reserved)
        ]
    elif clash := sorted(reserved & {*SPLITS}):
        raise TutelageError(
            f"{root} holds class folders and a folder {clash[0]}; move the class folders into "
            f"{root / 'train'} (a class must not be called {clash[0]})"
        )
    else:
        trees = {"train": root}
    for split, tree in trees.items():
        of_tree = folders.values() if tree is root else _folders(tree, closed)
        for folder in sorted(p for p in of_tree if p not in pools):
            found = list(_images(folder, ignored, closed))
            rows += [(path, as_text(folder.name), split) for path in found]
            if not found:
                warnings.append(
                    f"class folder {folder.relative_to(root).as_posix()} is empty: left out; "
                    "add images or delete it"
                )
    rows += [(path, "", "train") for pool in pools for path in _images(pool, ignored, closed)]
    loose = [str(p) for tree in {root, *trees.values()} for p in _visible(tree) if not p.is_dir()]
    loose_images = sorted(path for path in loose if is_image(path))
    ignored += [path for path in loose if not is_image(path)]
    if not folders:
        rows += [(path, "", "train") for path in loose_images]
    elif loose_images:
        warnings.append(
            f"{len(loose_images)} images outside a class folder (first: {loose_images[0]}) are "
            "left out; move them into a class folder or into unlabeled"
        )
    if ignored:
        warnings.append(f"{len(ignored)} other files are ignored (first: {min(ignored)})")
    if closed:
        warnings.append(
            f"{len(closed)} folders are left out, since they are links or cannot be opened (first: "
            f"{min(closed)}); move their images here"
        )
    if not rows:
        raise TutelageError(
            f"no images in {root}; expected train/<class>/*.jpg, unlabeled/*.jpg, or "
            f"<class>/*.jpg{'; ' + '; '.join(warnings) if warnings else ''}"
        )
    rows.sort()
    paths, labels, splits = zip(*rows, strict=True)
    rows.clear()
    start = 0 if root == Path() else len(os.path.join(root, ""))
    names = [as_text(path[start:].replace(os.sep, "/")) for path in paths]
    return make_catalog(str(root), names, labels, splits, FileSource(paths), warnings)


def as_text(name: str) -> str:
    """Linux allows file names that are no text; tables and reports do not."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _read_csv(path: Path) -> Catalog:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=header.count)  # spreadsheets in many countries write ;
            rows = (row for row in csv.reader(file, delimiter=delimiter) if any(row))
            columns = [name.strip().lower() for name in next(rows, [])]
            _check_header(path, columns)
            places = {name: place for place, name in enumerate(columns)}  # the last of equal names
            wanted = [places.get(name, len(columns)) for name in ("image", "label", "split")]
            images, labels, splits = _csv_columns(path, rows, len(columns), wanted)
    except UnicodeDecodeError as error:
        raise TutelageError(f"{path} is not UTF-8 ({error}); save it as CSV UTF-8") from error
    except csv.Error as error:  # a cell of more than csv.field_size_limit
        raise TutelageError(
            f"{path} is not a readable CSV file: {error}; is a quote left open?"
        ) from error
    return _of_paths(path, images, labels, splits)


def _csv_columns(
    path: Path, rows: Iterable[list[str]], width: int, wanted: Sequence[int]
) -> list[list[str]]:
    """The wanted columns; a short row's missing cells, and a place beyond ``width``, are empty."""
    columns: list[list[str]] = [[] for _ in wanted]
    for number, row in enumerate(rows, start=1):
        if len(row) > width:
            raise TutelageError(
                f"{path}: data row {number} has {len(row)} cells, the header {width}; "
                f"put quotes around a path that contains a comma: {row}"
            )
        for column, place in zip(columns, wanted, strict=True):
            column.append(row[place].strip() if place < len(row) else "")
    return columns


def _read_parquet(path: Path) -> Catalog:
    file = open_parquet(path)
    schema = file.schema_arrow
    _check_header(path, schema.names)
    check_labels(path, schema, "label")
    wanted = [name for name in ("label", "split", "file") if name in schema.names]
    with undamaged(path):
        table = file.read(columns=wanted).to_pydict()
        images = _parquet_paths(path, file)
    labels = _parquet_labels(table["label"], schema)
    count = len(labels)
    splits = [str(split or "") for split in table.get("split", [""] * count)]
    if images is not None:
        return _of_paths(path, images, labels, splits)
    names = [str(name or "") for name in table.get("file", [])]
    if "" in names or len(set(names)) < count:
        names = [f"{path.name}#{row}" for row in range(count)]
    source = ParquetSource(path, np.arange(count))
    return make_catalog(str(path), names, labels, splits, source)


def _parquet_paths(path: Path, file: Any) -> list[Any] | None:
    """Return the image column's paths, or None when it holds the bytes."""
    types = need("pyarrow", "train").types
    kind = _value_type(file.schema_arrow.field("image").type)
    if types.is_string(kind) or types.is_large_string(kind):
        return [value or "" for value in file.read(columns=["image"]).column(0).to_pylist()]
    fields = {kind.field(i).name for i in range(kind.num_fields)} if types.is_struct(kind) else {}
    if not (types.is_binary(kind) or types.is_large_binary(kind) or "bytes" in fields):
        raise TutelageError(
            f"{path}: column image holds {kind}; expected paths, bytes or struct<bytes, path>"
        )
    if "path" in fields:  # Hugging Face writes the struct for both kinds
        first = next(file.iter_batches(1, columns=["image"]), None)
        if first is not None and (first.column(0)[0].as_py() or {}).get("bytes") is None:
            column = file.read(columns=["image.path"]).column(0).to_pylist()
            return [(value or {}).get("path") or "" for value in column]
    return None


def _value_type(kind: Any) -> Any:
    """The Arrow type of a column's values, also where they are dictionary-encoded."""
    return kind.value_type if need("pyarrow", "train").types.is_dictionary(kind) else kind


def check_labels(path: Path, schema: Any, column: str) -> None:
    """Refuse a column of lists, say, whose values cannot be labels.

    Raises:
        TutelageError: the column's type.
    """
    types = need("pyarrow", "train").types
    kind = _value_type(schema.field(column).type)
    names = ("string", "large_string", "integer", "floating", "boolean", "null")
    if not any(getattr(types, f"is_{name}")(kind) for name in names):
        raise TutelageError(
            f"{path}: column {column} holds {kind}; expected class names or whole numbers"
        )


def _parquet_labels(values: list[Any], schema: Any) -> list[str]:
    names = class_names(features(schema).get("label", {}))
    return [label_text(value, names) for value in values]


def features(schema: Any) -> dict[str, dict[str, Any]]:
    """What Hugging Face remembers of the columns of an Arrow schema; empty where nothing is.

    Raises:
        TutelageError: it is not what Hugging Face writes.
    """
    try:
        found: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for key in ("info", "features"):
            found = found.get(key, {})
        return {name: dict(of) for name, of in found.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TutelageError(
            f"the metadata of Hugging Face in the data set is damaged ({error}); save it again"
        ) from error


def class_names(feature: dict[str, Any]) -> list[str] | None:
    """The class names of one of ``features``, if it has any.

    Raises:
        TutelageError: they are not a list of texts.
    """
    names = feature.get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TutelageError(
            f"the class names of the data set are {str(names)[:80]}; expected a list of texts"
        )
    return names


def label_text(value: Any, names: Sequence[str] | None = None) -> str:
    """A label as a class name, empty for none; with ``names``, whole numbers count these from 0.

    Raises:
        TutelageError: a number beyond the names.
    """
    if value is None or value != value:  # pandas writes a missing whole number as NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not names:
        return str(value).strip()
    if not isinstance(value, int) or value >= len(names):
        raise TutelageError(
            f"a label is {value}, but there are {len(names)} class names: {', '.join(names)}; "
            "number the classes from 0, and give -1 to what has no label"
        )
    return names[value] if value >= 0 else ""


def _of_paths(path: Path, images: list[Any], labels: list[str], splits: list[str]) -> Catalog:
    """Make the catalog of a manifest whose images are files beside it."""
    if odd := [image for image in images if not isinstance(image, str)]:
        raise TutelageError(f"{path}: an image is {odd[0]!r:.80}; expected a path")
    if "" in images:
        raise TutelageError(f"{path}: data row {images.index('') + 1} has no image; fill it in")
    if nul := [row for row, image in enumerate(images, start=1) if "\0" in image]:
        raise TutelageError(
            f"{path}: the image of data row {nul[0]} holds a NUL byte; mend it, "
            "or save the manifest as UTF-8 if it is UTF-16"
        )
    names = [image.replace("\\", "/") for image in images]
    paths = tuple(str(path.parent / name) for name in names)
    if paths and not any(os.path.exists(p) for p in paths):
        raise TutelageError(
            f"{path}: none of the {len(paths)} images exists (first: {paths[0]}); "
            "paths are relative to the manifest"
        )
    return make_catalog(str(path), names, labels, splits, FileSource(paths))


def make_catalog(
    where: str,
    names: Sequence[str],
    labels: Sequence[str],
    splits: Sequence[str],
    source: Source,
    warnings: Sequence[str] = (),
) -> Catalog:
    """Make a catalog of a table's columns, each of N values.

    Args:
        where: what the table is called in an error.
        names: unique ids.
        labels: class names, empty = unlabelled.
        splits: "train", "val", "test" or empty, which is train.
        source: reads image i.
        warnings: what a user should know about the data.

    Raises:
        TutelageError: no row, a name that is there twice, an unknown split, or a class name of
            several lines.
    """
    if not names:
        raise TutelageError(f"{where} lists no images")
    checked = _check_rows(where, names, splits)
    found = set(labels) - {""}
    if odd := sorted(name for name in found if any(map(_is_control, name))):
        raise TutelageError(
            f"{where}: the class name {odd[0]!r:.80} holds a line break or another control "
            "character; rename the class (in a .csv manifest, is a quote left open?)"
        )
    whole = all(label.isdecimal() and len(label) < _DIGITS for label in found)
    classes = tuple(sorted(found, key=lambda label: (int(label), label) if whole else label))
    index = {name: i for i, name in enumerate(classes)} | {"": -1}
    indices = np.array([index[label] for label in labels], dtype=np.int32)
    return Catalog(tuple(names), indices, checked, classes, source, tuple(warnings))


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def _check_rows(where: str, names: Sequence[str], splits: Sequence[str]) -> NDArray[np.str_]:
    """Return the cleaned splits; raise when a name is there twice or a split is unknown."""
    if len(set(names)) < len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise TutelageError(
            f"{where}: {len(twice)} images are listed more than once (first: {twice[0]}); "
            "keep one row each"
        )
    cleaned = {split: split.strip().lower() or "train" for split in set(splits)}
    unknown = sorted(set(cleaned.values()) - set(SPLITS))
    if unknown:
        raise TutelageError(
            f"{where}: unknown split {', '.join(map(repr, unknown[:5]))}; "
            "use train, val, test, or leave it empty for train"
        )
    return np.array([cleaned[split] for split in splits], dtype="<U5")


def _check_header(path: Path, columns: Sequence[str]) -> None:
    twice = [name for name in ("image", "label", "split") if columns.count(name) > 1]
    if twice:
        raise TutelageError(f"{path} has the column {twice[0]} twice; keep one")
    missing = [name for name in ("image", "label") if name not in columns]
    if missing:
        raise TutelageError(
            f"{path} lacks the column {' and '.join(missing)}; found: {', '.join(columns[:20])}. "
            "Expected image, label (empty = unlabelled) and, if you like, split"
        )


def open_parquet(path: Path) -> Any:
    """Return the ``pyarrow.parquet.ParquetFile``, streaming rather than buffering.

    Raises:
        TutelageError: the file is missing or damaged.
        MissingExtra: pyarrow is not installed.
    """
    parquet = need("pyarrow.parquet", "train")
    with undamaged(path):
        check_file(path)
        file = parquet.ParquetFile(path, memory_map=True, pre_buffer=False)
        rows, size = file.metadata.num_rows, path.stat().st_size
    if rows > size:
        raise TutelageError(f"{path} is damaged: it claims {rows:,} rows in {size:,} bytes")
    return file


def check_file(path: Path) -> None:
    """Refuse what could never answer, such as a pipe; nothing there raises OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise TutelageError(f"{path} is no file, but a folder, a pipe, a device or a socket")


@contextlib.contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Turn whatever pyarrow raises on a damaged file into a TutelageError.

    Raises:
        TutelageError: the file and the reason.
    """
    try:
        yield
    except TutelageError:
        raise
    except Exception as error:  # nearly every builtin exception, besides those of Arrow
        raise TutelageError(
            f"{path} is not a readable {path.suffix[1:].capitalize()} file: "
            f"{str(error) or type(error).__name__}"
        ) from error


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _images(folder: Path, ignored: list[str], closed: list[str]) -> Iterator[str]:
    """Yield the image files below ``folder``; other visible files go to ``ignored``."""
    for path in files_below(folder, closed):
        if is_image(path):
            yield path
        else:
            ignored.append(path)


def files_below(folder: Path | str, closed: list[str]) -> Iterator[str]:
    """Yield all below ``folder`` that is visible and no folder, as links to files are.

    To ``closed`` go folders that are links, which could lead anywhere and in circles, and those
    that cannot be listed. ``folder`` itself may be a link, or not there.
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


def _folders(parent: Path, closed: list[str]) -> list[Path]:
    """The visible folders in ``parent``; links to a folder that they lie in go to ``closed``."""
    found = [path for path in _visible(parent) if path.is_dir()]
    closed += [str(path) for path in found if _leads_up(path)]
    return [path for path in found if not _leads_up(path)]


def _leads_up(folder: Path) -> bool:
    """Whether it is a link to a folder that it lies in."""
    home = Path(os.path.realpath(folder.parent))  # Path.resolve raises on links in a circle
    return folder.is_symlink() and home.is_relative_to(os.path.realpath(folder))


def is_image(path: str) -> bool:
    """Whether a file is called one; some of these cannot be decoded, which is told."""
    return path.lower().endswith(SUFFIXES)


def stat_text(path: Path | str) -> str:
    """Path, size and times of a file, or why it has none; never raises OSError."""
    try:
        found = os.stat(path)
    except OSError as error:
        return f"{path}|{error.errno}"
    except ValueError:  # no file can be called so
        return f"{path}|"
    return f"{os.path.abspath(path)}|{found.st_size}|{found.st_mtime_ns}|{found.st_ctime_ns}"


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, sorted; other files and linked folders are passed over."""
    return [Path(path) for path in _images(folder, [], [])]
