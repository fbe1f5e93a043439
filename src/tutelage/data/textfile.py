"""The columns of a table that is text: CSV with commas, semicolons or tabs, or JSON lines."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tutelage.data.catalog import split_of
from tutelage.data.columns import label_text
from tutelage.data.header import known_columns
from tutelage.data.layout import is_image
from tutelage.system.errors import TutelageError

SUFFIXES = (".csv", ".tsv", ".jsonl")
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_GUESSES = {"cp949": "CP949 (Korean Windows)", "cp1252": "Windows-1252 (Western Europe)"}


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
