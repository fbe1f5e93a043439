"""The labels of one shard as a Parquet file: one row per image; the footer says what made them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tutelage.system.errors import need
from tutelage.system.storage import Place

COUNTS = ("images", "labelled", "accepted", "unknown", "skipped")
UNKNOWN = "looks like none of the classes"
_ABOUT = b"tutelage.label"  # key in the footer
_ROWS = 8192  # of a row group
_FOOTER = 1 << 15  # bytes that hold most footers


class PoolModel(Protocol):
    """A model in two halves: one for many threads, one for the thread that writes a shard."""

    classes: tuple[str, ...]
    unknown_threshold: float | None
    batch: int
    """Images given to ``prepare`` at once."""

    def prepare(self, pixels: Sequence[np.ndarray]) -> Any:
        """Do with uint8 images (H, W, 3) what several threads can do at the same time."""

    def finish(self, prepared: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Do the rest; returns probabilities (N, K), and energies (N,) if there is a threshold."""


@dataclass
class Part:
    """Some images of a shard, in order."""

    names: list[str]
    reasons: list[str | None]  # why an image has no label; None where it has one
    prepared: list[Any]  # by the model, from the images without a reason


def about(file: Place) -> dict[str, Any] | None:
    """What a file of labels says about itself; None if there is no complete one.

    It has the facts that ``LabelTable`` was given, the ``COUNTS``, and ``classes``, a pair
    (labelled, accepted) for each class.

    Raises:
        OSError: the file cannot be read.
    """
    arrow, parquet = need("pyarrow", "train"), need("pyarrow.parquet", "train")
    try:
        end = file.read_bytes(last=_FOOTER)
        # The metadata are the end of the file; their length and four letters follow.
        size = int.from_bytes(end[-8:-4], "little") + 8
        if size > len(end):
            end = file.read_bytes(last=size)
    except FileNotFoundError:
        return None
    try:
        metadata = parquet.read_metadata(arrow.BufferReader(end)).metadata or {}
        found: dict[str, Any] = json.loads(metadata[_ABOUT])
    except (OSError, KeyError, ValueError, arrow.ArrowException):
        return None
    return found


class LabelTable:
    """The rows of a shard, written a row group at a time."""

    def __init__(self, path: Path, model: PoolModel, facts: dict[str, Any]) -> None:
        self._arrow = arrow = need("pyarrow", "train")
        self._model = model
        self._facts = facts
        self._schema = arrow.schema(
            {
                "image": arrow.string(),
                "shard": arrow.string(),
                "label": arrow.dictionary(arrow.int32(), arrow.string()),
                "confidence": arrow.float32(),
                "energy": arrow.float32(),
                "unknown": arrow.bool_(),
                "accepted": arrow.bool_(),
                "reason": arrow.string(),
            }
        )
        parquet = need("pyarrow.parquet", "train")
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._counts = dict.fromkeys(COUNTS, 0)
        self._by_class = np.zeros((len(model.classes), 2), dtype=np.int64)
        self._clear()

    def add(self, part: Part) -> None:
        """Append the rows of some images."""
        self._names += part.names
        self._reasons += part.reasons
        for prepared in part.prepared:
            probabilities, energy = self._model.finish(prepared)
            self._answers.append((probabilities.argmax(axis=1), probabilities.max(axis=1), energy))
        if len(self._names) >= _ROWS:
            self._flush()

    def finish(self) -> None:
        """Write the remaining rows, and the footer."""
        self._flush()
        content = {**self._facts, **self._counts, "classes": self._by_class.tolist()}
        self._writer.add_key_value_metadata({_ABOUT: json.dumps(content)})

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _clear(self) -> None:
        self._names: list[str] = []
        self._reasons: list[str | None] = []
        # Best class, confidence and energy of the images without a reason, batch by batch.
        self._answers: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []

    def _flush(self) -> None:
        if not self._names:
            return
        arrow = self._arrow
        labelled = np.array([reason is None for reason in self._reasons])
        limit, threshold = self._model.unknown_threshold, self._facts["threshold"]
        judged = labelled & (limit is not None)
        best = np.zeros(len(labelled), dtype=np.int32)
        confidence, energy = np.zeros((2, len(labelled)), dtype=np.float32)
        if self._answers:
            bests, confidences, energies = zip(*self._answers, strict=True)
            best[labelled] = np.concatenate(bests)
            confidence[labelled] = np.concatenate(confidences)
            if limit is not None:
                energy[labelled] = np.concatenate(energies)
        unknown = judged & (energy > (np.inf if limit is None else limit))
        accepted = labelled & (confidence >= threshold) & ~unknown
        below = f"confidence below {threshold:g}"
        reasons = [
            reason or (None if taken else UNKNOWN if strange else below)
            for reason, taken, strange in zip(self._reasons, accepted, unknown, strict=True)
        ]
        label = arrow.DictionaryArray.from_arrays(
            arrow.array(best, mask=~labelled), arrow.array(self._model.classes, arrow.string())
        )
        columns = [
            arrow.array(self._names, arrow.string()),
            arrow.array([self._facts["shard"]] * len(labelled), arrow.string()),
            label,
            arrow.array(confidence, mask=~labelled),
            arrow.array(energy, mask=~judged),
            arrow.array(unknown, mask=~judged),
            arrow.array(accepted),
            arrow.array(reasons, arrow.string()),
        ]
        self._writer.write_table(arrow.table(columns, schema=self._schema))
        for column, chosen in enumerate((labelled, accepted)):
            self._by_class[:, column] += np.bincount(best[chosen], minlength=len(self._by_class))
        every = np.ones(len(labelled), dtype=bool)
        for key, chosen in zip(
            COUNTS, (every, labelled, accepted, unknown, ~labelled), strict=True
        ):
            self._counts[key] += int(chosen.sum())
        self._clear()
