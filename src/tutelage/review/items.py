"""The images that a person may decide about, and the commands that come next. Imports no torch."""

from __future__ import annotations

import io
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tutelage.data.catalog import Catalog
from tutelage.data.columns import open_parquet, undamaged
from tutelage.data.decisions import Decision
from tutelage.data.decode import decode
from tutelage.data.open import is_in_memory
from tutelage.data.runfolder import RunFolder, catalog_of, command_line
from tutelage.stats.label_errors import CUT
from tutelage.system.errors import TutelageError
from tutelage.system.words import are, counted, did_you_mean

TABLE, FACTS, SUGGESTED = "review.parquet", "review.json", "suggest.json"
VIEWS = {
    "next": "Unlabelled images, first those like many others that the teacher is unsure of. "
    "It may be sure of the last ones.",
    "suspicious": "All of your own labels, the most doubtful first.",
    "unsure": "All unlabelled images with the teacher's answers, the least sure first.",
    "sure": "All unlabelled images with the teacher's answers, the surest first.",
    "decided": "Your decisions, the latest first.",
}
LABELLING = {
    "suggested": "The images to label first, in this order.",
    "decided": VIEWS["decided"],
}
COLUMNS = ("given", "label", "other", "confidence", "suspicion", "next")  # of the table
SHOWN = 5  # names of runs in an error
Rows = np.ndarray[Any, np.dtype[np.intp]]
Probabilities = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Items:
    """The n images that a person may decide about: those of a run, or those to label first."""

    views: Mapping[str, str]  # name -> what it shows: ``VIEWS`` or ``LABELLING``
    catalog: Catalog
    classes: tuple[str, ...]  # those that are known before the first decision
    rows: Rows  # (n,) the row of each image in the catalog
    given: list[str | None]  # (n,) the label that the image came with
    labels: list[str | None]  # (n,) the answer of a teacher that did not see that label
    confidence: Probabilities  # (n,) of that answer; NaN without a teacher
    others: list[str | None]  # (n,) the second most likely class
    suspicion: Probabilities  # (n,) that the given label is wrong; NaN without one
    ranks: Rows  # (n,) place among the images to label next or first; -1 for no place
    why: list[str]  # (n,) why it should be labelled; empty where nothing is said
    sentences: list[str]  # what is said about all of them, for people
    next_run: str  # the command of a run that uses the decisions as labels

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def by_name(self) -> dict[str, int]:
        """The item of each image's name."""
        return {self.name(item): item for item in range(len(self))}

    def name(self, item: int) -> str:
        """The image's name in the catalog."""
        return self.catalog.names[int(self.rows[item])]

    def view(self, name: str, of_class: str | None, standing: dict[str, Decision]) -> list[int]:
        """The items of one of ``views``, in its order; with ``of_class`` only those shown with it.

        ``standing`` are the decisions by image, in the order in which they were made.
        """
        unlabelled = np.isnan(self.suspicion)
        keys = {
            "next": (self.ranks >= 0, self.ranks),
            "suggested": (self.ranks >= 0, self.ranks),
            "suspicious": (~unlabelled, -self.suspicion),
            "unsure": (unlabelled, self.confidence),
            "sure": (unlabelled, -self.confidence),
        }
        if name == "decided":
            order = [self.by_name[i] for i in reversed(standing) if i in self.by_name]
        else:
            among, key = keys[name]
            chosen = np.flatnonzero(among)
            order = chosen[np.argsort(key[chosen], kind="stable")].tolist()
        return [i for i in order if of_class in (None, self._class_of(i, standing))]

    def shown(self, item: int) -> str | None:
        """The label that is shown, and that "accept" agrees to: the given one, or the teacher's."""
        return self.given[item] or self.labels[item]

    def _class_of(self, item: int, standing: dict[str, Decision]) -> str | None:
        """The class under which an item is found: the shown one, or else the decided one."""
        decision = standing.get(self.name(item))
        return self.shown(item) or (decision.label if decision else None)

    def describe(self, item: int, decision: Decision | None) -> dict[str, Any]:
        """One item as the page gets it."""
        suspicion, confidence = self.suspicion[item], self.confidence[item]
        known = not np.isnan(suspicion)
        return {
            "id": item,
            "image": self.name(item),
            "given": self.given[item],
            "label": self.labels[item],
            "other": self.others[item],
            "confidence": None if np.isnan(confidence) else round(float(confidence), 4),
            "suspicion": round(float(suspicion), 4) if known else None,
            "suspected": bool(known and suspicion > CUT),
            "why": self.why[item],
            "decision": said(decision),
        }

    def picture(self, item: int, side: int) -> bytes:
        """The image as a JPEG of at most ``side`` pixels; errors are those of reading a file."""
        picture = Image.fromarray(decode(self.catalog.source.read(int(self.rows[item]))))
        picture.thumbnail((side, side))
        content = io.BytesIO()
        picture.save(content, format="JPEG", quality=92)
        return content.getvalue()


