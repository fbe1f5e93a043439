"""Which columns of a table hold the images, their classes and their splits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tutelage.config import TableConfig
from tutelage.data.catalog import split_of
from tutelage.system.errors import TutelageError

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
