"""The table of images: a stable name, a label or none, a split, and where the bytes are."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage.data.sources import Source, selected
from tutelage.system.errors import TutelageError

SPLITS = ("train", "val", "test")
UNLABELED = ("unlabeled", "unlabelled")
# What data sets call their splits -> split here; "" is train without its labels.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys((*UNLABELED, "unsupervised"), ""),
}
_LONGEST = 100  # characters of a class name that a person types in
_DIGITS = 1000  # of a class name that is sorted as a number; Python refuses to read 4,301


@dataclass(frozen=True, eq=False)
class Catalog:
    """N images, in an order that is always the same."""

    names: tuple[str, ...]  # unique and lasting: paths below the root, or "<file>.parquet#<row>"
    labels: NDArray[np.int32]  # (N,) index into ``classes``, -1 = unlabelled
    splits: NDArray[np.str_]  # (N,) "train", "val" or "test"; an unlabelled pool is in "train"
    classes: tuple[str, ...]  # of all splits, sorted (by value when all are whole numbers)
    source: Source
    warnings: tuple[str, ...] = ()  # what a user should know about the data, and do about it
    # Training images whose label a person gave in a review: they keep it in every label draw.
    reviewed: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: ArrayLike) -> Catalog:
        """Return the catalog of these images, in this order, with the same classes."""
        chosen = np.asarray(indices, dtype=np.intp).reshape(-1)
        names = tuple(self.names[i] for i in chosen)
        return replace(
            self,
            names=names,
            labels=self.labels[chosen],
            splits=self.splits[chosen],
            source=selected(self.source, chosen),
            warnings=(),
            reviewed=self.reviewed & frozenset(names),
        )

    def named(self, classes: tuple[str, ...]) -> Catalog:
        """This catalog with a model's classes; TutelageError if it has one that is none of them."""
        if unknown := [name for name in self.classes if name not in classes]:
            raise TutelageError(
                f"the data has the classes {', '.join(unknown)}, which the model does not know; "
                f"it knows {', '.join(classes)}"
            )
        index = np.array([*map(classes.index, self.classes), -1], dtype=np.int32)  # -1 stays -1
        return replace(self, labels=index[self.labels], classes=classes)


def make_catalog(
    where: str,
    names: Sequence[str],
    labels: Sequence[str],
    splits: Sequence[str],
    source: Source,
    warnings: Sequence[str] = (),
) -> Catalog:
    """Make a catalog from the columns of a table, which errors call ``where``.

    Labels are class names, empty = unlabelled; splits are "train", "val", "test" or empty = train.

    Raises:
        TutelageError: no row, a name that occurs twice, an unknown split, or a class name with
            a control character.
    """
    if not names:
        raise TutelageError(f"{where} lists no images")
    if len(set(names)) < len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise TutelageError(
            f"{where}: {len(twice)} images are listed more than once (first: {twice[0]}); "
            "keep one row each"
        )
    checked = _known_splits(where, splits)
    found = set(labels) - {""}
    if odd := sorted(n for n in found if any(unicodedata.category(c) == "Cc" for c in n)):
        raise TutelageError(
            f"{where}: the class name {odd[0]!r:.80} holds a line break or another control "
            "character; rename the class (in a .csv manifest, is a quote left open?)"
        )
    classes = in_class_order(found)
    index = {name: i for i, name in enumerate(classes)} | {"": -1}
    indices = np.array([index[label] for label in labels], dtype=np.int32)
    return Catalog(tuple(names), indices, checked, classes, source, tuple(warnings))


def in_class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of their indices: sorted, by value when all are whole numbers."""
    found = {*names}
    whole = all(name.isdecimal() and len(name) < _DIGITS for name in found)
    return tuple(sorted(found, key=lambda name: (int(name), name) if whole else name))


def why_no_class(name: str, classes: Iterable[str]) -> str:
    """Why ``name`` cannot become a class beside ``classes``, with the mend; empty if it can."""
    if not name or name != name.strip() or len(name) > _LONGEST:
        return (
            f"a class name has 1 to {_LONGEST} characters, without spaces around them; "
            f"found {name!r:.80}"
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return f"the class name {name!r} holds a control character; leave it out"
    if alike := [known for known in classes if known != name and _folded(known) == _folded(name)]:
        return (
            f"there is a class {alike[0]!r}, which differs from {name!r} only in case or spaces; "
            f"use {alike[0]!r}, or another name"
        )
    return ""


def _folded(name: str) -> str:
    """The same text for names that a person takes for the same."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _known_splits(where: str, splits: Sequence[str]) -> NDArray[np.str_]:
    cleaned = {split: split.strip().lower() or "train" for split in set(splits)}
    unknown = sorted(set(cleaned.values()) - set(SPLITS))
    if unknown:
        raise TutelageError(
            f"{where}: unknown split {', '.join(map(repr, unknown[:5]))}; "
            "use train, val, test, or leave it empty for train"
        )
    return np.array([cleaned[split] for split in splits], dtype="<U5")
