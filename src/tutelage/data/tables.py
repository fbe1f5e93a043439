"""Tables of images: which columns are used, and those that are text (CSV and JSON lines)."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tutelage.config import TableConfig
from tutelage.data.catalog import split_of
from tutelage.data.columns import label_text
from tutelage.data.layout import is_image
from tutelage.system.errors import TutelageError

SUFFIXES = (".csv", ".tsv", ".jsonl")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_GUESSES = {"cp949": "CP949 (Korean Windows)", "cp1252": "Windows-1252 (Western Europe)"}
# What tables call these columns, in any case, with or without an "s", spaces, "_" or "-". The first
# name counts before all others, and "id" only where there is no other.
IMAGE = (
    *("image", "img", "file", "filename", "filepath", "path"),
    *("imagepath", "imageid", "imagename", "id"),
)
LABEL = (
    *("label", "class", "classname", "category", "choice", "target"),
    *("species", "diagnosis"),
)
SPLIT = ("split", "set", "subset", "dataset")
LABELLED_BY = "labelled_by"  # of a table of accepted pseudo-labels: which model each label is from
_NO_LABEL = {"na", "n/a", "nan", "null", "-1", "?"}  # what programs write for "no label"
_FEW = 10  # different labels, or rows, that say nothing about what a column is


@dataclass(frozen=True)
class Columns:
    """The names of the columns."""

    image: str
    label: str | None
    splits: tuple[str, ...] = ()  # that may hold the splits; the first that does counts
    warnings: tuple[str, ...] = ()


def find_columns(where: str, names: Sequence[str], asked: TableConfig) -> Columns:
    """The columns that a person asked for, or those that are called as such columns are."""
    image = _column(where, names, IMAGE, asked.image_column, "--image-column")
    label = _column(where, names, LABEL, asked.label_column, "--label-column")
    shown = ", ".join(names[:20])
    if image is None:
        raise TutelageError(
            f"{where} lacks the column image; found: {shown}. Expected image, label (empty = "
            "unlabelled) and, if you like, split; --image-column can name another column (for "
            "predict, call it image)"
        )
    splits = [name for known in SPLIT for name in names if _fits(name, (known,))]
    warnings = []
    if label is None:
        warnings.append(
            f"{where} has no column label, so its images are unlabelled; found: {shown}; "
            "--label-column can name another column"
        )
    predicted = {"label", "confidence"} <= {*names} and any(n.startswith("p_") for n in names)
    if predicted or LABELLED_BY in names:
        what = "looks like answers of tutelage predict" if predicted else f"has {LABELLED_BY}"
        warnings.append(
            f"{where} {what}, so its labels are a model's: nothing that is judged by them says how "
            "well a model does"
        )
    return Columns(image, label, tuple(splits), tuple(warnings))


def has_columns(names: Sequence[str], asked: TableConfig) -> bool:
    """Whether there are columns of images and of classes, one or several of each."""
    wanted = ((asked.image_column, IMAGE), (asked.label_column, LABEL))
    return all(
        any(_fits(name, (column,) if column else known) for name in names)
        for column, known in wanted
    )


def known_columns(names: Sequence[str]) -> bool:
    """Whether one of the names is that of a column of images or classes."""
    return any(_fits(name, known) for name in names for known in (IMAGE, LABEL))


def splits_in(where: str, columns: Mapping[str, list[str]]) -> list[str]:
    """The splits in the first of some columns that holds any; none if no column does."""
    for column, values in columns.items():
        known = {value for value in values if split_of(value) is not None}
        others = {value for value in values if value.strip()} - known
        if _plain(column) == SPLIT[0]:
            return values
        if known and others:
            # Leaving the column out would train on the rows of its test split.
            raise TutelageError(
                f"{where}: column {column} holds the splits {_first(known)} and also "
                f"{_first(others)}; use train, val, test or unlabeled, or leave it empty for "
                "train, or give the column another name if it holds no splits"
            )
        if known:
            return values
    return []


def check_labels(where: str, column: str | None, labels: Sequence[str]) -> None:
    """Refuse labels that are amounts, that differ in each row, or that may mean "no label"."""
    counts = Counter(labels)
    unlabelled = counts.pop("", 0)
    rows, mend = counts.total(), "choose the column of the classes with --label-column"
    if len(counts) > _FEW:
        if amounts := _amounts(counts):
            raise TutelageError(
                f"{where}: column {column} holds {len(counts)} different values, among them "
                f"{amounts[0]}; tutelage learns classes, not amounts. If this is the wrong column, "
                f"{mend}; otherwise put the amounts into a few classes"
            )
        if len(counts) == rows and not unlabelled:
            raise TutelageError(
                f"{where}: column {column} holds another value in each of its {rows} rows (first: "
                f"{labels[0]}), so these are no classes; {mend}"
            )
    for label, count in counts.items():
        if label.lower() in _NO_LABEL:
            raise TutelageError(
                f"{where}: column {column} holds {label!r} in {count} rows; if that means no "
                "label, leave these cells empty, and if it is a class, give it another name"
            )


def _column(
    where: str, names: Sequence[str], known: tuple[str, ...], asked: str | None, option: str
) -> str | None:
    if asked is not None:
        fitting = [name for name in names if name == asked]
        fitting = fitting or [name for name in names if _fits(name, (asked,))]
        if not fitting:
            raise TutelageError(
                f"{where} has no column {asked} ({option}); found: {', '.join(names[:20])}"
            )
    else:
        fitting = [name for name in names if _fits(name, known)]
        usual = [name for name in fitting if name.strip().lower() == known[0]]
        fitting = usual or [name for name in fitting if _plain(name) != "id"] or fitting
    if len(fitting) > 1:
        raise TutelageError(
            f"{where} has several columns that may hold what {option} names: "
            f"{', '.join(fitting)}; keep one, or choose it, as in {option} {fitting[0]!r}"
        )
    return fitting[0] if fitting else None


def _fits(name: str, known: tuple[str, ...]) -> bool:
    return _plain(name) in map(_plain, known)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower())).removesuffix("s")


def _first(values: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(values)[:5]))


def _amounts(labels: Iterable[str]) -> list[str]:
    """Those of the labels that are not whole, where all are numbers."""
    try:
        values = {label: float(label) for label in labels}
    except ValueError:
        return []
    return [label for label, value in values.items() if value % 1 and math.isfinite(value)]


@dataclass(frozen=True)
class TextTable:
    """A table whose rows can be read once."""

    path: Path
    names: list[str]  # of its columns
    rows: Iterable[Sequence[Any]]  # texts, and in JSON lines whatever stands there
    warnings: list[str]

    def columns(self, wanted: Sequence[str]) -> list[list[str]]:
        """The wanted columns; a short row's missing cells are empty."""
        places = [self.names.index(name) for name in wanted]
        columns: list[list[str]] = [[] for _ in wanted]
        for number, row in enumerate(self.rows, start=1):
            if len(row) > len(self.names):
                raise TutelageError(
                    f"{self.path}: data row {number} has {len(row)} cells, the header "
                    f"{len(self.names)}; put quotes around a path that contains a comma: {row}"
                )
            for column, place in zip(columns, places, strict=True):
                value = row[place] if place < len(row) else ""
                plain = isinstance(value, str)  # all are in a CSV, of millions of rows maybe
                column.append(value.strip() if plain else self._text(value, place, number))
        return columns

    def _text(self, value: Any, place: int, number: int) -> str:
        """What stands in JSON lines as a text: 1 and 1.0 are one class, as in Parquet."""
        if isinstance(value, (list, dict)):
            kind = "a list" if isinstance(value, list) else "an object"
            raise TutelageError(
                f"{self.path}: column {self.names[place]} holds {kind} in data row {number}; "
                "expected a text or a number"
            )
        return label_text(value)


