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
from tutelage.system.words import are, counted

SPLITS = ("train", "val", "test")
# What data sets call their splits, in any case -> split here; "" is train without its labels.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabeled", "unlabelled", "unsupervised"), ""),
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
    facts: tuple[str, ...] = ()  # what was done to it, as it was asked for
    # Training images whose label a person gave in a review: they keep it in every label draw.
    reviewed: frozenset[str] = frozenset()
    has_splits: bool = True  # False where nothing says a split, so that all is in "train"

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
            facts=(),
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

    Labels are class names, empty = unlabelled; splits are names of ``SPLIT_NAMES`` or empty =
    train, and what is in a pool loses its label.
    """
    if not names:
        raise TutelageError(f"{where} lists no images")
    if len(set(names)) < len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise TutelageError(
            f"{where}: {counted(len(twice), 'image')} {are(len(twice))} listed more than once "
            f"(first: {twice[0]}); keep one row each"
        )
    roles = _known_splits(where, splits)
    if "" in roles.values():
        labels = [
            label if roles[split] else "" for label, split in zip(labels, splits, strict=True)
        ]
    # macOS takes accents and Hangul apart in file names: one class must not become two.
    written = {label: unicodedata.normalize("NFC", label) for label in set(labels)}
    labels = [written[label] for label in labels]
    checked = np.array([roles[split] or "train" for split in splits], dtype="<U5")
    found = set(labels) - {""}
    if problem := _why_no_classes(found):
        raise TutelageError(f"{where}: {problem}")
    classes = in_class_order(found)
    index = {name: i for i, name in enumerate(classes)} | {"": -1}
    indices = np.array([index[label] for label in labels], dtype=np.int32)
    said = any(map(str.strip, roles))
    return Catalog(
        tuple(names), indices, checked, classes, source, tuple(warnings), has_splits=said
    )


def split_of(name: str) -> str | None:
    """The split that a name such as "Training" means, "" for an unlabelled pool; None for none."""
    return SPLIT_NAMES.get(name.strip().lower())


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
    return _why_no_classes([*classes, name])


def _why_no_classes(names: Iterable[str]) -> str:
    """Why no images can be told apart by these names, with the mend; empty if they can."""
    known: dict[str, str] = {}
    for name in sorted(names):
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            return (
                f"the class name {name!r:.80} holds a line break or another control character; "
                "leave it out (in a .csv manifest, is a quote left open?)"
            )
        # Classes of one letter may be A and a.
        first = known.setdefault(alike(name) if len(name) > 1 else name, name)
        if first != name:
            return (
                f"the classes {first!r} and {name!r} differ only in case or spaces; give both the "
                "same name, or one of them another"
            )
    return ""


def alike(name: str) -> str:
    """The same text for all names that a person takes for one, as Cat and cat."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _known_splits(where: str, splits: Sequence[str]) -> dict[str, str]:
    """What each split that occurs means, as ``split_of`` says it."""
    roles = {split: split_of(split) if split.strip() else "train" for split in set(splits)}
    unknown = sorted(split for split, role in roles.items() if role is None)
    if unknown:
        raise TutelageError(
            f"{where}: unknown split {', '.join(map(repr, unknown[:5]))}; "
            "use train, val, test or unlabeled, or leave it empty for train"
        )
    return {split: role for split, role in roles.items() if role is not None}
