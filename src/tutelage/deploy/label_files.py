"""The files of a pool's labels: a table for each shard, their folder, and what was accepted.

Each file appears in one step, so another process never sees a half-written one.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from tutelage.data import layout
from tutelage.data.decode import UnreadableImage
from tutelage.data.shards import Block, Shard
from tutelage.data.sources import FileSource
from tutelage.data.tables import LABELLED_BY
from tutelage.system.errors import TutelageError, need, refuse_existing
from tutelage.system.files import csv_line, lock, replacing, sweep
from tutelage.system.storage import Place

SUMMARY, OPTIONS, LABELS = "label.json", "options.json", "labels"
COUNTS = ("images", "labelled", "accepted", "unknown", "skipped")
UNKNOWN = "looks like none of the classes"
_ABOUT = b"tutelage.label"  # key in the footer of a shard's labels
_FOOTER = 1 << 15  # bytes that hold most footers
_LABEL_ROWS = 8192  # of a row group
_IMAGE_ROWS = 64  # of a row group that holds images, which are in memory at once


class PoolModel(Protocol):
    """A model in two halves: one for many threads, one for the thread that writes a shard."""

    classes: tuple[str, ...]
    unknown_threshold: float | None
    batch: int
    """Images given to ``prepare`` at once."""

    def prepare(self, pixels: Sequence[np.ndarray]) -> Any:
        """Do with uint8 images (H, W, 3) what several threads can do at the same time."""

    def finish(self, prepared: Any) -> tuple[np.ndarray, np.ndarray]:
        """Do the rest; returns probabilities (N, K) and energies (N,)."""


@dataclass
class Part:
    """Some images of a shard, in order."""

    names: list[str]
    reasons: list[str | None]  # why an image has no label; None where it has one
    prepared: list[Any]  # by the model, from the images without a reason


def about(file: Place) -> dict[str, Any] | None:
    """What a shard's labels say about themselves; None if there is no complete file of them.

    It has the facts that ``write_labels`` was given, the ``COUNTS``, and ``classes``, a pair
    (labelled, accepted) for each class. The footer says it: a table in a store is not read whole.
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


