"""The accepted images of a labelled pool as a manifest to train from."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from tutelage.data.decode import UnreadableImage
from tutelage.data.shards import FolderShard, Shard
from tutelage.deploy.label_folder import LabelFolder
from tutelage.system.errors import TutelageError, need
from tutelage.system.files import csv_line, replacing
from tutelage.system.storage import Place

_ROWS = 64  # of a row group: images in memory at once


def check_manifest(name: Path | str, shards: Sequence[Shard]) -> Path:
    """Refuse a manifest that could not be written, before any work is done.

    Raises:
        TutelageError: it exists, is an address, has another suffix, or needs paths of images that
            have none.
    """
    if Place.at(name).remote:
        raise TutelageError(f"--accepted {name} is an address; give a path on this machine")
    path = Path(name)
    if path.suffix not in (".csv", ".parquet"):
        raise TutelageError(
            f"--accepted {path}: expected .csv (paths) or .parquet (the images themselves)"
        )
    if path.exists():
        raise TutelageError(f"--accepted {path} exists; choose another name, or delete it first")
    inside = [s for s in shards if not (isinstance(s, FolderShard) and not s.place.remote)]
    if path.suffix == ".csv" and inside:
        raise TutelageError(
            f"--accepted {path}: the images of {inside[0].name} have no paths here; give a "
            ".parquet file, which holds the images themselves"
        )
    return path


def write_accepted(shards: Sequence[Shard], out: LabelFolder, path: Path) -> None:
    """Write a manifest of the images whose pseudo-label was accepted, in the order of the pool.

    The columns are ``image`` (in .csv the path, relative to the manifest; in .parquet the bytes),
    ``label`` and ``split`` (train), and in .parquet also ``file`` (shard and image). All shards
    have labels in the folder ``out``. ``check_manifest`` has checked ``path``.

    Raises:
        TutelageError: a shard has no labels, has changed since, or its store does not answer.
        OSError: the manifest cannot be written; the labels stay.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if path.suffix == ".csv":
            _write_csv(_accepted(shards, out, contents=False), partial, path.parent)
        else:
            _write_parquet(_accepted(shards, out, contents=True), partial)


def _accepted(
    shards: Sequence[Shard], out: LabelFolder, *, contents: bool
) -> Iterator[tuple[Shard, str, str, bytes]]:
    """(shard, image, label, bytes) of each accepted image; no bytes unless ``contents``."""
    for shard in shards:
        if (known := out.about(shard)) is None:
            raise TutelageError(f"{shard.name} has no labels in {out.place}; repeat the command")
        to_its_end = threading.Event()
        try:
            if known["fingerprint"] != shard.fingerprint():
                raise ValueError("it is of another time or size")
            with (
                out.labels_of(shard).opened(to_its_end) as labels,
                shard.opened(to_its_end) as entries,
            ):
                for (name, read), row in zip(entries, _rows(labels), strict=True):
                    if name != row["image"]:
                        raise ValueError(f"{name} is in the place of {row['image']}")
                    if row["accepted"]:
                        yield shard, name, row["label"], read() if contents else b""
        except (ValueError, UnreadableImage, OSError) as error:
            raise TutelageError(
                f"{shard.name} has changed since it was labelled ({error}); repeat the command"
            ) from error


def _rows(labels: BinaryIO) -> Iterator[dict[str, Any]]:
    table = need("pyarrow.parquet", "train").ParquetFile(labels)
    for batch in table.iter_batches(columns=["image", "label", "accepted"]):
        yield from batch.to_pylist()


def _write_csv(rows: Iterator[tuple[Shard, str, str, bytes]], partial: Path, beside: Path) -> None:
    start = os.path.realpath(beside)  # as ".." leads out of the folder that a link leads into

    @cache
    def way_to(folder: str) -> str:
        return os.path.relpath(os.path.realpath(folder), start)

    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(csv_line(("image", "label", "split")))
        for shard, name, label, _ in rows:
            assert isinstance(shard, FolderShard)  # checked before the work began
            image = os.path.normpath(os.path.join(way_to(shard.place.name), name))
            file.write(csv_line((image, label, "train")))


def _write_parquet(rows: Iterator[tuple[Shard, str, str, bytes]], partial: Path) -> None:
    arrow, parquet = need("pyarrow", "train"), need("pyarrow.parquet", "train")
    text = arrow.string()
    schema = arrow.schema(
        {"image": arrow.large_binary(), "label": text, "split": text, "file": text}
    )
    with parquet.ParquetWriter(partial, schema, compression="none") as writer:
        while group := list(itertools.islice(rows, _ROWS)):
            table = {
                "image": [content for *_, content in group],
                "label": [label for _, _, label, _ in group],
                "split": ["train"] * len(group),
                "file": [f"{shard.name}/{name}" for shard, name, _, _ in group],
            }
            writer.write_table(arrow.table(table, schema=schema))
