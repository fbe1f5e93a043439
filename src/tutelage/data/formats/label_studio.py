"""Label Studio's exports: JSON, JSON-MIN and CSV, of projects whose labels are ``<Choices>``.

An answer is what one person chose for one image. What a model predicted is no label.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.config import TableConfig
from tutelage.data import textfile
from tutelage.data.catalog import Catalog
from tutelage.data.formats.annotations import Annotated, Annotations, expect, read_files
from tutelage.data.images import path_in
from tutelage.data.layout import is_image
from tutelage.data.listing import Given
from tutelage.system.errors import TutelageError
from tutelage.system.words import counted

NAME, FILE, SPLIT = "tutelage_name", "tutelage_file", "split"
"""Fields of a task that ``review.export`` writes; Label Studio hands them back unchanged."""
QUESTION = "choice"
"""What Label Studio's own template for image classification calls its choices."""
_BY_LABEL_STUDIO = {
    "id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement",
    "history",
}  # fmt: skip
_COLUMNS = {"annotation_id", "annotator", "lead_time"}


@dataclass(frozen=True)
class _Answer:
    labels: frozenset[str]
    skipped: bool = False


@dataclass
class _Image:
    """All that is known about one image, from one task or from several."""

    data: Mapping[str, Any]
    answers: list[_Answer] = field(default_factory=list)


def fits(given: Given) -> bool:
    """Whether this is JSON that holds a list, or a table with the columns of its CSV export."""
    return isinstance(given.json, list) or given.columns >= _COLUMNS


def read(given: Given) -> Catalog:
    """The catalog of an export.

    TutelageError where its labels are not choices, or several questions were asked.
    """
    return read_files(given, (), _annotations)


def _annotations(file: Given) -> Annotations:
    path, table = file.path, file.asked
    if file.json is None:
        return _of_rows(path, textfile.records(path), table)
    rows = [expect(row, dict, f"{path}: task {n}") for n, row in enumerate(file.json, start=1)]
    if any("data" in row for row in rows):
        return _listing(path, _images_of_tasks(path, rows, table))
    return _of_rows(path, rows, table)


def _of_rows(path: Path, rows: Sequence[Mapping[str, Any]], table: TableConfig) -> Annotations:
    """JSON-MIN's records, or the rows of a CSV export: one for each answer."""
    image = _image_key(path, rows, table)
    question = _question_column(path, rows, image, table)
    images: dict[str, _Image] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{path}: row {number}"
        found = images.setdefault(_text(row, image, where), _Image(row))
        labels = _choices_in(row.get(question), f"{where}, {question}")
        found.answers.append(_Answer(labels))
    return _listing(path, images)


def _images_of_tasks(
    path: Path, tasks: Sequence[Mapping[str, Any]], table: TableConfig
) -> dict[str, _Image]:
    data = [
        expect(task.get("data"), dict, f"{path}: data of task {n}")
        for n, task in enumerate(tasks, start=1)
    ]
    image, question = _image_key(path, data, table), _question(path, tasks, table)
    images: dict[str, _Image] = {}
    for number, (task, fields) in enumerate(zip(tasks, data, strict=True), start=1):
        where = f"{path}: task {number}"
        found = images.setdefault(_text(fields, image, where), _Image(fields))
        for annotation in _answers(task, where):
            labels: set[str] = set()
            for result in _results(annotation, where):
                if result.get("type") == "choices" and result.get("from_name") == question:
                    labels |= _choices_in(result.get("value"), f"{where}, {question}")
            skipped = bool(annotation.get("was_cancelled") or annotation.get("skipped"))
            found.answers.append(_Answer(frozenset(labels), skipped))
    return images


def _listing(path: Path, images: Mapping[str, _Image]) -> Annotations:
    """What is made of all answers about each image."""
    listing, disputed = Annotations(), []
    for image, known in images.items():
        name, file, split = (_optional(known.data, key) for key in (NAME, FILE, SPLIT))
        given = [answer for answer in known.answers if not answer.skipped]
        if known.answers and not given:
            listing.left_out.append(Annotated(image, name=name, file=file))
            continue
        # No "ground truth" overrules the others: Label Studio calls whatever is imported so.
        different = {answer.labels for answer in given if answer.labels}
        labels = frozenset[str]().union(*different)
        if len(different) > 1 and all(len(answer) == 1 for answer in different):
            disputed.append(f"{image}: {', '.join(sorted(labels))}")
            labels = frozenset()
        listing.images.append(Annotated(image, labels, split, name, file))
    if skipped := listing.left_out:
        listing.warnings.append(
            f"{counted(len(skipped), 'image')} skipped in Label Studio (first: {skipped[0].image})"
            ": left out; label such images there to learn from them"
        )
    if disputed:
        listing.warnings.append(
            f"annotators disagree about {counted(len(disputed), 'image')} (first: {disputed[0]}): "
            "taken as unlabelled; delete the wrong annotations there"
        )
    if not any(item.labels for item in listing.images):
        listing.warnings.append(f"nothing in {path} is labelled; predictions are not labels")
    return listing