def write_labels(
    path: Path, parts: Iterator[Part], model: PoolModel, facts: dict[str, Any]
) -> None:
    """Write the labels of a shard: a row for each image, a row group at a time, and the footer."""
    arrow, parquet = need("pyarrow", "train"), need("pyarrow.parquet", "train")
    schema = arrow.schema(
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
    limit, threshold = model.unknown_threshold, facts["threshold"]
    below = f"confidence below {threshold:g}"
    classes = arrow.array(model.classes, arrow.string())
    counts = dict.fromkeys(COUNTS, 0)
    by_class = np.zeros((len(model.classes), 2), dtype=np.int64)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while rows := _row_group(parts, model):
            names, skipped, best, confidence, energy = rows
            labelled = np.array([reason is None for reason in skipped])
            judged = labelled & (limit is not None)
            unknown = judged & (energy > (np.inf if limit is None else limit))
            accepted = labelled & (confidence >= threshold) & ~unknown
            reasons = [
                reason or (None if taken else UNKNOWN if strange else below)
                for reason, taken, strange in zip(skipped, accepted, unknown, strict=True)
            ]
            label = arrow.array(best, mask=~labelled)
            columns = [
                arrow.array(names, arrow.string()),
                arrow.array([facts["shard"]] * len(names), arrow.string()),
                arrow.DictionaryArray.from_arrays(label, classes),
                arrow.array(confidence, mask=~labelled),
                arrow.array(energy, mask=~judged),
                arrow.array(unknown, mask=~judged),
                arrow.array(accepted),
                arrow.array(reasons, arrow.string()),
            ]
            writer.write_table(arrow.table(columns, schema=schema))
            for column, chosen in enumerate((labelled, accepted)):
                by_class[:, column] += np.bincount(best[chosen], minlength=len(by_class))
            counted = (np.ones_like(labelled), labelled, accepted, unknown, ~labelled)
            for key, chosen in zip(COUNTS, counted, strict=True):
                counts[key] += int(chosen.sum())
        content = {**facts, **counts, "classes": by_class.tolist()}
        writer.add_key_value_metadata({_ABOUT: json.dumps(content)})


def _row_group(
    parts: Iterator[Part], model: PoolModel
) -> tuple[list[str], list[str | None], np.ndarray, np.ndarray, np.ndarray] | None:
    """Names and reasons of the next images, and arrays (N,): best class, confidence and energy.

    The arrays hold zeros where there is a reason. None at the end.
    """
    names: list[str] = []
    reasons: list[str | None] = []
    answers: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for part in parts:
        names += part.names
        reasons += part.reasons
        for prepared in part.prepared:
            probabilities, energies = model.finish(prepared)
            answers.append((probabilities.argmax(axis=1), probabilities.max(axis=1), energies))
        if len(names) >= _LABEL_ROWS:
            break
    if not names:
        return None
    best = np.zeros(len(names), dtype=np.int32)
    confidence, energy = np.zeros((2, len(names)), dtype=np.float32)
    if answers:
        labelled = [reason is None for reason in reasons]
        for column, found in zip(
            (best, confidence, energy), zip(*answers, strict=True), strict=True
        ):
            column[labelled] = np.concatenate(found)
    return names, reasons, best, confidence, energy


@dataclass(frozen=True)
class LabelFolder:
    """What a pool's labels are written to."""

    place: Place

    def check(self) -> None:
        """Refuse a place where the folder is not the one that ``pin`` was called for."""
        if not (self.place / OPTIONS).exists():
            raise TutelageError(
                f"{platform.node()} does not see the folder {self.place}; --out must be one that "
                "all machines share, or the address of a store"
            )

    @contextmanager
    def claimed(self, work: str) -> Iterator[None]:
        """Make the folder; keep others from this part of the work, where the disk has locks."""
        (self.place / LABELS).make_folder()
        if self.place.remote:
            yield
            return
        with open((self.place / f".{work}.lock").name, "w") as file:
            lock(
                file,
                f"another process labels this pool in {self.place}; wait until it ends. To divide "
                "the work among several, give them --share 1/2 and --share 2/2",
            )
            yield

    def pin(self, options: dict[str, Any]) -> None:
        """Write what the folder's labels are made with, or refuse a folder of other labels.

        What was written is read again: of two commands that begin at once, one stops here.
        """
        file = self.place / OPTIONS
        if not file.exists():
            if (self.place / SUMMARY).exists():
                raise TutelageError(
                    f"{self.place} holds a {SUMMARY} and no {OPTIONS}, so it is no folder of "
                    "labels; choose another --out"
                )
            file.write(as_text(options))
        found = None  # damaged
        with suppress(ValueError):
            found = json.loads(file.read_bytes())
        theirs = found if isinstance(found, dict) else {}
        if changed := [key for key, value in options.items() if theirs.get(key) != value]:
            raise TutelageError(
                f"{self.place} holds labels that were made with another {' and '.join(changed)}; "
                f"choose another --out, or delete {self.place} to label anew"
            )

    def labels_of(self, shard: Shard) -> Place:
        """The file of a shard's labels; its name is readable, and different for each shard."""
        name = shard.name
        digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=5).hexdigest()
        base = re.sub(r"\.(tar|parquet)$", "", name.rstrip("/").rpartition("/")[2], flags=re.I)
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip(".-")[:80]
        return self.place / LABELS / f"{readable}-{digest}.parquet"

    def labelled(self) -> set[Place]:
        """The files of labels that are here."""
        folder = self.place / LABELS
        return {folder / name for name in folder.names() if name.endswith(".parquet")}

    def sweep(self, shards: Sequence[Shard]) -> None:
        """Delete what processes that were killed left half-written for these shards.

        An object store has nothing of it; what other servers have is hidden and read by nobody.
        """
        if not self.place.remote:
            names = {os.path.basename(self.labels_of(shard).name) for shard in shards}
            sweep(Path(self.place.name), {*names, SUMMARY, OPTIONS})


