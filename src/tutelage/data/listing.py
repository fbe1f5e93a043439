"""What every reader of DATA takes and gives: a path that was looked at, and a listing of files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tutelage.config import TableConfig, option
from tutelage.data.catalog import Catalog, make_catalog
from tutelage.data.layout import files_below, is_image
from tutelage.data.sources import FileSource
from tutelage.system.errors import TutelageError


@dataclass(frozen=True)
class Given:
    """The path that a person gave as DATA, and what shows of it without a look at images."""

    path: Path
    asked: TableConfig
    unused: list[str] = field(default_factory=list)  # why tables beside the images are not used

    @cached_property
    def is_folder(self) -> bool:
        """Whether it is a folder, and not a file."""
        return self.path.is_dir()

    @cached_property
    def suffix(self) -> str:
        """The suffix of a file, in lower case; empty for a folder."""
        return "" if self.is_folder else self.path.suffix.lower()

    @cached_property
    def kinds(self) -> set[str]:
        """The suffixes of the files below a folder, or "image" alone where one is an image."""
        found = set()
        for file in files_below(self.path, []) if self.is_folder else ():
            if is_image(file):
                return {"image"}
            found.add(os.path.splitext(file)[1])
        return found

    @cached_property
    def json(self) -> Any:
        """The content of a JSON file, or None; TutelageError if it is not readable."""
        if self.suffix != ".json":
            return None
        try:
            return json.loads(self.path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise TutelageError(f"{self.path} is not readable JSON: {error}") from error

    @property
    def keys(self) -> set[str]:
        """The keys of a JSON file that holds an object."""
        return {*self.json} if isinstance(self.json, dict) else set()

    def check_no_table(self) -> None:
        """Refuse to pass over what was asked of a table where none is read."""
        if asked := [name for name, value in asdict(self.asked).items() if value is not None]:
            why = "; ".join(self.unused) or f"take out {option(asked[0])}"
            mark = ":" if self.unused else ";"
            raise TutelageError(f"no table of images and labels in {self.path}{mark} {why}")


@dataclass
class Listing:
    """Image files, and what a table, a tool or their folders say of each."""

    names: list[str] = field(default_factory=list)  # in the catalog
    paths: list[str] = field(default_factory=list)  # one may not exist: it cannot be read, then
    labels: list[str] = field(default_factory=list)  # empty = unlabelled
    splits: list[str] = field(default_factory=list)  # as in ``catalog.SPLIT_NAMES``; empty = train
    warnings: list[str] = field(default_factory=list)  # what a user should know, and do about it

    def add(self, name: str, path: str, label: str = "", split: str = "") -> None:
        """List one more image."""
        self.names.append(name)
        self.paths.append(path)
        self.labels.append(label)
        self.splits.append(split)

    def catalog(self, where: Path | str) -> Catalog:
        """The catalog of these files, which errors call ``where``."""
        source = FileSource(tuple(self.paths))
        splits = self.splits or [""] * len(self.names)
        return make_catalog(str(where), self.names, self.labels, splits, source, self.warnings)
