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
        self._moved = 0.0  # when what is done of it was last heard of
        self._counted = 0.0  # what it counted before the count that is going on
        self._reached = 0.0  # of its planned seconds, what is done of it
        self._worked = 0.0  # planned seconds of the parts before it, as far as they were seen
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
                    self._worked += self._reached
                    self._reached = self._counted = 0.0
                self._current = self._latest = name
                self._entered = self._moved = self._clock()
            self._show(now=True)
            try:
                yield
            finally:
                with self._guard:
                    now = self._clock()
                    self._reached, self._took = self._done(now), self._spent(now)

    @contextmanager
    def count(self, label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
        """While something is counted: call the result with how much of ``total`` is done.

        A second argument is what ``total`` has become by now.
        """
        before, count = self._count, _Count(total, unit, self._clock())
        self._count = count

        def done(made: int, of: int | None = None) -> None:
            with self._guard:
                count.done = made
                self._move(count, made * total / max(1, of or total))
            self._show()

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

    def fraction(self) -> float:
        """How much of the whole is done, from 0 to 1, as far as that is known."""
        count = self._count
        if not self._current:
            return 0.0 if count is None else min(1.0, count.done / max(1, count.total))
        at, planned = self._planned()
        if not sum(planned):
            return at / len(planned)
        return min(1.0, (sum(planned[:at]) + self._done(self._clock())) / sum(planned))

    @property
    def _part(self) -> Part:
        return self._parts.get(self._current, Part())

    def _planned(self) -> tuple[int, list[float]]:
        """The number of the current part, and the planned seconds of all."""
        seconds = [part.seconds for part in self._parts.values()]
        return [*self._parts].index(self._current), seconds

    def _place(self) -> str:
        """Where the command is, in words."""
        inner = self._inside[-1][0] if self._inside else ""
        if not self._current:
            return inner
        if not inner.startswith(self._current):
            inner = f"{self._current}: {inner}"
        at, planned = self._planned()
        return f"[{at + 1}/{len(planned)}] {inner}"

    def _known(self) -> Iterator[str]:
        """What is known of the time, or else of the count that is going on."""
        left, count, now = self._left(), self._count, self._clock()
        if left is not None:
            yield f"{_time(left)} left"
        elif count is not None:
            yield f"{count.done:,} of {count.total:,} {count.unit}s"
            spent, seen = now - count.began, count.done - (count.first or 0)
            if spent >= SURE_S and seen > 0:
                yield f"{_time(spent / seen * max(0, count.total - count.done))} left"
        elif self._inside and (spent := now - self._inside[-1][1]) >= SURE_S:
            yield f"{_time(spent)} so far"

    def _move(self, count: _Count, made: float) -> None:
        """Move the current part as far as its count is."""
        part, now, heard = self._part, self._clock(), count.first is not None
        if not heard:
            count.first = count.done
        if part.amount and count.unit == part.unit and part.seconds:
            share = (self._counted + made) / max(part.amount, self._counted + count.total)
            before = self._done(now)
            reached = part.first + (part.seconds - part.first) * min(1.0, share)
            if reached > before:
                self._reached, self._moved = reached, now
                if not heard:  # what a run that goes on had done before says nothing of the pace
                    self._worked -= reached - before

    def _done(self, moment: float) -> float:
        """Planned seconds of the current part that are done; before it counts they just pass."""
        return max(self._reached, min(moment - self._entered, self._part.first))

    def _spent(self, moment: float) -> float:
        """Seconds of all parts that have planned ones: the others say nothing of the pace."""
        return self._took + (moment - self._entered if self._part.seconds else 0.0)

    def _left(self) -> float | None:
        """Seconds until the end, by the plan and the pace so far; None where no plan says so.

        They are those of the moment when the part moved last, less what has passed since then.
        """
        if not self._current:
            return None
        at, planned = self._planned()
        if not sum(planned):
            return None
        done, silent = self._done(self._moved), self._clock() - self._moved
        slower = (TRUST_S + self._spent(self._moved)) / (TRUST_S + self._worked + done)
        own = max(0.0, slower * (planned[at] - done) - silent)
        return max(0.0, min(own + slower * sum(planned[at + 1 :]), self._most()))

    @contextmanager
    def _open(self, name: str) -> Iterator[None]:
        """Be in something; when the outermost of all that is open ends, the bar goes."""
        with self._guard:
            self._inside.append((name, self._clock()))
            if len(self._inside) == 1 and self._shown:
                self._over = threading.Event()
                look = threading.Thread(target=self._look, args=(self._over,), daemon=True)
                look.start()
        try:
            yield
        finally:
            with self._guard:
                self._inside.pop()
                if not self._inside:
                    self._over.set()
                    self._current = ""
                    if self._bar is not None:
                        self._bar.close()
                        self._bar = None

    def _look(self, over: threading.Event) -> None:
        while not over.wait(TICK_S):
            with self._guard:
                if not over.is_set():
                    self._show()

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
        columns = WIDTH
        with contextlib.suppress(OSError, ValueError):  # stderr may be no file at all
            columns = min(WIDTH, max(20, os.get_terminal_size(sys.stderr.fileno()).columns - 1))
        room = columns * 3 // 4  # the bar itself has the rest, always as much
        text = self.text(room).ljust(room)
        if self._bar is None:
            form = {"bar_format": "{desc}|{bar}|", "leave": False, "file": sys.stderr}
            self._bar = tqdm(total=1.0, desc=text, ncols=columns, **form)
        self._bar.n, self._bar.ncols = self.fraction(), columns
        self._bar.set_description_str(text)


def _time(seconds: float) -> str:
    """Minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
