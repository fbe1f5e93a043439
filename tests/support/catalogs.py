"""Small data on a disk, and what a catalog makes of it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tutelage.data.catalog import Catalog
from tutelage.data.sources import FileSource


def put(path, data=b"x"):
    """A file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def of_arrays(names, labels, splits, classes):
    """A catalog of files that are called as it calls the images; labels are indices."""
    columns = np.array(labels, dtype=np.int32), np.array(splits, dtype="<U5")
    return Catalog(tuple(names), *columns, tuple(classes), FileSource(tuple(names)))


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
