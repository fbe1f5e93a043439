"""What ``tutelage suggest`` may be asked for. Imports no torch: the rest is refused at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tutelage.data.catalog import Catalog, why_no_class
from tutelage.system.errors import TutelageError

SHOWN_CLASSES = 5  # by name in an error


def check_budget(budget: int) -> None:
    """Refuse to choose no image; TutelageError says so."""
    if budget < 1:
        raise TutelageError(f"--budget is {budget}, expected at least 1 image to label")


def check_request(catalog: Catalog, name: str, classes: Sequence[str]) -> None:
    """Refuse data without an unlabelled image, and names that cannot be classes beside its own."""
    _check_pool(catalog, name)
    known_classes(catalog.classes, (), classes)


def known_classes(
    of_data: Sequence[str], earlier: Sequence[str], given: Sequence[str]
) -> tuple[str, ...]:
    """All classes that are named so far, in the order of their keys on the page."""
    named = [name.strip() for name in given]
    if twice := [name for name, count in Counter(named).items() if count > 1]:
        raise TutelageError(f"--classes names {twice[0]!r} twice; name each class once")
    known = [*dict.fromkeys([*of_data, *earlier])]
    for name in named:
        if name in known:
            continue
        if problem := why_no_class(name, known):
            raise TutelageError(f"--classes: {problem}")
        known.append(name)
    return tuple(known)


def _check_pool(catalog: Catalog, name: str) -> None:
    """Refuse data whose training images all have labels already."""
    labels = catalog.labels[catalog.splits == "train"]
    if not len(labels) or (labels < 0).any():
        return
    classes = [
        *catalog.classes[:SHOWN_CLASSES],
        *(["..."] if len(catalog.classes) > SHOWN_CLASSES else []),
    ]
    beside = "".join(f"; {warning}" for warning in catalog.warnings)
    raise TutelageError(
        f"every training image of {name} has a label already; its classes are "
        f"{', '.join(classes)}{beside}. If these folders are not classes, move "
        "them into a folder called unlabeled; in a manifest, leave the label empty"
    )