def said(decision: Decision | None) -> dict[str, Any] | None:
    """A decision as the page gets it."""
    return None if decision is None else {"action": decision.action, "label": decision.label}


def open_run(folder: Path, catalog: Catalog | None = None, data: str = "") -> Items:
    """Read what a finished run left to review.

    If the run's data was in memory, ``catalog`` is that data, and ``data`` the words for it.
    """
    if not (folder / "config.json").is_file():
        if inside := sorted(str(path.parent) for path in folder.glob("*/config.json")):
            more = ", ..." * (len(inside) > SHOWN)
            mend = f"give one of those in it: {', '.join(inside[:SHOWN])}{more}"
        else:
            mend = "tutelage review needs one, such as the --out of tutelage run"
            mend += "" if folder.exists() else did_you_mean(folder)
        raise TutelageError(f"{folder} is no run folder; {mend}")
    table, facts = folder / TABLE, folder / FACTS
    if not (table.is_file() and facts.is_file()):
        raise TutelageError(
            f"{folder} has nothing to review: the run is unfinished (repeat its command to "
            "continue it), or made by distill or ladder"
        )
    with undamaged(table):
        columns = open_parquet(table).read().to_pydict()
    content = RunFolder(folder).read_json(FACTS)
    try:
        known = {name: columns[name] for name in COLUMNS}
        about = {"classes": tuple(content["classes"]), "sentences": content["sentences"]}
        return _items(folder, columns["image"], known, catalog, data, views=VIEWS, **about)
    except (KeyError, TypeError, ValueError) as error:
        raise TutelageError(
            f"{table} or {FACTS} beside it is damaged ({error!r}); restore them, or train the run "
            "again in another folder"
        ) from error


@dataclass(frozen=True)
class Suggested:
    """The n images that ``tutelage suggest`` chose, the first to label first."""

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
    if not (folder / SUGGESTED).is_file():
        return Suggested()
    content = RunFolder(folder).read_json(SUGGESTED)
    try:
        pairs = [(row["image"], row["why"]) for row in content["suggested"]]
        images, why, classes = *zip(*pairs, strict=True), tuple(content["classes"])
        texts = all(isinstance(text, str) for text in (*images, *why, *classes))
    except (KeyError, TypeError, ValueError):
        texts = False
    if not texts:
        raise TutelageError(
            f"{folder / SUGGESTED} is damaged; restore it, or choose again in another folder "
            "(--out)"
        )
    return Suggested(images, why, classes)


def open_suggested(folder: Path, catalog: Catalog | None = None, data: str = "") -> Items:
    """Read what ``tutelage suggest`` chose, to label it; arguments as of ``open_run``."""
    chosen = read_suggested(folder)
    if not chosen.images:
        raise TutelageError(
            f"{folder} has no images to label: tutelage suggest was cut off; repeat its command"
        )
    known = {"next": range(len(chosen.images)), "why": chosen.why}
    about = {"classes": chosen.classes, "sentences": []}
    return _items(folder, chosen.images, known, catalog, data, views=LABELLING, **about)


