"""The pages of all commands: their templates, styles and scripts, and how they are filled.

Files that open offline (``page.html.j2`` and what extends it) make no request: a content security
policy forbids a page to fetch anything, or to run anything but its own script, by hash. ``serve/``
and ``review/`` hold what a server, or the folder of ``export --web``, has beside its page. Names of
classes, files and settings are untrusted; the templates escape them all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from functools import cache, partial
from importlib import resources
from typing import Any

import jinja2

from tutelage.pages import wording

FOLDER = resources.files(__name__)


def render(template: str, **context: Any) -> str:
    """A template, filled, as text."""
    page = _environment().get_template(template).render(context)
    # File names from disk may hold bytes that are no text; the page must still be UTF-8.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def read(name: str) -> str:
    """A style or script as it is served; a style of a folder comes with what all pages share."""
    text = FOLDER.joinpath(name).read_text("utf-8")
    return read("base.css") + text if name.endswith("/page.css") else text


def inline(script: str) -> dict[str, str]:
    """A script for a page that opens offline, and the name that the page's policy knows it by."""
    text = read(script)
    digest = hashlib.sha256(f"\n{text}".encode()).digest()
    return {"script": text, "script_hash": base64.b64encode(digest).decode()}


@cache
def _environment() -> jinja2.Environment:
    """Jinja's environment, which keeps the templates that it has compiled."""
    environment = jinja2.Environment(
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: FOLDER.joinpath(name).read_text("utf-8")),
    )
    environment.filters |= {
        "percent": wording.percent,
        "points": wording.points,
        "signed": wording.signed,
        "true_minus": wording.true_minus,
        "short": wording.shorten,
        "duration": wording.duration,
        "meaning": wording.step_meaning,
        "shell": shlex.quote,
        "middle": wording.cut_middle,
        "size": wording.file_size,
        "cell": wording.markdown_cell,
        "pretty": partial(json.dumps, indent=2, ensure_ascii=False),
    }
    return environment
