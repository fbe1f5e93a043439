"""A hook of MkDocs: the pages beside the benchmarks, and a port to copy, are part of the site.

Links lead from page to page in the repository. In the site the other folders lie below the pages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
PORT = "ports/python/classify.py"
INCLUDED = InclusionLevel.INCLUDED  # other files of Python are left out
LINKS = {
    "](../ports/": "](ports/",
    "](../benchmarks/": "](benchmarks/",
    "](../docs/": "](../",
    "](../../docs/": "](../../",
}
"""The beginning of a link in the repository, and in the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add what does not lie in ``docs/``."""
    for page in sorted((ROOT / "benchmarks").rglob("*.md")):
        name = page.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    files.append(File(PORT, str(ROOT), config.site_dir, False, inclusion=INCLUDED))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn the links between the two folders into those of the site."""
    for link, there in LINKS.items():
        markdown = markdown.replace(link, there)
    return markdown
