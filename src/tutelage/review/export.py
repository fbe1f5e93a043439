"""A run's images, with its answers, as a file for Label Studio, CVAT or a spreadsheet.

People correct the answers there, and ``tutelage run`` reads what comes back. An answer of the model
is never written as a label: it becomes one when a person agrees to it. Imports no torch.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from tutelage.data.catalog import Catalog, in_class_order
from tutelage.data.decisions import FILE, apply_decisions, read_decisions
from tutelage.data.formats.cvat import OF_NO_USE, PREDICTED, SPLITS
from tutelage.data.formats.label_studio import FILE as FILE_FIELD
from tutelage.data.formats.label_studio import NAME, QUESTION, SPLIT
from tutelage.data.layout import is_image
from tutelage.data.runfolder import RunFolder, read_skipped
from tutelage.data.sources import FileSource, Parts, Source
from tutelage.review.items import Items
from tutelage.system.errors import TutelageError, refuse_existing
from tutelage.system.files import csv_line, new_folder, write_atomically
from tutelage.system.words import counted

Format = Literal["label-studio", "cvat", "csv"]
_FILES = {"label-studio": "label-studio.json", "cvat": "cvat.xml", "csv": "labels.csv"}
_NO_FRAME = 10**9  # CVAT takes the id for a frame's number where no image of a task has the name


@dataclass(frozen=True)
class Exported:
    """An image, and what is known about it."""

    name: str  # in the catalog
    file: str
    split: str
    label: str | None  # that a person gave it
    rejected: bool  # a person decided that it is of no use
    answer: str | None  # of the model, which did not learn from the label
    confidence: float | None


def export(run: Path, items: Items, format: Format, out: Path | None) -> None:
    """Write the file, and say what to do with it; ``tutelage.api.review`` has the arguments.

    Every image of the run's data is in it that can be read, those to label next first.
    """
    out = out or run / _FILES[format]
    refuse_existing(out, _beside(out), *([_config(out)] if format != "csv" else []))
    decided = _decided(run, items)
    files = _files(items.catalog, _beside(out), skipped=read_skipped(run).keys())
    rows = _rows(items, decided, files)
    classes = in_class_order({*decided.classes, *items.classes})
    if not classes and format != "csv":
        raise TutelageError(
            f"{run} knows no classes to choose from; repeat tutelage suggest with --classes, or "
            "export as csv"
        )
    root = _root(rows)
    said = _WRITERS[format](out, rows, classes, root, run)
    if left := len(items.catalog) - len(files):
        said = [f"{counted(left, 'image')} cannot be read: left out", *said]
    labels, answers = sum(row.label is not None for row in rows), sum(bool(r.answer) for r in rows)
    print(
        f"{out}: {counted(len(rows), 'image')}, {counted(labels, 'label')}, "
        f"{counted(answers, 'answer')} of the model"
    )
    print("\n".join(said))


def _decided(run: Path, items: Items) -> Catalog:
    """The data with all that was decided about it, without the images that are of no use."""
    earlier = RunFolder(run).request().get("settings", {}).get("data", {}).get("decisions")
    own = str(run) if (run / FILE).is_file() and read_decisions(run) else None
    places = ",".join(place for place in (earlier, own) if place)
    return apply_decisions(items.catalog, places or None)


def _rows(items: Items, decided: Catalog, files: dict[str, str]) -> list[Exported]:
    """Every image whose file is known: those to label next, and then in the catalog's order."""
    names, catalog = [*decided.classes, None], items.catalog
    labels = {name: names[label] for name, label in zip(decided.names, decided.labels, strict=True)}
    answers = {
        items.name(item): (answer, float(items.confidence[item]))
        for item, answer in enumerate(items.labels)
        if answer is not None
    }
    rows = {
        name: Exported(
            name,
            files[name],
            split,
            labels.get(name),
            name not in labels,
            *answers.get(name, (None, None)),
        )
        for name, split in zip(catalog.names, catalog.splits.tolist(), strict=True)
        if name in files
    }
    order = np.argsort(items.ranks, kind="stable")
    first = [items.name(int(item)) for item in order if items.ranks[item] >= 0]
    return [rows[name] for name in dict.fromkeys([*first, *rows]) if name in rows]