@contextmanager
def opened(path: Path) -> Iterator[TextTable]:
    """Open a .csv, .tsv or .jsonl file."""
    encoding = encoding_of(path)
    read = _json_lines if path.suffix.lower() == ".jsonl" else _csv
    try:
        with open(path, encoding=encoding, newline="") as file:
            table = TextTable(path, *read(path, file))
            if encoding in _GUESSES:
                table.warnings.append(
                    f"{path} is not UTF-8 and is read as {_GUESSES[encoding]}; if names look "
                    "wrong, save it as CSV UTF-8"
                )
            yield table
    except csv.Error as error:  # a cell of more than csv.field_size_limit
        raise TutelageError(
            f"{path} is not a readable CSV file: {error}; is a quote left open?"
        ) from error


def records(path: Path) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns."""
    with opened(path) as table:
        columns = table.columns(table.names)
    return [dict(zip(table.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _csv(path: Path, file: TextIO) -> tuple[list[str], Iterator[list[str]], list[str]]:
    header = file.readline()
    file.seek(0)
    delimiter = max(",;\t", key=header.count)  # spreadsheets in many countries write ;
    rows = (row for row in csv.reader(file, delimiter=delimiter) if any(row))
    first = next(rows, [])
    names = [name.strip() for name in first]
    named = None if known_columns(names) else _names_without_header(names)
    if named is None:
        return names, rows, []
    said = f"{path} has no header; its columns are taken as {', '.join(named)}"
    return named, itertools.chain([first], rows), [said]


def _names_without_header(cells: list[str]) -> list[str] | None:
    """Names for columns whose first row is an image, perhaps with its label and its split."""
    images = [is_image(cell) for cell in cells]
    if images.count(True) != 1 or len(cells) > 3:
        return None
    if len(cells) == 3 and split_of(cells[2]) is None:
        return None
    return [*("image" if image else "label" for image in images[:2]), "split"][: len(cells)]


def _json_lines(path: Path, file: TextIO) -> tuple[list[str], Iterator[list[Any]], list[str]]:
    objects = []
    for number, line in enumerate(file, start=1):
        try:
            objects += [dict(json.loads(line))] if line.strip() else []
        except (ValueError, TypeError, RecursionError) as error:
            raise TutelageError(
                f"{path}: line {number} is not a JSON object ({error}); mend it, or take it out"
            ) from error
    names = list(dict.fromkeys(name for found in objects for name in found))
    rows = ([found.get(name) for name in names] for found in objects)
    return names, rows, []


def encoding_of(path: Path) -> str:
    """The Python name of a file's encoding: what its mark says, UTF-8, or a guess."""
    content = path.read_bytes()
    marked = [name for mark, name in _MARKS.items() if content.startswith(mark)]
    problem: UnicodeDecodeError | None = None
    for encoding in marked or ("utf-8", *_GUESSES):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError as error:
            problem = problem or error
        else:
            if encoding != "cp949" or _is_korean(text):
                return encoding
    raise TutelageError(f"{path} is not UTF-8 ({problem}); save it as CSV UTF-8") from problem


def _is_korean(text: str) -> bool:
    """Whether most of what is not ASCII in a text read as CP949 is Hangul in common use.

    Accented Western text may decode, too, but as Chinese characters or as the rare syllables that
    CP949 adds to KS X 1001, whose second byte is often a letter.
    """
    beyond = [character for character in text if not character.isascii()]
    hangul = [character for character in beyond if "가" <= character <= "힣"]
    common = [character for character in hangul if min(character.encode("cp949")) > 0xA0]
    return 2 * len(common) > len(beyond)
