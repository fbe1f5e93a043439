"""What is said when a page is left: how far the decisions are, and the commands that come next."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tutelage.data.decisions import Decision
from tutelage.data.open import is_in_memory
from tutelage.data.runfolder import RunFolder
from tutelage.review.items import LABELLING, Items
from tutelage.system.words import counted


def after_review(run: Path, items: Items, decisions: Mapping[str, Decision]) -> list[str]:
    """What ``tutelage review`` says when its page was left."""
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


def page_line(data: str, folder: Path) -> str:
    """The command that opens the page of a folder that was made from ``data``, its name."""
    if is_in_memory(data):
        return f"tutelage.api.review({str(folder)!r}, data=DATA)"
    return f"tutelage review {shlex.quote(str(folder))}"