def as_text(content: dict[str, Any]) -> str:
    """What a file of this folder holds, for people, too."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def check_manifest(name: Path | str, shards: Sequence[Shard]) -> Path:
    """Refuse a manifest that could not be written, before any work is done."""
    if Place.at(name).remote:
        raise TutelageError(f"--accepted {name} is an address; give a path on this machine")
    path = Path(name)
    if path.suffix not in (".csv", ".parquet"):
        raise TutelageError(
            f"--accepted {path}: expected .csv (paths) or .parquet (the images themselves)"
        )
    refuse_existing(path)
    inside = [shard for shard in shards if _path_of(shard, 0) is None]
    if path.suffix == ".csv" and inside:
        raise TutelageError(
            f"--accepted {path}: the images of {inside[0].name} have no paths here; give a "
            ".parquet file, which holds the images themselves"
        )
    return path


def _path_of(shard: Shard, number: int) -> str | None:
    """The path of an image, by its number in the shard; None if it lies in no file here."""
    if isinstance(shard, Block) and isinstance(shard.source, FileSource):
        return shard.source.paths[number]
    return None


def write_accepted(shards: Sequence[Shard], out: LabelFolder, path: Path) -> None:
    """Write a manifest of the images whose pseudo-label was accepted, in the order of the pool.

    The columns are ``image`` (in .csv the path, relative to the manifest; in .parquet the bytes),
    ``label``, ``split`` (train) and ``labelled_by`` (the model), and in .parquet also ``file``
    (shard and image). All shards have labels in the folder ``out``, or it is an error, as it is
    where one has changed since. ``check_manifest`` has checked ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if path.suffix == ".csv":
            columns = ("image", "label", "split", LABELLED_BY)
            with partial.open("w", encoding="utf-8", newline="") as file:
                file.write(csv_line(columns))
                for row in _accepted(shards, out, beside=str(path.parent)):
                    file.write(csv_line([row[name] for name in columns]))
            return
        arrow, parquet = need("pyarrow", "train"), need("pyarrow.parquet", "train")
        texts = dict.fromkeys(("label", "split", "file", LABELLED_BY), arrow.string())
        schema = arrow.schema({"image": arrow.large_binary(), **texts})
        rows = _accepted(shards, out, beside=None)
        with parquet.ParquetWriter(partial, schema, compression="none") as writer:
            while group := list(itertools.islice(rows, _IMAGE_ROWS)):
                writer.write_table(arrow.Table.from_pylist(group, schema=schema))


def _accepted(
    shards: Sequence[Shard], out: LabelFolder, beside: str | None
) -> Iterator[dict[str, Any]]:
    """The rows of a manifest: with the images' paths from the folder ``beside``, or the images."""
    for shard in shards:
        if (known := about(out.labels_of(shard))) is None:
            raise TutelageError(f"{shard.name} has no labels in {out.place}; repeat the command")
        by = f"tutelage pseudo-label: model {known['model']}, threshold {known['threshold']:g}"
        to_its_end = threading.Event()
        try:
            if known["fingerprint"] != shard.fingerprint():
                raise ValueError("it is of another time or size")
            with (
                out.labels_of(shard).opened(to_its_end) as labels,
                shard.opened(to_its_end) as entries,
            ):
                both = zip(entries, _rows(labels), strict=True)
                for number, ((name, read), row) in enumerate(both):
                    if name != row["image"]:
                        raise ValueError(f"{name} is in the place of {row['image']}")
                    if row["accepted"]:
                        yield {
                            "image": read() if beside is None else _way(beside, shard, number),
                            "label": row["label"],
                            "split": "train",
                            "file": f"{shard.name}/{name}",
                            LABELLED_BY: by,
                        }
        except (ValueError, UnreadableImage, OSError) as error:
            raise TutelageError(
                f"{shard.name} has changed since it was labelled ({error}); repeat the command"
            ) from error


def _rows(labels: BinaryIO) -> Iterator[dict[str, Any]]:
    table = need("pyarrow.parquet", "train").ParquetFile(labels)
    for batch in table.iter_batches(columns=["image", "label", "accepted"]):
        yield from batch.to_pylist()


def _way(start: str, shard: Shard, number: int) -> str:
    """The path of an image from a folder."""
    path = _path_of(shard, number)
    assert path is not None  # ``check_manifest`` has seen to it
    folder, name = os.path.split(path)
    return layout.as_text(os.path.normpath(os.path.join(_way_to(start, folder), name)))


@lru_cache  # one folder has many images
def _way_to(start: str, folder: str) -> str:
    # Links are resolved, as ".." leads out of the folder that one leads into.
    return os.path.relpath(os.path.realpath(folder), os.path.realpath(start))
