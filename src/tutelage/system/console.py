"""What a person sees while a run works, and ``events.jsonl`` for programs. Imports no torch."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tutelage.system.files import append_line, explain

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


class Console:
    """Lines and progress bars on stderr; the same as objects in ``events.jsonl``.

    If ``listen`` is set, it is called with the kind and the facts of every event.
    """

    def __init__(self, events: Path | None = None, *, quiet: bool = False) -> None:
        self.events = events
        self.quiet = quiet
        self.listen: Callable[[str, dict[str, Any]], None] | None = None
        self._complained = False

    def say(self, text: str, **facts: Any) -> None:
        """Print one line and record it."""
        if not self.quiet:
            tqdm.write(printable(text, keep="\n\t"), file=sys.stderr)
        self.record("message", text=text, **facts)

    def record(self, kind: str, **facts: Any) -> None:
        """Append one object to ``events.jsonl``; where that fails, the work goes on without it."""
        if self.listen is not None:
            self.listen(kind, facts)
        if self.events is None:
            return
        row = {"time": round(time.time(), 3), "event": kind, **facts}
        try:
            append_line(self.events, json.dumps(row))
        except OSError as error:
            if not self._complained:  # also where quiet: it is an error
                told = explain(error, self.events.parent)
                tqdm.write(f"events are not recorded: {told}", file=sys.stderr)
            self._complained = True

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "step") -> Iterator[Callable[..., None]]:
        """A progress bar with the time left; call the result with how much has been done so far.

        Figures by name, as a second argument, are recorded.
        """
        self.record("start", label=label, total=total)
        shown = not self.quiet and sys.stderr.isatty()
        with tqdm(total=total, desc=label, unit=unit, leave=False, disable=not shown) as bar:

            def done(count: int, metrics: dict[str, float] | None = None) -> None:
                bar.update(count - bar.n)
                if metrics is not None:
                    self.record("progress", label=label, done=count, metrics=metrics)

            yield done
        self.record("end", label=label)
