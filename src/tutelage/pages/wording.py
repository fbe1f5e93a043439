"""Figures in words, as every page writes them, and the settings of a run as its page tells them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tutelage.stats.intervals import Interval

DASH = "\N{EN DASH}"  # where there is no figure
TITLE_CLASSES = 6


def title(command: str, classes: Sequence[str]) -> str:
    """A page's heading: the command and the first classes."""
    more = " ..." if len(classes) > TITLE_CLASSES else ""
    return f"{command}: {', '.join(classes[:TITLE_CLASSES])}{more}"


def now() -> str:
    """The date and time at which a page is made."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as ``84.9%``; a dash for None."""
    return DASH if value is None else f"{100 * value:.{digits}f}%"


def signed(value: float, digits: int) -> str:
    """A number with its sign, ``+4.5``; 0 has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else true_minus(text)


def true_minus(text: str) -> str:
    """The text with typographic minus signs in place of hyphens."""
    return text.replace("-", "\N{MINUS SIGN}")


def points(change: float, digits: int = 1) -> str:
    """A difference of fractions as signed percentage points: ``+4.5``."""
    return signed(100 * change, digits)


def size_in_points(change: float) -> str:
    """How large a difference of fractions is, whatever its sign: ``4.5 points``."""
    return f"{100 * abs(change):.1f} points"


def interval_of_share(low: float, high: float) -> str:
    """The words for the 95% interval of a proportion."""
    return f"95% interval {100 * low:.1f} to {100 * high:.1f}"


def interval_of_change(change: Interval, digits: int = 1) -> str:
    """The words for the 95% interval of a difference of fractions, in points."""
    return f"95% interval {points(change.low, digits)} to {points(change.high, digits)}"


def change_words(change: Interval) -> str:
    """Whether a change is a gain, a loss or neither, with its interval."""
    interval = f"({interval_of_change(change)})"
    if change.low > 0:
        return f"gained {size_in_points(change.value)} {interval}"
    if change.high < 0:
        return f"lost {size_in_points(change.value)} {interval}"
    return f"no clear change: {points(change.value)} points {interval}"


STEPS = {
    "probe": "A linear classifier on the pretrained network, with its usual settings: the baseline",
    "transfer": "The same, with the settings that suit your images: held-out labels chose them",
    "self-train": "It also learns from the unlabelled images, with labels of its own making",
    "student": "The small model that is exported; it is made to answer like its teacher",
}


def step_meaning(name: str) -> str:
    """What a stage is, in a few words; empty for one that is not known."""
    return STEPS.get(re.sub(r"-\d+$", "", name), "")


def sentence(text: str) -> str:
    """A note of the run as a sentence: with a capital at its head and a stop at its end."""
    stop = "" if text.endswith((".", "!", "?")) else "."
    return f"{text[:1].upper()}{text[1:]}{stop}"


def listed(parts: Iterable[str]) -> str:
    """Parts of a sentence: ``a, b and c``."""
    *before, last = ["", *parts]
    return " and ".join(filter(None, [", ".join(before[1:]), last]))


def shorten(text: str, limit: int = 48) -> str:
    """At most ``limit`` characters of a text, the last an ellipsis where some are missing."""
    return text if len(text) <= limit else text[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def duration(seconds: float | None) -> str:
    """Seconds, minutes and seconds, or hours and minutes."""
    if seconds is None:
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def cut_middle(text: str, limit: int) -> str:
    """At most ``limit`` characters: the beginning and the end, with an ellipsis between them."""
    if len(text) <= limit:
        return text
    end = limit // 2
    return f"{text[: limit - end - 1]}\N{HORIZONTAL ELLIPSIS}{text[-end:]}"


def file_size(count: int) -> str:
    """Bytes as kilobytes or megabytes."""
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def markdown_cell(text: str) -> str:
    """A name as Markdown shows it: no cell, markup or heading of its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


# What the page says elsewhere (notes, files), or what a resumed run compares its data by.
INTERNAL = ("notes", "finished", "shortened", "images")


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The content of config.json as (dotted name, value as JSON), the planned rounds in words."""
    for key, value in settings.items():
        if not prefix and key in INTERNAL:
            continue
        if isinstance(value, Mapping) and value:
            yield from flat_settings(value, f"{prefix}{key}.")
        elif prefix + key == "plan.rounds":
            yield "plan.rounds", ", ".join(work["trunk"] for work in value) or "none"
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value, default=str)
