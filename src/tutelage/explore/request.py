"""What ``tutelage suggest`` may be asked for. Imports no torch: the rest is refused at once."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.data.catalog import Catalog, why_no_class
from tutelage.system.errors import TutelageError

SHOWN_CLASSES = 5  # by name in an error


def check_request(catalog: Catalog, name: str, classes: Sequence[str]) -> None:
    """Refuse data without an unlabelled image, and names that cannot be classes beside its own."""
    labels = catalog.labels[catalog.splits == "train"]
    if len(labels) and (labels >= 0).all():
        more = " ..." if len(catalog.classes) > SHOWN_CLASSES else ""
        raise TutelageError(
            f"every training image of {name} has a label already; its classes are "
            f"{', '.join(catalog.classes[:SHOWN_CLASSES])}{more}"
            f"{''.join(f'; {warning}' for warning in catalog.warnings)}. If these folders are not "
            "classes, move them into a folder called unlabeled; in a manifest, leave the label "
            "empty"
        )
    known_classes(catalog.classes, classes)


def known_classes(named: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """All classes that are named so far, in the order of their keys on the page."""
    known = list(dict.fromkeys(named))
    for name in (one.strip() for one in given):
        if name in known:
            continue
        if problem := why_no_class(name, known):
            raise TutelageError(f"--classes: {problem}")
        known.append(name)
    return tuple(known)
