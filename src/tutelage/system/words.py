"""Words for people: counts in sentences, and the name that was probably meant."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

MOST = 10_000  # entries of a folder that are compared: no name is worth a long search


def counted(count: int, noun: str) -> str:
    """A number with its noun, which takes an s where there is not one: ``1,200 images``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def are(count: int) -> str:
    """The verb for so many."""
    return "is" if count == 1 else "are"


def were(count: int) -> str:
    """The same, of what is over."""
    return "was" if count == 1 else "were"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name nearest to ``word``, in small or capital letters; None if none is near.

    A word that begins one name alone stands for that.
    """
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(name.casefold(), name)
    meant = word.casefold()
    begun = [name for name in names if meant and name.startswith(meant)]
    close = begun if len(begun) == 1 else difflib.get_close_matches(meant, names, n=1)
    return names[close[0]] if close else None


def did_you_mean(path: Path | str) -> str:
    """The end of an error about a path that does not exist: "; did you mean runs/1?", or nothing.

    Each part that does not exist is replaced by the nearest that does. Hidden names are left out.
    """
    found = Path(Path(path).anchor)
    for part in Path(path).parts[len(found.parts) :]:
        if os.path.lexists(found / part):
            found /= part
        elif near := nearest(part, _names(found)):
            found /= near
        else:
            return ""
    return f"; did you mean {found}?"


def _names(folder: Path) -> list[str]:
    """Names in a folder that are not hidden, in their order; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in islice(entries, MOST) if not e.name.startswith("."))
    except OSError:
        return []