def _items(
    folder: Path,
    images: Iterable[str],
    columns: Mapping[str, Sequence[Any]],
    catalog: Catalog | None,
    data: str,
    **about: Any,
) -> Items:
    """Images of the data that a folder was made from, which is ``data`` if that is in memory.

    ``columns`` have what is known of each image, by the names of review.parquet.
    """
    made_from = RunFolder(folder).request()["data"]
    if catalog is None:
        catalog = catalog_of(folder)
    elif data != made_from:
        raise TutelageError(
            f"{folder} was made from {made_from}, but {data} were given; give the same data"
        )
    where = {name: row for row, name in enumerate(catalog.names)}
    wanted = list(images)
    if gone := [name for name in wanted if name not in where]:
        raise TutelageError(
            f"{counted(len(gone), 'image')} of {folder} {are(len(gone))} no longer in "
            f"{made_from} (first: {gone[0]}); restore the data, or run "
            "the command again on what is there, in another folder"
        )
    unknown = [None] * len(wanted)
    given, labels, others, confidence, suspicion, ranks = (
        columns.get(name, unknown) for name in COLUMNS
    )
    return Items(
        catalog=catalog,
        rows=np.array([where[name] for name in wanted], dtype=np.intp),
        given=list(given),
        labels=list(labels),
        confidence=np.array(confidence, dtype=np.float64),
        others=list(others),
        suspicion=np.array(suspicion, dtype=np.float64),
        ranks=np.array([-1 if rank is None else rank for rank in ranks], dtype=np.intp),
        why=list(columns.get("why", [""] * len(wanted))),
        next_run=next_run(folder),
        **about,
    )


def next_run(folder: Path) -> str:
    """The command of a run that learns from what is decided in ``folder``, in as many minutes.

    The folder may have been made with decisions itself; they still hold.
    """
    request = RunFolder(folder).request()
    settings = request.get("settings", {})
    earlier = settings.get("data", {}).get("decisions")
    decisions = f"{earlier},{folder}" if earlier else str(folder)
    command = "run" if request["command"] == "suggest" else request["command"]
    minutes = settings.get("data", {}).get("minutes")
    budget = {} if minutes is None else {"minutes": f"{minutes:g}"}
    given = {**settings.get("table", {}), "decisions": decisions, **budget}
    out = "NEW" if command == "demo" else None  # its default folder holds the run already
    return command_line(command, request["data"], out, given)


def page_line(data: str, folder: Path) -> str:
    """The command that opens the page of a folder that was made from ``data``, its name."""
    if is_in_memory(data):
        return f"tutelage.api.review({str(folder)!r}, data=DATA)"
    return f"tutelage review {shlex.quote(str(folder))}"


def after_review(run: Path, items: Items, decisions: Mapping[str, Decision]) -> list[str]:
    """What ``tutelage review`` says when its page was left: what is decided, and what is next."""
    again = page_line(RunFolder(run).request()["data"], run)
    if items.views is LABELLING:
        return after_labelling(decisions, len(items), items.catalog.classes, again, items.next_run)
    if not decisions:
        return [f"nothing is decided yet: {again}"]
    useless = sum(decision.label is None for decision in decisions.values())
    said = f"{counted(len(decisions), 'image')} decided"
    return [
        f"{said}, {useless} of no use" if useless else said,
        f"go on: {again}",
        f"then train: {items.next_run}",
    ]


def after_labelling(
    decisions: Mapping[str, Decision],
    total: int,
    classes: Iterable[str],
    again: str,
    next_run: str,
) -> list[str]:
    """How many of ``total`` images have labels, and what comes next.

    ``classes`` have labels in the data; ``again`` opens the page again.
    """
    counts = Counter(d.label for d in decisions.values() if d.label is not None)
    by_class = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    said = [f"{counts.total()} of {total} labelled: {by_class}"] if counts else []
    if len(decisions) < total:
        said.append(f"label them: {again}")
    if len({*classes, *counts}) == 1:
        said.append("note: training needs labels of at least 2 classes")
    return [*said, f"then train: {next_run}"]
