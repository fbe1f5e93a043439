"""A model's answers for images in memory, as people and programs get them, also in files.

Imports no torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tutelage.data.decode import UnreadableImage
from tutelage.system.errors import TutelageError, need, refuse_existing
from tutelage.system.files import csv_line, replacing
from tutelage.system.process import cores

KNOWN = 20  # classes that an error names
CLASSES_SHOWN = 10  # in a summary
SUFFIXES = (".csv", ".jsonl", ".parquet")  # of files of answers
IN_FLIGHT = 1024  # images given to the threads at once; bounds the results that wait in memory
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        image: its name.
        label: most likely class, or the one that the decision threshold gives; "unknown" if the
            image was rejected.
        confidence: probability of that class.
        probabilities: class -> probability.
        rejected: the image looks like none of the classes; None if rejection was not asked for.
    """

    image: str
    label: str
    confidence: float
    probabilities: dict[str, float]
    rejected: bool | None = None


def answer(
    opened: Any,
    names: Sequence[str],
    pixels: Sequence[np.ndarray],
    *,
    reject: bool,
    threshold: tuple[str, float] | None = None,
) -> list[Prediction]:
    """Predictions of an ``OnnxModel`` or a ``TorchModel`` for N named images, uint8 (H, W, 3).

    With ``reject`` they also say which images look like none of the classes; the model must have a
    threshold for them. ``threshold`` takes the place of the model's own decision threshold.
    """
    rejected: list[bool | None] = [None] * len(names)
    if reject:
        probabilities, energy = opened.answers(pixels)
        rejected = [bool(e > opened.unknown_threshold) for e in energy]
    else:
        probabilities = opened.probabilities(pixels)
    chosen = decide(probabilities, opened.classes, threshold or opened.decision_threshold)
    rows = []
    for name, probs, best, out in zip(names, probabilities, chosen, rejected, strict=True):
        label = _unknown(opened.classes) if out else opened.classes[best]
        by_class = dict(zip(opened.classes, (float(p) for p in probs), strict=True))
        rows.append(Prediction(name, label, float(probs[best]), by_class, out))
    return rows


def decide(
    probabilities: np.ndarray, classes: Sequence[str], threshold: tuple[str, float] | None
) -> np.ndarray:
    """Indices (N,) of the classes that images are called after, from their probabilities (N, K).

    That is the likeliest class. With a threshold (class, P) it is this class where its probability
    is at least P, and the likeliest of the others elsewhere.
    """
    if threshold is None:
        return np.asarray(probabilities.argmax(axis=1))
    name, least = threshold
    own = list(classes).index(name)
    others = probabilities.copy()
    others[:, own] = -1.0
    return np.where(probabilities[:, own] >= least, own, others.argmax(axis=1))


def threshold_text(threshold: tuple[str, float]) -> str:
    """The text of a decision threshold (class, P), as ``read_threshold`` takes it."""
    return "{}={:g}".format(*threshold)


def read_threshold(text: str, classes: Sequence[str]) -> tuple[str, float]:
    """A decision threshold (class, P) from its text, ``defective=0.3``."""
    name, _, number = text.rpartition("=")
    with suppress(ValueError):
        if name in classes and 0 <= float(number) <= 1:
            return name, float(number)
    known = ", ".join(classes[:KNOWN]) + (", ..." if len(classes) > KNOWN else "")
    raise TutelageError(
        f"--threshold {text}: expected CLASS=P, such as {classes[0]}=0.3, with a probability from "
        f"0 to 1 and one of the model's classes: {known}"
    )


def each_image(
    work: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result | UnreadableImage | OSError]:
    """Yield the results of ``work`` in the order of the items, or the error of an unreadable image.

    Several threads call it, on all cores: one image is decoded while another is classified, since
    Pillow and onnxruntime let other threads go on while they compute.
    """

    def attempt(item: Item) -> Result | UnreadableImage | OSError:
        try:
            return work(item)
        except (UnreadableImage, OSError) as error:
            return error

    if len(items) == 1:  # starting threads takes longer than a small model
        yield attempt(items[0])
        return
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(items), IN_FLIGHT):
            yield from pool.map(attempt, items[start : start + IN_FLIGHT])