def _question(path: Path, tasks: Sequence[Mapping[str, Any]], table: TableConfig) -> str | None:
    """The name of the choices that are the labels; None where nobody has answered yet."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for number, task in enumerate(tasks, start=1):
        where = f"{path}: task {number}"
        for annotation in _answers(task, where):
            for result in _results(annotation, where):
                kinds[str(result.get("type"))].add(str(result.get("from_name")))
    if kinds and not kinds["choices"]:
        others = ", ".join(sorted(kind for kind in kinds if kind != "choices"))
        raise TutelageError(
            f"{path} holds {others} and no choices; tutelage classifies whole images: label them "
            "with Choices in the labelling interface"
        )
    return _only(path, sorted(kinds["choices"]), table, "questions") if kinds else None


def _question_column(
    path: Path, rows: Sequence[Mapping[str, Any]], image: str, table: TableConfig
) -> str:
    """The column of choices; ``QUESTION`` where nobody has answered yet."""
    known = {*_BY_LABEL_STUDIO, image, NAME, FILE, SPLIT}
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in known))
    filled = [key for key in columns if any(row.get(key) not in (None, "", []) for row in rows)]
    return _only(path, filled, table, "columns") if filled or table.label_column else QUESTION


def _only(path: Path, names: Sequence[str], table: TableConfig, what: str) -> str:
    wanted = table.label_column
    if wanted is not None and wanted not in names:
        raise TutelageError(
            f"{path} has no labels called {wanted}; found: {', '.join(names) or 'none'}"
        )
    if wanted is None and len(names) > 1 and QUESTION not in names:
        raise TutelageError(
            f"{path} has the {what} {', '.join(names)}; say which one holds the classes with "
            "--label-column"
        )
    return wanted or (QUESTION if QUESTION in names else names[0])


def _image_key(path: Path, rows: Sequence[Mapping[str, Any]], table: TableConfig) -> str:
    """The field of the tasks' data that names the image."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if table.image_column is not None:
        if table.image_column not in keys:
            raise TutelageError(
                f"{path} has no field {table.image_column}; found: {', '.join(keys[:20])}"
            )
        return table.image_column
    named = [key for key in keys if any(_names_image(row.get(key)) for row in rows)]
    if "image" in keys or "image" in named:
        return "image"
    found = [key for key in named if key not in (NAME, FILE)]
    if len(found) != 1:
        raise TutelageError(
            f"{path} has no field called image; {'of these' if found else 'found:'} "
            f"{', '.join((found or keys)[:20]) or 'nothing'}"
            f"{' several name images' if found else ''}; say which one with --image-column"
        )
    return found[0]


def _names_image(value: Any) -> bool:
    return isinstance(value, str) and is_image(path_in(value))


def _answers(task: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    for annotation in expect(task.get("annotations") or [], list, f"{where}, annotations"):
        yield expect(annotation, dict, f"{where}, an annotation")


def _results(annotation: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    for result in expect(annotation.get("result") or [], list, f"{where}, result"):
        yield expect(result, dict, f"{where}, a result")


def _choices_in(value: Any, where: str) -> frozenset[str]:
    """The choices in any form: a text, lists of choices, or the latter as JSON in a CSV cell."""
    if value in (None, ""):
        return frozenset()
    if isinstance(value, str) and '"choices"' in value:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    found: set[str] = set()
    for part in value if isinstance(value, list) else [value]:
        choices = part.get("choices") if isinstance(part, dict) else [part]
        if not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
            raise TutelageError(
                f"{where} is {json.dumps(part)[:80]}; expected choices: tutelage classifies whole "
                "images"
            )
        found.update(text.strip() for text in choices)
    return frozenset(found)


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = expect(row.get(key), str, f"{where}, {key}")
    if not value.strip():
        raise TutelageError(f"{where} has no {key}")
    return value


def _optional(data: Mapping[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""
