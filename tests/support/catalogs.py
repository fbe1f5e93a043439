"""Small data on a disk, and what a catalog makes of it."""

import pyarrow as pa
import pyarrow.parquet as pq


def put(path, data=b"x"):
    """A file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def by_name(catalog):
    """Name -> (class or None, split)."""
    label = [*catalog.classes, None]
    return {
        name: (label[catalog.labels[i]], str(catalog.splits[i]))
        for i, name in enumerate(catalog.names)
    }


def parquet(path, columns, meta=None, **options):
    """A Parquet file; ``meta`` is what Hugging Face writes about the columns."""
    table = pa.table(columns)
    if meta is not None:
        table = table.replace_schema_metadata({"huggingface": meta})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path
