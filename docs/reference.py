"""Write docs/cli.md from the command line's own parser.

python docs/reference.py
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tutelage.cli.parser import build_parser
from tutelage.config import COMMANDS, SETTINGS, group_fields, group_title

PAGE = Path(__file__).parent / "cli.md"
HEAD = """# Command line

Written from the parser by `docs/reference.py`. `tutelage COMMAND --help` says the same, and
`--help-all` shows all settings. An option that several commands have is listed once, where it is
met first, and the settings [at the end](#settings).
"""
SETTINGS_HEAD = """## Settings

Of the commands that work on a data set: """


def page() -> str:
    """The whole page."""
    parser = build_parser(full=True)
    parts = [HEAD]
    listed: set[str] = set()
    for name, command in parser.commands.items():
        summary = parser.summaries[name]
        parts += [f"## tutelage {name}\n\n{summary[:1].upper()}{summary[1:]}.\n"]
        settings = group_fields(name)
        shown = [a for a in command._actions if a.dest not in settings and _is_shown(a)]
        rows = {_name(action): _row(action) for action in shown}
        own = [row for row in rows.values() if row not in listed]
        parts += ["\n".join([*own, ""])] if own else []
        parts += ["And the [settings](#settings).\n"] if settings else []
        listed |= {*rows.values()}
    return "\n".join([*parts, *_settings(parser.commands)])


def _settings(commands: Mapping[str, argparse.ArgumentParser]) -> Iterator[str]:
    """The settings, each once, by group; the group or a row names its commands, if not all do."""
    yield SETTINGS_HEAD + ", ".join(f"`{name}`" for name in COMMANDS) + ".\n"
    groups: dict[str, dict[str, str]] = {}
    for setting, (group, item) in SETTINGS.items():
        known = item.metadata["commands"]
        (action,) = (a for a in commands[known[0]]._actions if a.dest == setting)
        groups.setdefault(group, {})[_row(action)] = _only(known)
    for group, rows in groups.items():
        alike = len(set(rows.values())) == 1
        head = [f"### {group_title(group)}", ""]
        if alike and (only := next(iter(rows.values()))):
            head += [f"Commands: {only.strip('()')}.", ""]
        lines = [row if alike else f"{row} {only}".rstrip() for row, only in rows.items()]
        yield "\n".join([*head, *lines, ""])


def _only(known: tuple[str, ...]) -> str:
    """Which commands know a setting, in the shorter of two ways; empty if all do."""
    others = [name for name in COMMANDS if name not in known]
    if not others:
        return ""
    if len(others) < len(known):
        return f"(not {' or '.join(others)})"
    return f"({', '.join(known)})"


def _is_shown(action: argparse.Action) -> bool:
    return action.dest not in ("help", "help_all") and action.help != argparse.SUPPRESS


def _name(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar)


def _row(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    if action.choices is not None:
        value = " or ".join(map(str, action.choices))
    flag = " ".join([*action.option_strings[-1:], *([] if action.nargs == 0 else [str(value)])])
    words = re.sub(r"([<>*_])", r"\\\1", (action.help or "").replace("%%", "%"))
    return f"- `{flag.replace('|', ' or ')}`: {words}" if words else f"- `{flag}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
