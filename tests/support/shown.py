"""The command lines that the documentation shows."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if page.name != "cli.md"]
PAGES += [DOCS.parent / "README.md", DOCS.parent / "README.ko.md"]


def commands_of(page: Path) -> list[str]:
    """A page's command lines in their order: in plain blocks, indented, and within the text."""
    found: list[str] = []
    fence: str | None = None
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("```"):
            fence = line[3:] if fence is None else None
        elif fence in (None, ""):
            parts = line.split("&&") if fence == "" else re.findall(r"`([^`]*)`", line)
            parts += [line] * line.startswith("    tutelage ")
            found += [part.strip() for part in parts]
    return [line for line in found if re.match(r"tutelage [a-z-]+ \S", line)]


COMMANDS = {page.name: found for page in PAGES if (found := commands_of(page))}
