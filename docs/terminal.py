"""Record a command in a terminal and draw it as a moving picture, sped up.

python docs/terminal.py docs/images/demo.svg 20 tutelage demo --out demo

makes a picture that plays for 20 seconds, from what the command really printed.
"""

from __future__ import annotations

import codecs
import fcntl
import itertools
import os
import pty
import re
import struct
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

COLUMNS, ROWS = 100, 24
A_SECOND = 5  # pictures
HOLD = 5.0  # seconds that the last picture stays
CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|(\r|\n|\x08)")
KINDS = {"1": "bold", "31": "red", "32": "green", "33": "yellow"}  # ECMA-48's renditions
STYLE = """
svg{font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:14px}
text{fill:#dce3ea;white-space:pre}.prompt{fill:#2dd4bf}.name{fill:#8b96a2}
.bold{font-weight:700}.red{fill:#ff8f87}.green{fill:#7ee2a0}.yellow{fill:#f2cc60}
g{visibility:hidden}.last{visibility:visible}
@media (prefers-reduced-motion:no-preference){
"""
Line = list[tuple[str, str]]
"""Characters and the kind of each, "" for plain ones."""


def record(command: Sequence[str]) -> Iterator[tuple[float, str]]:
    """What a command prints into a terminal: seconds since its start, and the characters."""
    start = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.execvp(command[0], command)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        try:
            found = os.read(terminal, 65536)
        except OSError:  # Linux: the other end was closed
            found = b""
        if not found:
            break
        yield time.monotonic() - start, decoder.decode(found)
    _, status = os.waitpid(child, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} ended with {code}")


class Screen:
    """As much of a terminal as progress bars need; nothing scrolls back."""

    def __init__(self) -> None:
        self.lines: list[Line] = [[]]
        self.row = self.column = 0
        self.kind = ""

    def write(self, characters: str) -> None:
        """Take characters and their control sequences."""
        position = 0
        for match in CONTROL.finditer(characters):
            self._put(characters[position : match.start()])
            position = match.end()
            self._control(match[1] or "", match[2] or match[3])
        self._put(characters[position:])

    def shown(self) -> list[Line]:
        """The lines that are on the screen, the latest ones."""
        return [line.copy() for line in self.lines[-ROWS:]]

    def _put(self, characters: str) -> None:
        for character in characters:
            if self.column == COLUMNS:
                self._to(self.row + 1, 0)
            line = self.lines[self.row]
            line += [(" ", "")] * (self.column + 1 - len(line))
            line[self.column] = character, self.kind
            self.column += 1

    def _to(self, row: int, column: int) -> None:
        self.row, self.column = max(0, row), column
        self.lines += [[] for _ in range(self.row + 1 - len(self.lines))]

    def _control(self, numbers: str, kind: str) -> None:
        count = int(numbers) if numbers.isdigit() else 1
        if kind == "\n":
            self._to(self.row + 1, self.column)
        elif kind == "\r":
            self.column = 0
        elif kind == "\x08":
            self.column = max(0, self.column - 1)
        elif kind in "AB":
            self._to(self.row + (count if kind == "B" else -count), self.column)
        elif kind == "C":
            self.column = min(COLUMNS, self.column + count)
        elif kind == "K":
            del self.lines[self.row][0 if numbers == "2" else self.column :]
        elif kind == "J":
            del self.lines[self.row][self.column :]
            del self.lines[self.row + 1 :]
        elif kind == "m":
            self.kind = KINDS.get(numbers, "")


def pictures(
    printed: Sequence[tuple[float, str]], command: str, seconds: float
) -> tuple[list[list[Line]], float]:
    """The screen at even times, after the command was typed, and how much faster that is."""
    prompt: Line = [(character, "prompt") for character in f"$ {command}"]
    found = [[prompt[:end]] for end in [*range(2, len(prompt), 2), len(prompt)]]
    speed = max(1.0, printed[-1][0] / seconds)
    screen, position = Screen(), 0
    screen.lines = [prompt.copy()]
    screen.write("\n\r")
    for number in range(1, round(printed[-1][0] / speed * A_SECOND) + 2):
        until = number * speed / A_SECOND
        while position < len(printed) and printed[position][0] <= until:
            screen.write(printed[position][1])
            position += 1
        found.append(screen.shown())
    return found, speed


def draw(shown: Sequence[Sequence[Line]], name: str) -> str:
    """A picture that shows one screen after the other, and the last one where nothing moves."""
    width, height, line_height = COLUMNS * 8.43 + 32, ROWS * 19 + 60, 19
    each, whole = 1 / A_SECOND, len(shown) / A_SECOND + HOLD
    frames = []
    for number, lines in enumerate(shown):
        rows = "".join(
            f'<text x="16" y="{56 + line_height * row}">{written(line)}</text>'
            for row, line in enumerate(lines)
            if line
        )
        kind = ' class="last"' if number == len(shown) - 1 else ""
        frames.append(f'<g{kind} style="animation-delay:{number * each - whole:.2f}s">{rows}</g>')
    moves = (
        f"g{{animation:f {whole:g}s step-end infinite}}.last{{animation-name:l}}"
        f"@keyframes f{{0%{{visibility:visible}}{100 * each / whole:.4f}%{{visibility:hidden}}}}"
        f"@keyframes l{{0%{{visibility:visible}}"
        f"{100 * (HOLD + each) / whole:.4f}%{{visibility:hidden}}}}}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" '
        f'width="{width:g}" height="{height}" role="img" aria-label="{escape(name)}">'
        f"<style>{STYLE.strip()}{moves}</style>"
        f'<rect width="{width:g}" height="{height}" rx="8" fill="#14181d"/>'
        f'<text class="name" x="16" y="24">{escape(name)}</text>\n' + "\n".join(frames) + "</svg>\n"
    )


def written(line: Line) -> str:
    """A line as the content of an element, a span for each run of one kind."""
    parts = []
    for kind, run in itertools.groupby(line, key=lambda cell: cell[1]):
        words = escape("".join(character for character, _ in run))
        parts.append(f'<tspan class="{kind}">{words}</tspan>' if kind else words)
    return "".join(parts).rstrip()


def main(words: Sequence[str]) -> None:
    """See the head of this file."""
    path, seconds, *command = words
    printed = list(record(command))
    shown, speed = pictures(printed, " ".join(command), float(seconds))
    Path(path).write_text(draw(shown, f"shown {speed:.0f} times as fast as it ran"), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
