"""What ``tutelage suggest`` chose, in its folder and as items to label. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.data.runfolder import RunFolder
from tutelage.review.items import LABELLING, Items, data_of, next_run, rows_of
from tutelage.system.errors import TutelageError

FACTS = "suggest.json"


@dataclass(frozen=True)
class Suggested:
    """The images that were chosen, the first to label first; ranks count from 1."""

    images: tuple[str, ...] = ()  # (n,) names in the catalog
    why: tuple[str, ...] = ()  # (n,)
    classes: tuple[str, ...] = ()  # that they may have, as far as they were named

    def to_rows(self) -> list[dict[str, Any]]:
        """The choice as ``suggest.json`` and ``suggested.csv`` have it."""
        pairs = enumerate(zip(self.images, self.why, strict=True), start=1)
        return [{"image": image, "rank": rank, "why": why} for rank, (image, why) in pairs]


def is_suggested(folder: Path) -> bool:
    """Whether ``tutelage suggest`` made a folder."""
    made = (folder / "config.json").is_file()
    return made and RunFolder(folder).request()["command"] == "suggest"


def read_suggested(folder: Path) -> Suggested:
    """What was chosen; nothing where no choice was made yet."""
    if not (folder / FACTS).is_file():
        return Suggested()
    return _parsed(RunFolder(folder).read_json(FACTS), folder / FACTS)


def _parsed(content: Mapping[str, Any], path: Path) -> Suggested:
    try:
        rows = content["suggested"]
        columns = [tuple(row[name] for row in rows) for name in ("image", "why")]
        columns.append(tuple(content["classes"]))
        texts = all(isinstance(text, str) for column in columns for text in column)
    except (KeyError, TypeError):
        texts = False
    if not texts:
        raise TutelageError(
            f"{path} is damaged; restore it, or choose again in another folder (--out)"
        )
    return Suggested(*columns)


def open_suggested(folder: Path, catalog: Catalog | None = None, data: str = "") -> Items:
    """Read what ``tutelage suggest`` chose, to label it.

    If the data was in memory, ``catalog`` is that data, and ``data`` the words for it.
    """
    chosen = read_suggested(folder)
    if not chosen.images:
        raise TutelageError(
            f"{folder} has no images to label: tutelage suggest was cut off; repeat its command"
        )
    catalog = data_of(folder, catalog, data)
    count = len(chosen.images)
    unknown = np.full(count, np.nan)
    return Items(
        views=LABELLING,
        catalog=catalog,
        classes=chosen.classes,
        rows=rows_of(catalog, chosen.images, folder),
        given=[None] * count,
        labels=[None] * count,
        confidence=unknown,
        others=[None] * count,
        suspicion=unknown,
        ranks=np.arange(count),
        why=list(chosen.why),
        sentences=[],
        next_run=next_run(folder),
    )