def decided_otherwise(rows: Sequence[Prediction]) -> int:
    """How many images a decision threshold calls by another class than the likeliest."""
    return sum(
        not row.rejected and row.label != max(row.probabilities, key=row.probabilities.__getitem__)
        for row in rows
    )


def summary(rows: Sequence[Prediction], skipped: int) -> str:
    """How many images there were, how many could not be read, and how many each class has."""
    total = len(rows) + skipped
    classes = Counter(row.label for row in rows).most_common()
    parts = [f"{name} ({count:,})" for name, count in classes[:CLASSES_SHOWN]]
    if rest := classes[CLASSES_SHOWN:]:
        parts.append(f"{len(rest):,} other classes ({sum(count for _, count in rest):,})")
    aside = f", {skipped:,} of them skipped" if skipped else ""
    return f"{total:,} image{'s' * (total != 1)}{aside}: {', '.join(parts)}"


def _unknown(classes: Sequence[str]) -> str:
    """The label of rejected images, which is not the name of any class."""
    label = "unknown"
    while label in classes:
        label = f"({label})"
    return label


def check_suffix(path: Path) -> None:
    """Refuse a file that exists, or whose suffix names no known format."""
    if path.suffix not in SUFFIXES:
        raise TutelageError(f"--out {path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        need("pyarrow", "train")
    refuse_existing(path)


def write_predictions(rows: Sequence[Prediction], path: Path) -> None:
    """Write predictions atomically.

    A .csv has a column ``p_<class>`` for each probability, which people read and which has six
    digits there; in .jsonl they are an object, in .parquet a map, and exact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if path.suffix == ".csv":
            _write_csv(rows, partial)
        elif path.suffix == ".parquet":
            _write_parquet(rows, partial)
        else:
            partial.write_text("".join(line + "\n" for line in as_json_lines(rows)), "utf-8")


def _write_csv(rows: Sequence[Prediction], path: Path) -> None:
    """A column for each class; the mark at the start tells spreadsheets that it is UTF-8.

    Six digits are as far as a float32 knows a probability: they are the same in any runtime.
    """
    asked = [name for name in _asked(rows) if name == "rejected"]
    classes = list(rows[0].probabilities) if rows else []
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        columns = ["image", "label", "confidence", *asked, *(f"p_{name}" for name in classes)]
        file.write(csv_line(columns))
        for row in rows:
            said = [json.dumps(row.rejected)] * len(asked)
            figures = [f"{row.probabilities[name]:.6g}" for name in classes]
            file.write(csv_line([row.image, row.label, f"{row.confidence:.6g}", *said, *figures]))


def _asked(rows: Sequence[Prediction]) -> list[str]:
    """Names of the columns; ``rejected`` only if somebody asked for it."""
    asked = any(row.rejected is not None for row in rows)
    return [field.name for field in fields(Prediction) if field.name != "rejected" or asked]


def formula_cells(rows: Sequence[Prediction]) -> int:
    """How many names and labels a spreadsheet would take for formulas.

    They are written unchanged: programs that read the file need the exact names, and OWASP calls no
    escape safe for all spreadsheets (owasp.org/www-community/attacks/CSV_Injection).
    """
    cells = [cell for row in rows for cell in (row.image, row.label)]
    return sum(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)


def as_json_lines(rows: Sequence[Prediction]) -> list[str]:
    """One JSON object a prediction."""
    names = _asked(rows)
    return [
        json.dumps({name: getattr(row, name) for name in names}, ensure_ascii=False) for row in rows
    ]


def _write_parquet(rows: Sequence[Prediction], path: Path) -> None:
    arrow, parquet = need("pyarrow", "train"), need("pyarrow.parquet", "train")
    types = {
        "image": arrow.string(),
        "label": arrow.string(),
        "confidence": arrow.float64(),
        "probabilities": arrow.map_(arrow.string(), arrow.float64()),
        "rejected": arrow.bool_(),
    }
    schema = arrow.schema({name: types[name] for name in _asked(rows)})
    table = [{**vars(row), "probabilities": list(row.probabilities.items())} for row in rows]
    parquet.write_table(arrow.Table.from_pylist(table, schema=schema), path)
