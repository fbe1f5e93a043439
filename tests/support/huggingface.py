"""Data sets in the layouts of Hugging Face, written by pyarrow, and a stand-in for its objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

NAMES = ("bee", "ant")  # not sorted


def table(
    images: Sequence[bytes | None],
    labels: Sequence[int | None],
    *,
    paths: Sequence[str] | None = None,
    image: str = "image",
    label: str = "label",
    names: Sequence[str] = NAMES,
) -> pyarrow.Table:
    """Images as structs, labels as whole numbers, and what the hub writes beside them."""
    kinds = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
    where = paths or [None] * len(images)
    pairs = [{"bytes": b, "path": p} for b, p in zip(images, where, strict=True)]
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [(image, struct), (label, pyarrow.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": kinds}})},
    )
    return pyarrow.table({image: pairs, label: list(labels)}, schema=schema)


def save_to_disk(splits: dict[str, pyarrow.Table], folder: Path, shards: int = 1) -> Path:
    """As ``DatasetDict.save_to_disk``."""
    folder.mkdir(parents=True)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    for name, rows in splits.items():
        save_split_to_disk(rows, folder / name, shards)
    return folder


def save_split_to_disk(rows: pyarrow.Table, folder: Path, shards: int = 1) -> Path:
    """As ``Dataset.save_to_disk``."""
    folder.mkdir(parents=True)
    files = []
    for number, part in enumerate(_shards(rows, shards)):
        files.append({"filename": f"data-{number:05d}-of-{shards:05d}.arrow"})
        with pyarrow.ipc.new_stream(folder / files[-1]["filename"], rows.schema) as stream:
            stream.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": None}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def write_hub(splits: dict[str, pyarrow.Table], folder: Path, shards: int = 1) -> Path:
    """As ``push_to_hub`` lays out its Parquet files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        for number, part in enumerate(_shards(rows, shards)):
            file = folder / f"{name}-{number:05d}-of-{shards:05d}.parquet"
            pyarrow.parquet.write_table(part, file)
    return folder


def _shards(rows: pyarrow.Table, count: int) -> Iterator[pyarrow.Table]:
    ends = [len(rows) * part // count for part in range(count + 1)]
    yield from (rows.slice(a, b - a) for a, b in pairwise(ends))


class Image:
    """A feature, as ``datasets.Image``."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


@dataclass
class ClassLabel:
    """A feature, as ``datasets.ClassLabel``."""

    names: list[str]


@dataclass
class Dataset:
    """As much of ``datasets.Dataset`` as is used; decoding is refused, since it must not happen."""

    rows: list[dict[str, Any]]
    features: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        for name, feature in self.features.items():
            assert not getattr(feature, "decode", False), f"{name} would be decoded"
        if isinstance(index, slice):
            return {name: [row[name] for row in self.rows[index]] for name in self.features}
        return {name: self.rows[index][name] for name in self.features}

    def with_format(self, kind: None) -> Dataset:
        return self

    def select_columns(self, names: list[str]) -> Dataset:
        return replace(self, features={name: self.features[name] for name in names})

    def cast_column(self, name: str, feature: Any) -> Dataset:
        return replace(self, features={**self.features, name: feature})


def dataset(rows: pyarrow.Table) -> Dataset:
    """A table of ``table`` as an object in memory."""
    kinds = {"Image": lambda _: Image(), "ClassLabel": lambda known: ClassLabel(known["names"])}
    meta = json.loads(rows.schema.metadata[b"huggingface"])["info"]["features"]
    features = {name: kinds[known["_type"]](known) for name, known in meta.items()}
    return Dataset(rows.to_pylist(), features)
