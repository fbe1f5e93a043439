"""The folder of a pool's labels: which file is what, and how each appears."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.data.shards import Shard
from tutelage.deploy.label_table import about
from tutelage.system.errors import TutelageError
from tutelage.system.files import sweep
from tutelage.system.locks import lock
from tutelage.system.storage import Place

SUMMARY, OPTIONS, LABELS, FAILED = "label.json", "options.json", "labels", "failed"


@dataclass(frozen=True)
class LabelFolder:
    """What a pool's labels are written to; everything that is done there is done here.

    Each file appears in one step, so another process never sees a half-written one.
    """

    place: Place

    def make(self) -> None:
        """Make the folder, unless it is there."""
        for name in (LABELS, FAILED):
            (self.place / name).make_folder()

    def check(self) -> None:
        """Refuse a place where the folder is not the one that ``pin`` was called for.

        Raises:
            TutelageError: it is not.
        """
        if not (self.place / OPTIONS).exists():
            raise TutelageError(
                f"{platform.node()} does not see the folder {self.place}; --out must be one that "
                "all machines share, or the address of a store"
            )

    @contextmanager
    def claimed(self, work: str) -> Iterator[None]:
        """Keep other processes from this part of the work, where the file system has locks.

        Raises:
            TutelageError: another process does it.
        """
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
            file.write(json.dumps(options, indent=2, ensure_ascii=False) + "\n")
        try:
            found = json.loads(file.read_bytes())
        except ValueError as error:
            raise TutelageError(
                f"{file} is damaged ({error}); delete it or {self.place}"
            ) from error
        theirs = found if isinstance(found, dict) else {}
        if changed := [key for key, value in options.items() if theirs.get(key) != value]:
            raise TutelageError(
                f"{self.place} holds labels that were made with another {' and '.join(changed)}; "
                f"choose another --out, or delete {self.place} to label anew"
            )

    def labels_of(self, shard: Shard) -> Place:
        """The file of a shard's labels."""
        return self.place / LABELS / f"{_name(shard)}.parquet"

    def has_labels(self, shard: Shard) -> bool:
        """Whether a shard has labels, damaged ones included."""
        return self.labels_of(shard).exists()

    def about(self, shard: Shard) -> dict[str, Any] | None:
        """What a shard's labels say about themselves (see ``label_table.about``), or None."""
        return about(self.labels_of(shard))

    def writing(self, shard: Shard) -> AbstractContextManager[Path]:
        """A file to write a shard's labels to, which become its labels in the end."""
        return self.labels_of(shard).replacing()

    def without_labels(self, shards: Sequence[Shard]) -> int:
        """How many of these shards have no labels."""
        return len({_name(shard) for shard in shards} - self._labelled())

    def others(self, shards: Sequence[Shard]) -> int:
        """How many shards have labels here besides these."""
        return len(self._labelled() - {_name(shard) for shard in shards})

    def fail(self, shard: Shard, reason: str) -> dict[str, str]:
        """Write why a shard has no labels; returns what is written, its name and the reason."""
        record = {"shard": shard.name, "reason": reason}
        self._failure(shard).write(json.dumps(record, indent=2) + "\n")
        return record

    def failures(self, shards: Sequence[Shard]) -> dict[str, dict[str, str]]:
        """What ``fail`` returned of each shard that was tried without success, by its name."""
        listed, found = set((self.place / FAILED).names()), {}
        for shard in shards:
            if f"{_name(shard)}.json" in listed:
                with suppress(FileNotFoundError):  # another process has just labelled it
                    found[shard.name] = json.loads(self._failure(shard).read_bytes())
        return found

    def forget_failure(self, shard: Shard) -> None:
        """Take back what ``fail`` wrote; the shard is labelled now."""
        self._failure(shard).remove()

    def summarise(self, content: dict[str, Any]) -> None:
        """Write the sum of all labels."""
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (self.place / SUMMARY).write(text)

    def sweep(self, shards: Sequence[Shard]) -> None:
        """Delete what processes that were killed left half-written for these shards.

        An object store has nothing of it; what other servers have is hidden and read by nobody.
        """
        if not self.place.remote:
            names = {f"{_name(shard)}{kind}" for shard in shards for kind in (".parquet", ".json")}
            sweep(Path(self.place.name), {*names, SUMMARY, OPTIONS})

    def _labelled(self) -> set[str]:
        names = (self.place / LABELS).names()
        return {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}

    def _failure(self, shard: Shard) -> Place:
        return self.place / FAILED / f"{_name(shard)}.json"


def _name(shard: Shard) -> str:
    """The name, without suffix, of a shard's files: readable, and different for each shard."""
    name = shard.name
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=5).hexdigest()
    base = re.sub(r"\.(tar|parquet)$", "", name.rstrip("/").rpartition("/")[2], flags=re.I)
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', base).strip('.-')[:80]}-{digest}"
