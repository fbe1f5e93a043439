"""Commands and options that do not exist, and the ones that were probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tutelage.cli.parser import MainParser
from tutelage.system.errors import TutelageError
from tutelage.system.nearest import nearest

MOVED: dict[tuple[str, ...], str] = {
    ("label",): "label is now called pseudo-label",
    ("bench", "augment"): "bench augment is now python benchmarks/augment.py in a checkout of the "
    "source",
    ("bench", "model"): "bench model MODEL is now bench MODEL",
}
"""First words of commands that had another name."""

ELSEWHERE = {
    **dict.fromkeys(
        ("epochs", "steps", "max-steps", "iterations", "time", "time-limit"), "minutes"
    ),
    **dict.fromkeys(("model", "backbone", "arch", "architecture", "network"), "teacher"),
    **dict.fromkeys(("imgsz", "img-size", "image-size", "resolution", "size"), "input-size"),
    **dict.fromkeys(("o", "output", "out-dir", "output-dir", "project", "name", "save-dir"), "out"),
    **dict.fromkeys(("lr", "lr0", "learning-rate"), "lr-trunk"),
    **dict.fromkeys(("gpu", "gpus", "cuda", "cpu", "accelerator"), "device"),
    **dict.fromkeys(("shots", "n-labels", "labels"), "labels-per-class"),
    **dict.fromkeys(("conf", "min-confidence"), "threshold"),
    "random-state": "seed",
    "n": "budget",
}
"""What other tools call an option -> its name here."""


def check_words(parser: MainParser, words: Sequence[str]) -> None:
    """Refuse a command or an option that does not exist.

    Raises:
        TutelageError: it is named, with the nearest one that exists.
    """
    command = words[0]
    if command == "help":
        raise TutelageError("tutelage: write --help after a command, as in tutelage run --help")
    if words[1:] and (moved := MOVED.get(tuple(words[:2]))) and not Path(words[1]).exists():
        raise TutelageError(f"tutelage: {moved}")
    if command.startswith("-"):
        return
    if command not in parser.commands:
        told = MOVED.get((command,)) or _unknown(f"command {command}", command, parser.commands)
        raise TutelageError(f"tutelage: {told} (tutelage --help lists the commands)")
    known = parser.commands[command]._option_string_actions
    for word in words[1:]:
        if word == "--":
            return
        option = word.partition("=")[0]
        if _is_option(option) and option not in known:
            told = _unknown(f"option {option}", option, known)
            raise TutelageError(f"tutelage {command}: {told}")


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not word[1:].replace(".", "", 1).isdecimal()


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    near = _meant(word, sorted(known))
    return f"there is no {what}" + (f"; did you mean {near}?" if near else "")


def _meant(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant; None if none is near."""
    name = word.lstrip("-").replace("_", "-").lower()
    candidates = {other.lstrip("-"): other for other in known}
    if (elsewhere := ELSEWHERE.get(name)) in candidates:
        return candidates[elsewhere]
    near = nearest(name, candidates)
    return candidates[near] if near else None
