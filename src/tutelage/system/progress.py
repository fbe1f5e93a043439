"""How far a command is: one bar on a terminal, and elsewhere a plain line now and then.

A command that has a plan tells its parts and their seconds, and the bar shows how much of all that
is done and how long the rest takes. One without a plan shows what it counts, or how long it has
been at it. A thread keeps the bar moving where the command itself is silent. Imports no torch.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

EVERY_S = 30.0  # between two plain lines
OFTEN_S = 0.1  # between two looks of the bar
TICK_S = 0.5  # after which the thread looks anew
TRUST_S = 30.0  # the plan's pace counts like so many seconds of measurement
SURE_S = 2.0  # before them, nothing is said of how long something takes
WIDTH = 79  # columns at most: the last of 80 would wrap on some terminals
LEAST = 20  # columns


@dataclass(frozen=True)
class Part:
    """What is planned for one part of a command."""

    seconds: float = 0.0  # in all; 0 where nobody knows, or where it is next to nothing
    first: float = 0.0  # of them those before it begins to count
    amount: int = 0  # what it counts in all
    unit: str = "step"  # of what it counts; another count is shown, but does not move the part


@dataclass
class _Count:
    """One counting of something, which is going on."""

    total: int
    unit: str
    began: float
    done: int = 0
    first: int | None = None  # what was done already when the counting was first heard of


class Progress:
    """Where a command is among its parts, shown while one of its contexts is open."""

    def __init__(self, *, shown: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; unless ``shown``, nothing is printed. ``clock`` gives seconds that pass."""
        self._shown, self._clock = shown, clock
        self._looked = clock()
        self._parts: dict[str, Part] = {}
        self._most: Callable[[], float] = lambda: math.inf  # seconds that can be left
        self._current = ""  # the part that is running
        self._latest = ""  # the part that ran last
        self._entered = 0.0  # when that began
        self._moved = 0.0  # when the share of it that is done was last heard of
        self._counted = 0.0  # what it counted before the count that is going on
        self._share = 0.0  # of the current part that is done
        self._worked = 0.0  # planned seconds of the work that was seen being done
        self._took = 0.0  # seconds of the parts that are over, where some were planned
        self._inside: list[tuple[str, float]] = []  # what is open since when, the outermost first
        self._count: _Count | None = None
        self._bar: Any = None
        self._guard = threading.RLock()  # what is shown must not change meanwhile
        self._over = threading.Event()

    def expect(
        self, parts: Mapping[str, Part], most: Callable[[], float] = lambda: math.inf
    ) -> None:
        """Tell all parts of the command, in order; what is done so far stays done.

        ``most`` says how many seconds can be left at most, however slow the parts were so far.
        """
        with self._guard:
            self._parts, self._most = dict(parts), most

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """While this runs: one of the parts that are expected, or something within such a part."""
        with self._open(name):
            if name not in self._parts or self._current == name:
                self._show(now=True)
                yield
                return
            with self._guard:
                if name != self._latest:  # rounds of self-training are one part, entered for each
                    self._share = self._counted = 0.0
                self._current = self._latest = name
                self._entered = self._moved = self._clock()
            self._show(now=True)
            try:
                yield
            finally:
                with self._guard:
                    now = self._clock()
                    self._share, self._worked = self._standing(now)
                    self._took = self._took_until(now)

    @contextmanager
    def count(self, label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
        """While something is counted: call the result with how much of ``total`` is done.

        A second argument is what ``total`` has become by now.
        """
        before, self._count = self._count, _Count(total, unit, self._clock())

        def done(count: int, total: int | None = None) -> None:
            self._tick(count, total)

        with self._open(label):
            self._show(now=True)
            try:
                yield done
            finally:
                with self._guard:
                    if unit == self._part.unit:
                        self._counted += total
                    self._count = before

    def text(self, width: int | None = None) -> str:
        """What the bar says, such as "[4/5] student, 1:40 left".

        Where that is longer than ``width``, the name is cut.
        """
        name, rest = self._place(), "".join(f", {words}" for words in self._known())
        if width is not None and len(name + rest) > width:
            name = f"{name[: width - len(rest) - 3]}..."
        return name + rest

    def _place(self) -> str:
        """Where the command is, in words."""
        inner = self._inside[-1][0] if self._inside else ""
        if not self._current:
            return inner
        if not inner.startswith(self._current):
            inner = f"{self._current}: {inner}"
        return f"[{[*self._parts].index(self._current) + 1}/{len(self._parts)}] {inner}"

    def _known(self) -> Iterator[str]:
        """What is known of the time, or else of the count that is going on."""
        left, count = self._left(), self._count
        if left is not None:
            yield f"{_time(left)} left"
        elif count is not None:
            yield f"{count.done:,} of {count.total:,} {count.unit}s"
            if (own := self._left_to_count(count)) is not None:
                yield f"{_time(own)} left"
        elif self._inside and (spent := self._clock() - self._inside[-1][1]) >= SURE_S:
            yield f"{_time(spent)} so far"

    def fraction(self) -> float:
        """How much of the whole is done, from 0 to 1, as far as that is known."""
        count = self._count
        if not self._current:
            return 0.0 if count is None else min(1.0, count.done / max(1, count.total))
        names = [*self._parts]
        at = names.index(self._current)
        planned = [part.seconds for part in self._parts.values()]
        if not sum(planned):
            return at / len(names)
        share, _ = self._standing(self._clock())
        return min(1.0, (sum(planned[:at]) + share * planned[at]) / sum(planned))

    @property
    def _part(self) -> Part:
        return self._parts.get(self._current, Part())

    def _tick(self, done: int, total: int | None) -> None:
        count, part = self._count, self._part
        if count is None:
            return
        with self._guard:
            heard, count.done = count.first is not None, done
            if count.first is None:
                count.first = done
            if part.amount and count.unit == part.unit and part.seconds:
                made = self._counted + done * count.total / max(1, total or count.total)
                counted = min(1.0, made / max(part.amount, self._counted + count.total))
                first = part.first / part.seconds
                # What a run that goes on had done before says nothing of the pace.
                self._advance(first + (1 - first) * counted, measured=heard)
        self._show()

    def _advance(self, share: float, *, measured: bool) -> None:
        now = self._clock()
        self._share, self._worked = self._standing(now)
        if share > self._share:
            if measured:
                self._worked += (share - self._share) * self._part.seconds
            self._share, self._moved = share, now

    def _standing(self, moment: float) -> tuple[float, float]:
        """The share of the current part that is done, and the planned seconds of all work seen.

        What comes before a part counts passes with the time.
        """
        part, share = self._part, self._share
        if part.seconds:
            share = max(share, min(moment - self._entered, part.first) / part.seconds)
        return share, self._worked + (share - self._share) * part.seconds

    def _took_until(self, moment: float) -> float:
        """Seconds of all parts that have planned ones: the others say nothing of the pace."""
        return self._took + (moment - self._entered if self._part.seconds else 0.0)

    def _left(self) -> float | None:
        """Seconds until the end; None where no plan says so.

        They are those of the moment when the part moved last, less what has passed since then.
        """
        planned = [part.seconds for part in self._parts.values()]
        if not self._current or not sum(planned):
            return None
        at = [*self._parts].index(self._current)
        share, worked = self._standing(self._moved)
        slower = (TRUST_S + self._took_until(self._moved)) / (TRUST_S + worked)
        own = max(0.0, slower * (1 - share) * planned[at] - (self._clock() - self._moved))
        return max(0.0, min(own + slower * sum(planned[at + 1 :]), self._most()))

    def _left_to_count(self, count: _Count) -> float | None:
        """Seconds until a count ends, by its own pace; None as long as that says little."""
        spent, seen = self._clock() - count.began, count.done - (count.first or 0)
        if spent < SURE_S or seen <= 0:
            return None
        return spent / seen * max(0, count.total - count.done)

    @contextmanager
    def _open(self, name: str) -> Iterator[None]:
        """Be in something; when the outermost of all that is open ends, the bar goes."""
        with self._guard:
            self._inside.append((name, self._clock()))
            if len(self._inside) == 1 and self._shown:
                self._keep_moving()
        try:
            yield
        finally:
            with self._guard:
                self._inside.pop()
                if not self._inside:
                    self._close()

    def _keep_moving(self) -> None:
        """Look anew in a thread, until all that is open has ended."""
        self._over = over = threading.Event()

        def look() -> None:
            while not over.wait(TICK_S):
                with self._guard:
                    if not over.is_set():
                        self._show()

        threading.Thread(target=look, name="progress", daemon=True).start()

    def _close(self) -> None:
        self._over.set()
        self._current = ""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, *, now: bool = False) -> None:
        """Draw the bar, or print a line, if it is time for that."""
        if not self._shown:
            return
        with self._guard:
            moment, terminal = self._clock(), sys.stderr.isatty()
            wait = OFTEN_S if terminal else EVERY_S
            if moment - self._looked < wait and not (terminal and now):
                return
            self._looked = moment
            if terminal:
                self._draw()
            else:
                print(self.text(), file=sys.stderr, flush=True)

    def _draw(self) -> None:
        columns = _columns()
        room = columns * 3 // 4  # the bar itself has the rest, always as much
        text, fraction = self.text(room).ljust(room), self.fraction()
        if self._bar is None:
            self._bar = tqdm(
                total=1.0,
                initial=fraction,
                desc=text,
                bar_format="{desc}|{bar}|",
                leave=False,
                ncols=columns,
                file=sys.stderr,
            )
        self._bar.n, self._bar.ncols = fraction, columns
        self._bar.set_description_str(text)


def _time(seconds: float) -> str:
    """Minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _columns() -> int:
    with contextlib.suppress(OSError, ValueError):  # stderr may be no file at all
        return min(WIDTH, max(LEAST, os.get_terminal_size(sys.stderr.fileno()).columns - 1))
    return WIDTH