def _files(catalog: Catalog, folder: Path, *, skipped: AbstractSet[str]) -> dict[str, str]:
    """The file of each image by its name, without the ``skipped`` ones.

    Images that lie in no file are written to ``folder``.
    """
    wanted = {name: i for i, name in enumerate(catalog.names) if name not in skipped}
    paths = {name: _path(catalog.source, i) for name, i in wanted.items()}
    known = {name: os.path.abspath(path) for name, path in paths.items() if path is not None}
    inside = [i for name, i in wanted.items() if name not in known]
    if not inside:
        return {name: path for name, path in known.items() if os.path.isfile(path)}
    with new_folder(folder) as building:
        for i in inside:
            try:
                content = catalog.source.read(i)
            except OSError:
                continue
            name = _file_name(catalog.names[i], i, content)
            (building / name).parent.mkdir(parents=True, exist_ok=True)
            (building / name).write_bytes(content)
            known[catalog.names[i]] = os.path.abspath(folder / name)
    return known


def _path(source: Source, index: int) -> str | None:
    """The file that an image lies in by itself, if any."""
    if isinstance(source, FileSource):
        return source.paths[index]
    if isinstance(source, Parts):
        return _path(source.sources[int(source.which[index])], int(source.rows[index]))
    return None


def _file_name(name: str, index: int, content: bytes) -> str:
    """A name for the file of image ``index`` that every system takes, with a suffix."""
    safe = re.sub(r"[^\w./-]", "-", name)
    if safe != name or ".." in PurePosixPath(safe).parts or safe.startswith("/"):
        safe = f"{index:06d}-{PurePosixPath(safe).name}"  # two names must not become one
    if is_image(safe):
        return safe
    try:
        return f"{safe}.{Image.open(io.BytesIO(content)).format}".lower()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return f"{safe}.img"


def _root(rows: Sequence[Exported]) -> Path:
    """The folder that the names start from, or else the one that holds all images."""
    if not rows:
        raise TutelageError("none of the run's images can be read; restore the data")
    bases = {row.file.removesuffix(f"{os.sep}{row.name}") for row in rows}
    if len(bases) == 1 and rows[0].file not in bases:
        return Path(bases.pop())
    return Path(os.path.commonpath([os.path.dirname(row.file) for row in rows]))


def _inside(row: Exported, root: Path) -> str:
    """The path of an image below a folder."""
    return os.path.relpath(row.file, root).replace(os.sep, "/")


def _label_studio(
    out: Path, rows: Sequence[Exported], classes: Sequence[str], root: Path, run: Path
) -> list[str]:
    served = root.parent  # Label Studio serves what lies in a folder of it, never it itself
    tasks = [_task(row, served, run) for row in rows]
    write_atomically(out, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in classes)
    write_atomically(
        _config(out),
        '<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="{QUESTION}" toName="image" choice="single" showInLine="true">\n'
        f"{choices}  </Choices>\n</View>\n",
    )
    return [
        "start Label Studio so that it may show the images:",
        "  LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={shlex.quote(str(served))} label-studio start",
        f"make a project there; paste {_config(out)} into Settings, Labeling Interface, Code",
        f"in Settings, Cloud Storage add a source storage: Local files, {root}; do not sync it",
        f"import {out}; when you are done, export as JSON; "
        f"{_learning('FILE.json', root)} learns from it",
    ]


def _task(row: Exported, served: Path, run: Path) -> dict[str, Any]:
    image = f"/data/local-files/?d={quote(_inside(row, served))}"
    data = {"image": image, SPLIT: row.split, NAME: row.name, FILE_FIELD: row.file}
    task: dict[str, Any] = {"data": data}
    if row.rejected:
        task["annotations"] = [{"result": [], "was_cancelled": True}]
    elif row.label is not None:
        task["annotations"] = [{"result": _choice(row.label)}]
    if row.answer is not None:
        score, by = round(row.confidence or 0.0, 4), f"tutelage {run.name}"
        prediction = {"model_version": by, "score": score, "result": _choice(row.answer)}
        task["predictions"] = [prediction]
    return task


