"""What a person sees while a run works, and ``events.jsonl`` for programs. Imports no torch."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm


class Console:
    """Lines and progress bars on stderr; the same as objects in ``events.jsonl``."""

    def __init__(self, events: Path | None = None, *, quiet: bool = False) -> None:
        """Without ``events`` nothing is recorded; ``quiet`` prints nothing."""
        self.events = events
        self.quiet = quiet

    def say(self, text: str, **facts: Any) -> None:
        """Print one line and record it."""
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)
        self.record("message", text=text, **facts)

    def record(self, kind: str, **facts: Any) -> None:
        """Append one object to ``events.jsonl``."""
        if self.events is None:
            return
        row = {"time": round(time.time(), 3), "event": kind, **facts}
        with self.events.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    @contextmanager
    def bar(self, label: str, total: int, unit: str = "step") -> Iterator[Callable[[int], None]]:
        """A progress bar with the time left; call the result with what has been done so far."""
        self.record("start", label=label, total=total)
        shown = not self.quiet and sys.stderr.isatty()
        with tqdm(total=total, desc=label, unit=unit, leave=False, disable=not shown) as bar:

            def done(count: int) -> None:
                bar.update(count - bar.n)

            yield done
        self.record("end", label=label)
