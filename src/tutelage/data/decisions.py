"""What a person decided about images in a review: an append-only file, and labels for a run.

Every decision is a line of ``decisions.jsonl`` in the reviewed folder, on the disk before the next
one is taken. Nothing is rewritten: taking a decision back is a line, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import posixpath
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from tutelage.data.catalog import Catalog, in_class_order, why_no_class
from tutelage.data.columns import open_parquet, undamaged
from tutelage.system.errors import TutelageError
from tutelage.system.files import lock, sync
from tutelage.system.words import are, counted, did_you_mean, were

FILE = "decisions.jsonl"
PAGE = ".page"  # beside it, while a page is served: the address
ACTIONS = ("accept", "relabel", "reject", "undo")
Action = Literal["accept", "relabel", "reject"]
NOT_FOUND = "no image for training has this name, nor, alone, its file name"


@dataclass(frozen=True)
class Decision:
    """What a person decided about one image."""

    image: str  # its name in the catalog
    action: Action  # the label shown is right, another one is, or the image is of no use
    label: str | None  # the class from now on; None for a rejected image
    new: bool = False  # whether a person made this class, since the data has none of that name


class Decisions:
    """The decisions about one run, in memory and in their file, locked until it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._past: list[Decision] = []
        try:
            self._file = path.open("ab+")
        except OSError as error:
            raise TutelageError(f"{path} cannot be written: {error.strerror}") from error
        try:
            lock(self._file, f"another review has {path} open; use its page, or stop it first")
            sync(path.parent)  # a new file's name
            self._file.seek(0)
            content = self._file.read()
            lines, torn = _whole_lines(content)
            self._past = _standing(_parsed(lines, path))
            if torn:  # a kill in mid-line: what is there was never confirmed to anyone
                self._file.truncate(len(content) - torn)
            elif content and not content.endswith(b"\n"):  # else the next line would join this one
                os.write(self._file.fileno(), b"\n")
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        (self.path.parent / PAGE).unlink(missing_ok=True)
        self._file.close()

    def note_page(self, address: str) -> None:
        """Note where the page is that takes these decisions, for this user's eyes alone."""
        note = self.path.parent / PAGE
        note.unlink(missing_ok=True)
        with os.fdopen(os.open(note, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(address)

    @property
    def standing(self) -> dict[str, Decision]:
        """The last decision about each image that was not taken back, by image."""
        return {decision.image: decision for decision in self._past}

    def decide(self, decision: Decision) -> None:
        """Add a decision; it is on the disk when this returns, or TutelageError says why not."""
        row = dataclasses.asdict(decision)
        if not decision.new:
            del row["new"]
        self._append(row)
        self._past.append(decision)

    def undo(self, image: str | None = None) -> Decision | None:
        """Take back the last decision (about ``image``, if given); return it, or None."""
        about = [i for i, d in enumerate(self._past) if image is None or d.image == image]
        if not about:
            return None
        taken_back = self._past[about[-1]]
        self._append({"image": taken_back.image, "action": "undo", "label": None})
        del self._past[about[-1]]
        return taken_back

    def _append(self, row: dict[str, Any]) -> None:
        line = json.dumps({"time": round(time.time(), 3), **row}) + "\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)  # half a line would hide what is appended after it
            raise TutelageError(
                f"the decision could not be saved to {self.path}: {error.strerror}; "
                "free some space and decide again"
            ) from error


def served_at(folder: Path) -> str | None:
    """The address of the page that takes the decisions of a folder now; None if none does."""
    with contextlib.suppress(OSError):  # nothing was ever decided there, or the page ends just now
        try:
            with (folder / FILE).open("rb") as file:
                lock(file, "")
        except TutelageError:
            return (folder / PAGE).read_text()
    return None


def read_decisions(path: Path) -> dict[str, Decision]:
    """The decisions in a run folder or a file, by image; TutelageError if none can be read."""
    file = path / FILE if path.is_dir() else path
    try:
        lines, _ = _whole_lines(file.read_bytes())
    except OSError as error:
        mend = "; tutelage suggest and tutelage review make them"
        mend = mend if path.exists() else did_you_mean(path) or mend
        raise TutelageError(f"no decisions in {file}: {error.strerror}{mend}") from error
    return {decision.image: decision for decision in _standing(_parsed(lines, file))}


def apply_decisions(catalog: Catalog, setting: str | None) -> Catalog:
    """The catalog with what was decided about its training images.

    Accepted and relabelled images keep their label in every label draw; rejected ones are gone.
    An image that lies in another folder now is found by its file's name, where only one has that.
    A class that the data has not becomes one where the decision says that a person made it: so
    labels of other data, and slips in a file that was written by hand, are noticed. ``setting``
    names folders or files of decisions, separated by commas; a later one overrules those before
    it. None changes nothing.
    """
    if setting is None:
        return catalog
    decided, lost = _decided(setting, catalog)
    made = _made_classes(decided.values(), catalog.classes, setting)
    catalog = catalog.named(in_class_order({*catalog.classes, *made}))
    labels, rejected, labelled = catalog.labels.copy(), [], []
    for row, decision in decided.items():
        if decision.label is None:
            rejected.append(row)
        else:
            labels[row] = catalog.classes.index(decision.label)
            labelled.append(catalog.names[row])
    useless = f", who left out {counted(len(rejected), 'image')} as of no use" if rejected else ""
    given = f"{counted(len(labelled), 'label')} {were(len(labelled))} given by a person"
    facts, said = [f"{given} (--decisions {setting}){useless}"], []
    if made:
        counts = (f"{name} ({made[name]})" for name in in_class_order(made))
        facts.append(f"classes that a person made, with their labels: {', '.join(counts)}")
    if alone := [name for name in in_class_order(made) if made[name] == 1]:
        said.append(
            f"a single label of {', '.join(alone)}: nothing can be held out to judge the class by; "
            "label more of it"
        )
    if moved := {d.image: row for row, d in decided.items() if d.image != catalog.names[row]}:
        first = min(moved)
        said.append(
            f"{counted(len(moved), 'decision')} of {setting} {are(len(moved))} about images that "
            f"lie in another folder now; they were found by their file names (first: {first} is "
            f"{catalog.names[moved[first]]})"
        )
    if lost:
        said.append(
            f"{counted(len(lost), 'decision')} of {setting} {are(len(lost))} about no training "
            f"image of this data (first: {min(lost)}; {NOT_FOUND})"
        )
    kept = np.setdiff1d(np.arange(len(catalog)), rejected)
    changed = dataclasses.replace(catalog, labels=labels, reviewed=frozenset(labelled))
    warnings, facts = [*catalog.warnings, *said], [*catalog.facts, *facts]
    return dataclasses.replace(changed.select(kept), warnings=tuple(warnings), facts=tuple(facts))


def _decided(setting: str, catalog: Catalog) -> tuple[dict[int, Decision], list[str]]:
    """The last decision about each training image, by its row, and the images not found."""
    decided: dict[int, Decision] = {}
    lost: list[str] = []
    for place in [setting] if os.path.exists(setting) else setting.split(","):
        of_place = read_decisions(Path(place))
        rows = _rows_of(of_place, _reviewed_names(Path(place)), catalog)
        decided |= {row: of_place[image] for image, row in rows.items()}
        lost += [image for image in of_place if image not in rows]
    if not decided and not lost:
        raise TutelageError(
            f"nothing is decided in {setting} yet; tutelage review opens the page to do so"
        )
    if not decided:
        raise TutelageError(
            f"none of what is decided in {setting} is about a training image of this data (first: "
            f"{min(lost)}; {NOT_FOUND}); give the data that was reviewed, with the file names that "
            "it had then"
        )
    return decided, lost


def _reviewed_names(place: Path) -> set[str]:
    """All images of the data that was reviewed, where its folder still knows them."""
    split = place / "split.parquet"
    if not split.is_file():
        return set()
    with undamaged(split):
        return {*open_parquet(split).read(["image"])["image"].to_pylist()}


def _rows_of(decided: Iterable[str], reviewed: Iterable[str], catalog: Catalog) -> dict[str, int]:
    """The training image that each decision is about, as its row.

    It has the same name; or it has been moved, and is the only image whose file is called so, now
    and among those that were ``reviewed``.
    """
    rows = {name: row for row, name in enumerate(catalog.names)}
    if moved := {image for image in decided if image not in rows}:
        before = Counter(map(posixpath.basename, {*reviewed, *decided}))
        now: dict[str, list[int]] = defaultdict(list)
        for name, row in rows.items():
            now[posixpath.basename(name)].append(row)
        for image in moved:
            file = posixpath.basename(image)
            if before[file] == len(now[file]) == 1:
                rows[image] = now[file][0]
    return {
        image: rows[image]
        for image in decided
        if image in rows and catalog.splits[rows[image]] == "train"
    }


def _made_classes(
    decisions: Iterable[Decision], classes: Sequence[str], setting: str
) -> Counter[str]:
    """How many labels each class has that is not among the data's ``classes``."""
    made: Counter[str] = Counter()
    for decision in decisions:
        if (label := decision.label) is not None and label not in classes:
            made[label] += 1
            if not decision.new:
                raise TutelageError(
                    f"{setting} calls {decision.image} {label!r}, which is none of the classes "
                    f"{', '.join(classes) or '(the data has none)'}; decide again with tutelage "
                    "review"
                )
    for label in made:
        if problem := why_no_class(label, [*classes, *made]):
            raise TutelageError(f"{setting}: {problem}")
    return made


def _whole_lines(content: bytes) -> tuple[list[bytes], int]:
    """The complete lines, and the number of bytes of an incomplete last one.

    A last line without a line break is complete if it is JSON, which no beginning of a line is: a
    script may leave the break out.
    """
    *lines, rest = content.split(b"\n")
    try:
        json.loads(rest)
    except (ValueError, RecursionError):  # also where nothing is left
        return lines, len(rest)
    return [*lines, rest], 0


def _parsed(lines: Iterable[bytes], path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            known = isinstance(row["image"], str) and row["action"] in ACTIONS
            known = known and isinstance(row["label"], str | None)
        except (ValueError, KeyError, TypeError, RecursionError):
            known = False
        if not known:
            raise TutelageError(
                f"line {number} of {path} is not a decision: {line[:80]!r}; delete or fix it"
            )
        yield row


def _standing(rows: Iterable[dict[str, Any]]) -> list[Decision]:
    """Decisions in the order in which they were made, without those that were taken back."""
    past: dict[int, Decision] = {}
    about: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        image = row["image"]
        if row["action"] == "undo":
            if about[image]:
                del past[about[image].pop()]
            continue
        past[number] = Decision(image, row["action"], row["label"], row.get("new") is True)
        about[image].append(number)
    return list(past.values())