def _choice(label: str) -> list[dict[str, Any]]:
    about = {"from_name": QUESTION, "to_name": "image", "type": "choices"}
    return [{**about, "value": {"choices": [label]}}]


def _cvat(
    out: Path, rows: Sequence[Exported], classes: Sequence[str], root: Path, run: Path
) -> list[str]:
    """Tags for the labels, and for the model's answers tags of labels of their own."""
    marks = {split: mark for mark, split in SPLITS.items()}
    labels = [*classes, *(name + PREDICTED for name in classes), OF_NO_USE, *SPLITS]
    root_of_tree = ElementTree.Element("annotations")
    ElementTree.SubElement(root_of_tree, "version").text = "1.1"
    meta = ElementTree.SubElement(root_of_tree, "meta")
    known = ElementTree.SubElement(ElementTree.SubElement(meta, "task"), "labels")
    for name in labels:
        ElementTree.SubElement(ElementTree.SubElement(known, "label"), "name").text = name
    for number, row in enumerate(rows, start=_NO_FRAME):
        tags = [row.label] if row.label is not None else []
        tags += [row.answer + PREDICTED] if row.answer is not None else []
        tags += [OF_NO_USE] if row.rejected else []
        tags += [marks[row.split]] if row.split in marks else []
        about = {"id": str(number), "name": _inside(row, root)}
        image = ElementTree.SubElement(root_of_tree, "image", about)
        for tag in tags:
            ElementTree.SubElement(image, "tag", label=tag)
    ElementTree.indent(root_of_tree)
    write_atomically(out, ElementTree.tostring(root_of_tree, "utf-8", xml_declaration=True))
    constructor = [{"name": name, "type": "tag", "attributes": []} for name in labels]
    write_atomically(_config(out), json.dumps(constructor, indent=1, ensure_ascii=False) + "\n")
    return [
        f"make a task in CVAT: paste {_config(out)} into its labels (Raw), and give it the images "
        f"in {root}, as a zip of that folder's content or by a share, so that they keep their "
        "folders",
        f"upload {out} as annotations, CVAT 1.1; a label that ends with{PREDICTED} is the model's: "
        "give the image the label without it",
        'when you are done, export the task as "CVAT for images 1.1"; '
        f"{_learning('annotations.xml', root)} learns from it",
    ]


def _csv(
    out: Path, rows: Sequence[Exported], classes: Sequence[str], root: Path, run: Path
) -> list[str]:
    lines = [csv_line(["image", "label", "split", "predicted", "confidence"])]
    for row in rows:
        if not row.rejected:
            sure = "" if row.confidence is None else round(row.confidence, 4)
            cells = [_inside(row, root), row.label or "", row.split, row.answer or "", sure]
            lines.append(csv_line(cells))
    write_atomically(out, "".join(lines))
    rejected = sum(row.rejected for row in rows)
    said = [f"{counted(rejected, 'image')} of no use: left out"] if rejected else []
    return [
        *said,
        f"fill in or correct the column label; {_learning(str(out), root)} learns from it",
    ]


_WRITERS = {"label-studio": _label_studio, "cvat": _cvat, "csv": _csv}


def _learning(file: str, root: Path) -> str:
    """The command of a run on what comes back."""
    return shlex.join(["tutelage", "run", file, "--image-root", str(root)])


def _beside(out: Path) -> Path:
    """The folder for images that lie in no file."""
    return out.with_name(f"{out.stem}-images")


def _config(out: Path) -> Path:
    """The labels as the tool wants them: the labelling interface, or CVAT's constructor."""
    return out.with_name(f"{out.stem}-labels{'.xml' if out.suffix == '.json' else '.json'}")
