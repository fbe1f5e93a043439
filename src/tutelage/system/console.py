"""What a person sees while a run works, and ``events.jsonl`` for programs. Imports no torch."""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tutelage.system.files import append, explain
from tutelage.system.progress import Progress

# They change the reading order, so that a name can look like another one: Unicode's UAX #9.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, keep: str = "") -> str:
    """Text that is safe in a terminal: a name in it cannot move the cursor or end the line.

    Control characters but those in ``keep``, and halves of surrogate pairs, become escapes.
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if character not in keep
        and (character in _TURNING or unicodedata.category(character) in ("Cc", "Cs"))
        else character
        for character in text
    )


_CODES = {"green": "32", "yellow": "33", "red": "31", "bold": "1"}  # ECMA-48's graphic renditions


def painted(text: str, style: str) -> str:
    """The text in "green", "yellow", "red" or "bold", where stderr is a terminal that shows that.

    ``NO_COLOR`` (no-color.org) and ``TERM=dumb`` turn it off.
    """
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or os.name == "nt"
    if plain or not sys.stderr.isatty():
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


class Console:
    """Lines and one progress bar on stderr; the same as objects in ``events.jsonl``.

    If ``listen`` is set, it is called with the kind and the facts of every event.
    """

    def __init__(
        self,
        events: Path | None = None,
        *,
        quiet: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Record in the file ``events``; show the bar of ``progress``, or one of its own."""
        self.events = events
        self.quiet = quiet
        self.progress = progress or Progress(shown=not quiet)
        self.listen: Callable[[str, dict[str, Any]], None] | None = None
        self._complained = False

    def say(self, text: str, paint: Mapping[str, str] | None = None, **facts: Any) -> None:
        """Print one line and record it; ``paint`` is what of it has which style of ``painted``."""
        if not self.quiet:
            line = printable(text, keep="\n\t")
            for words, style in (paint or {}).items():
                line = line.replace(printable(words), painted(printable(words), style), 1)
            tqdm.write(line, file=sys.stderr)
        self.record("message", text=text, **facts)

    def note(self, text: str) -> None:
        """Say what the user must know."""
        self.say(f"note: {text}", {"note:": "yellow"})

    def point(self, what: str, path: Path) -> None:
        """Say where something that was written is to be found."""
        self.say(f"{what}: {path}", {str(path): "bold"})

    def record(self, kind: str, **facts: Any) -> None:
        """Append one object to ``events.jsonl``; where that fails, the work goes on without it."""
        if self.listen is not None:
            self.listen(kind, facts)
        if self.events is None:
            return
        row = {"time": round(time.time(), 3), "event": kind, **facts}
        try:
            append(self.events, json.dumps(row).encode() + b"\n")
        except OSError as error:
            if not self._complained:  # also where quiet: it is an error
                told = explain(error, self.events.parent)
                tqdm.write(f"events are not recorded: {told}", file=sys.stderr)
            self._complained = True

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "step") -> Iterator[Callable[..., None]]:
        """Show progress; call the result with how much has been done so far.

        Figures by name, as a second argument, are recorded. ``of`` is what the total has become.
        """
        self.record("start", label=label, total=total)
        with self.progress.count(label, total, unit) as show:

            def done(
                count: int, metrics: dict[str, float] | None = None, of: int | None = None
            ) -> None:
                show(count, of)
                if metrics is not None:
                    self.record("progress", label=label, done=count, metrics=metrics)

            yield done
        self.record("end", label=label)
