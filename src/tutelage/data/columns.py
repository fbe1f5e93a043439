"""Columns of Parquet and Arrow files, which may be damaged or made to do harm."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tutelage.system.errors import TutelageError, need, told


def open_parquet(path: Path | str, file: BinaryIO | None = None) -> Any:
    """Return the ``ParquetFile``; mapped pages of an open ``file`` would count as memory."""
    parquet = need("pyarrow.parquet", "train")
    with undamaged(path):
        if file is None:
            check_file(Path(path))
        size = file.seek(0, os.SEEK_END) if file else os.stat(path).st_size
        opened = parquet.ParquetFile(file or path, memory_map=not file, pre_buffer=False)
        rows = opened.metadata.num_rows
    if rows > size:
        raise TutelageError(f"{path} is damaged: it claims {rows:,} rows in {size:,} bytes")
    return opened


def open_arrow(path: Path) -> Any:
    """Return the memory-mapped table of an Arrow stream file."""
    arrow, ipc = need("pyarrow", "train"), need("pyarrow.ipc", "train")
    with undamaged(path):
        check_file(path)
        return ipc.open_stream(arrow.memory_map(str(path))).read_all()


def check_file(path: Path) -> None:
    """Refuse what might never answer, such as a pipe; OSError if nothing is there."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise TutelageError(f"{path} is not a file but a folder, a pipe, a device or a socket")


@contextlib.contextmanager
def undamaged(path: Path | str) -> Iterator[None]:
    """Turn whatever pyarrow raises on a damaged file into a TutelageError with the reason."""
    try:
        yield
    except TutelageError:
        raise
    except Exception as error:  # nearly every builtin exception, besides those of Arrow
        kind = os.path.splitext(path)[1][1:].capitalize()
        raise TutelageError(f"{path} is not a readable {kind} file: {told(error)}") from error


def sound(column: Any, path: Path | str) -> Any:
    """Check that a column's offsets lie inside its data: others let pyarrow crash the process."""
    with undamaged(path):
        column.validate(full=True)
    return column


def holds_bytes(kind: Any) -> bool:
    """Whether a column of this Arrow type holds bytes, or Hugging Face's struct<bytes, path>."""
    types = need("pyarrow", "train").types
    kind = value_type(kind)
    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def value_type(kind: Any) -> Any:
    """The Arrow type of a column's values, also where they are dictionary-encoded."""
    return kind.value_type if need("pyarrow", "train").types.is_dictionary(kind) else kind


class Table:
    """A ``.parquet`` file, or an ``.arrow`` stream file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._in_arrow = path.suffix == ".arrow"
        # pyarrow's ``ParquetFile``, or the table of an ``.arrow`` file.
        self.opened = open_arrow(path) if self._in_arrow else open_parquet(path)
        self.schema = self.opened.schema if self._in_arrow else self.opened.schema_arrow
        self.count = int((self.opened if self._in_arrow else self.opened.metadata).num_rows)
        self.features = _features(self.schema)  # by column, what Hugging Face records about it

    def column(self, name: str) -> Any:
        """The ``ChunkedArray`` of a column, or in Parquet of a field such as ``image.path``."""
        with undamaged(self.path):
            table = self.opened if self._in_arrow else self.opened.read(columns=[name])
            return sound(table.column(name.partition(".")[0]), self.path)

    def labels(self, name: str) -> tuple[list[Any], list[str] | None]:
        """A column of labels, and the class names that its whole numbers stand for, if any."""
        types = need("pyarrow", "train").types
        kind = value_type(self.schema.field(name).type)
        fitting = ("string", "large_string", "integer", "floating", "boolean", "null")
        if not any(getattr(types, f"is_{of}")(kind) for of in fitting):
            raise TutelageError(
                f"{self.path}: column {name} holds {kind}; expected class names or whole numbers"
            )
        names = self.features.get(name, {}).get("names")
        texts = isinstance(names, list) and all(isinstance(text, str) for text in names)
        if names is not None and not texts:
            raise TutelageError(
                f"the class names of the data set are {str(names)[:80]}; expected a list of texts"
            )
        return self.column(name).to_pylist(), names


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    try:
        found: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for key in ("info", "features"):
            found = found.get(key, {})
        return {name: dict(of) for name, of in found.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TutelageError(
            f"the metadata of Hugging Face in the data set is damaged ({error}); save it again"
        ) from error


def label_text(value: Any, names: Sequence[str] | None = None) -> str:
    """A label as a class name, empty for none; with ``names``, whole numbers count these from 0."""
    if value is None or value != value:  # pandas writes a missing whole number as NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not names:
        return str(value).strip()
    if not isinstance(value, int) or value >= len(names):
        raise TutelageError(
            f"a label is {value}, but there are {len(names)} class names: {', '.join(names)}; "
            "number the classes from 0, and give -1 to what has no label"
        )
    return names[value] if value >= 0 else ""
