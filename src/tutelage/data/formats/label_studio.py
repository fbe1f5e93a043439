"""Label Studio's export as JSON, of projects whose labels are ``<Choices>``.

An answer is what one person chose for one image. What a model predicted is no label.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.data.catalog import Catalog
from tutelage.data.formats.annotations import Annotated, Annotations, expect, read_files
from tutelage.data.layout import is_image
from tutelage.data.listing import Given, path_in
from tutelage.system.errors import TutelageError
from tutelage.system.words import counted

NAME, FILE, SPLIT = "tutelage_name", "tutelage_file", "split"
"""Fields of a task that ``review.export`` writes; Label Studio hands them back unchanged."""
QUESTION = "choice"
"""What Label Studio's own template for image classification calls its choices."""
_Task = Mapping[str, Any]


def fits(given: Given) -> bool:
    """Whether this is JSON that holds a list."""
    return isinstance(given.json, list)


def read(given: Given) -> Catalog:
    """The catalog of an export."""
    return read_files(given, (), _annotations)


def _annotations(file: Given) -> Annotations:
    path, found, disputed = file.path, Annotations(), []
    tasks: dict[str, _Task] = {
        f"{path}: task {number}": expect(task, dict, f"{path}: task {number}")
        for number, task in enumerate(file.json, start=1)
    }
    data = [
        expect(task.get("data"), dict, f"{where} (in an export as JSON, not JSON-MIN), data")
        for where, task in tasks.items()
    ]
    field = _image_field(path, data, file.asked.image_column)
    question = _question(path, tasks, file.asked.label_column)
    known: dict[str, _Task] = {}
    answers: dict[str, list[frozenset[str] | None]] = defaultdict(list)
    for (where, task), fields in zip(tasks.items(), data, strict=True):
        image = expect(fields.get(field), str, f"{where}, {field}")
        if not image.strip():
            raise TutelageError(f"{where} has no {field}")
        known.setdefault(image, fields)
        answers[image] += _answers(task, where, question)
    for image, about in known.items():
        name, split, at = (
            text if isinstance(text := about.get(key), str) else "" for key in (NAME, SPLIT, FILE)
        )
        given = [answer for answer in answers[image] if answer is not None]
        # No "ground truth" overrules the others: Label Studio calls whatever is imported so.
        different = {labels for labels in given if labels}
        labels = frozenset[str]().union(*different)
        if len(different) > 1 and all(len(answer) == 1 for answer in different):
            disputed.append(f"{image}: {', '.join(sorted(labels))}")
            labels = frozenset()
        skipped = bool(answers[image]) and not given
        found.images.append(Annotated(image, labels, split, name, at, skipped))
    if disputed:
        found.warnings.append(
            f"annotators disagree about {counted(len(disputed), 'image')} (first: {disputed[0]}): "
            "taken as unlabelled; delete the wrong annotations there"
        )
    if not any(item.labels for item in found.images):
        found.warnings.append(f"nothing in {path} is labelled; predictions are not labels")
    return found


def _image_field(path: Path, data: Sequence[_Task], asked: str | None) -> str:
    """The field of the tasks' data that names the image."""
    keys = list(dict.fromkeys(key for fields in data for key in fields))
    naming = [key for key in keys if any(_names_image(fields.get(key)) for fields in data)]
    usual = asked or "image"
    found = [usual] if asked or usual in keys else [k for k in naming if k not in (NAME, FILE)]
    if len(found) != 1 or found[0] not in keys:
        raise TutelageError(
            f"{path} has no field {usual}; found: {', '.join(keys[:20]) or 'nothing'}; say which "
            "one names the images with --image-column"
        )
    return found[0]


def _names_image(value: Any) -> bool:
    return isinstance(value, str) and is_image(path_in(value))


def _question(path: Path, tasks: Mapping[str, _Task], asked: str | None) -> str | None:
    """The name of the choices that are the labels; None where nobody has answered yet."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for where, task in tasks.items():
        for _, results in _annotated(task, where):
            for result in results:
                kinds[str(result.get("type"))].add(str(result.get("from_name")))
    if not kinds:
        return None
    names = sorted(kinds["choices"])
    if not names:
        others = ", ".join(sorted(kinds.keys() - {"choices"}))
        raise TutelageError(
            f"{path} holds {others} and no choices; tutelage classifies whole images: label them "
            "with Choices in the labelling interface"
        )
    usual = asked or (QUESTION if QUESTION in names else names[0])
    if usual not in names or (not asked and usual != QUESTION and len(names) > 1):
        raise TutelageError(
            f"{path} has the questions {', '.join(names)}{f' and no {asked}' if asked else ''}; "
            "say which one holds the classes with --label-column"
        )
    return usual


def _answers(task: _Task, where: str, question: str | None) -> Iterator[frozenset[str] | None]:
    """What each person chose; None where one skipped the task."""
    for annotation, results in _annotated(task, where):
        labels: set[str] = set()
        for result in results:
            if result.get("type") == "choices" and result.get("from_name") == question:
                value = result.get("value")
                choices = value.get("choices") if isinstance(value, dict) else value
                for choice in expect(choices, list, f"{where}, choices of {question}"):
                    labels.add(expect(choice, str, f"{where}, a choice of {question}").strip())
        skipped = annotation.get("was_cancelled") or annotation.get("skipped")
        yield None if skipped else frozenset(labels)


def _annotated(task: _Task, where: str) -> Iterator[tuple[_Task, list[_Task]]]:
    """The annotations of a task, each with its results."""
    for annotation in expect(task.get("annotations") or [], list, f"{where}, annotations"):
        found = expect(annotation, dict, f"{where}, an annotation")
        results = expect(found.get("result") or [], list, f"{where}, result")
        yield found, [expect(result, dict, f"{where}, a result") for result in results]
