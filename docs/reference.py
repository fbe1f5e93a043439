"""Write docs/cli.md from the command line's own parser.

python docs/reference.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from tutelage.cli import build_parser

PAGE = Path(__file__).parent / "cli.md"
HEAD = """# Command line

Written from the parser by `docs/reference.py`; `tutelage COMMAND --help` says the same.
"""


def commands(
    parser: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """(name, summary, parser) of every command that does something."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for group in groups:
        summaries = {choice.dest: choice.help or "" for choice in group._choices_actions}
        for word, inner in group.choices.items():
            below = list(commands(inner, f"{name} {word}"))
            yield from below or [(f"{name} {word}", summaries[word], inner)]


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, summary, parser in commands(build_parser(), "tutelage"):
        parts += [f"## {name}\n\n{summary[:1].upper()}{summary[1:]}.\n"]
        shown = [a for a in parser._actions if a.dest != "help" and a.help != argparse.SUPPRESS]
        rows = [_row(action) for action in shown]
        parts += ["| | |\n| --- | --- |\n" + "\n".join(rows) + "\n"]
    return "\n".join(parts)


def _row(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    if action.choices is not None:
        value = " or ".join(map(str, action.choices))
    flag = " ".join([*action.option_strings[-1:], *([] if action.nargs == 0 else [str(value)])])
    words = re.sub(r"([|<>*_])", r"\\\1", (action.help or "").replace("%%", "%"))
    return f"| `{flag.replace('|', ' or ')}` | {words} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
