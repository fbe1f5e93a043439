"""The folder of a pool's labels: which file is what, and how each appears."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.shards import Shard
from tutelage.deploy.label_table import about
from tutelage.system.errors import TutelageError
from tutelage.system.files import replacing, sweep, write_atomically
from tutelage.system.locks import lock

SUMMARY, OPTIONS, LABELS, FAILED = "label.json", "options.json", "labels", "failed"


@dataclass(frozen=True)
class LabelFolder:
    """What a pool's labels are written to; everything that is done there is done here.

    Each file appears in one step, so another process never sees a half-written one.
    """

    path: Path

    def make(self) -> None:
        """Make the folder, unless it is there."""
        for name in (LABELS, FAILED):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Refuse a place where the folder is not the one that ``make`` has made.

        Raises:
            TutelageError: it is not there.
        """
        if not (self.path / LABELS).is_dir():
            raise TutelageError(
                f"{platform.node()} does not see the folder {self.path}; --out must be one that "
                "all machines share"
            )

    @contextmanager
    def claimed(self, work: str) -> Iterator[None]:
        """Keep other processes from this part of the work, where the file system has locks.

        Raises:
            TutelageError: another process does it.
        """
        with (self.path / f".{work}.lock").open("w") as file:
            lock(
                file,
                f"another process labels this pool in {self.path}; wait until it ends. To divide "
                "the work among several, give them --share 1/2 and --share 2/2",
            )
            yield

    def pin(self, options: dict[str, Any]) -> None:
        """Write what the folder's labels are made with, or refuse a folder of other labels.

        What was written is read again: of two commands that begin at once, one stops here.
        """
        path = self.path / OPTIONS
        if not path.exists():
            write_atomically(path, json.dumps(options, indent=2, ensure_ascii=False) + "\n")
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TutelageError(f"{path} is damaged ({error}); delete it or {self.path}") from error
        theirs = found if isinstance(found, dict) else {}
        if changed := [key for key, value in options.items() if theirs.get(key) != value]:
            raise TutelageError(
                f"{self.path} holds labels that were made with another {' and '.join(changed)}; "
                f"choose another --out, or delete {self.path} to label anew"
            )

    def labels_of(self, shard: Shard) -> Path:
        """The file of a shard's labels."""
        return self.path / LABELS / f"{_name(shard)}.parquet"

    def has_labels(self, shard: Shard) -> bool:
        """Whether a shard has labels, damaged ones included."""
        return self.labels_of(shard).exists()

    def about(self, shard: Shard) -> dict[str, Any] | None:
        """What a shard's labels say about themselves (see ``label_table.about``), or None."""
        return about(self.labels_of(shard))

    def writing(self, shard: Shard) -> AbstractContextManager[Path]:
        """A file to write a shard's labels to, which become its labels in the end."""
        return replacing(self.labels_of(shard))

    def others(self, shards: Sequence[Shard]) -> int:
        """How many shards have labels here besides these."""
        expected = {self.labels_of(shard) for shard in shards}
        return sum(path not in expected for path in (self.path / LABELS).glob("*.parquet"))

    def fail(self, shard: Shard, reason: str) -> dict[str, str]:
        """Write why a shard has no labels, as ``failure`` returns it."""
        record = {"shard": shard.name, "reason": reason}
        write_atomically(self._failure(shard), json.dumps(record, indent=2) + "\n")
        return record

    def failure(self, shard: Shard) -> dict[str, str] | None:
        """The shard and the reason that it has no labels, if it was tried without success."""
        path = self._failure(shard)
        if not path.exists():
            return None
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def forget_failure(self, shard: Shard) -> None:
        """Take back what ``fail`` wrote; the shard is labelled now."""
        self._failure(shard).unlink(missing_ok=True)

    def summarise(self, content: dict[str, Any]) -> None:
        """Write the sum of all labels."""
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / SUMMARY, text)

    def sweep(self, shards: Sequence[Shard]) -> None:
        """Delete what processes that were killed left half-written for these shards."""
        names = {path.name for one in shards for path in (self.labels_of(one), self._failure(one))}
        sweep(self.path, {*names, SUMMARY, OPTIONS})

    def _failure(self, shard: Shard) -> Path:
        return self.path / FAILED / f"{_name(shard)}.json"


def _name(shard: Shard) -> str:
    """The name, without suffix, of a shard's files: readable, and different for each shard."""
    name = shard.name
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=5).hexdigest()
    base = re.sub(r"\.(tar|parquet)$", "", name.rstrip("/").rpartition("/")[2], flags=re.I)
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', base).strip('.-')[:80]}-{digest}"
