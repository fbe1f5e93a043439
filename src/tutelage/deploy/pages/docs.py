"""An OpenAPI document as a page for people: HTML without a script of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from string import Template
from typing import Any


def render(document: Mapping[str, Any], template: str) -> str:
    """The page of a document of ``tutelage.deploy.openapi``, in a ``string.Template``."""
    operations = [
        _operation(f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return Template(template).substitute(
        about=escape(document["info"]["description"]),
        address=escape(document["servers"][0]["url"]),
        operations="\n".join(operations),
    )


def _operation(name: str, operation: Mapping[str, Any]) -> str:
    slug = name.replace(" /", "-").lower()
    parts = [f'<h2 id="{slug}">{escape(name)}</h2>', f"<p>{escape(operation['summary'])}.</p>"]
    if "description" in operation:
        parts.append(f"<p>{escape(operation['description'])}</p>")
    parts += [_option(option) for option in operation.get("parameters", [])]
    for k, sample in enumerate(operation.get("x-codeSamples", [])):
        parts.append(f"<h3>{escape(sample.get('label', sample['lang']))}</h3>")
        parts.append(_code(sample["source"], f"{slug}-{k}"))
    responses = dict(operation["responses"])
    parts.append(_answer(responses.pop("200")))
    if responses:
        parts.append(_refusals(responses))
    return "\n".join(parts)


def _option(option: Mapping[str, Any]) -> str:
    return f"<p><code>?{escape(option['name'])}=true</code>: {escape(option['description'])}.</p>"


def _code(source: str, slug: str) -> str:
    return (
        f'<div class="command"><pre><code id="{slug}">{escape(source)}</code></pre>'
        f'<button type="button" data-copy="{slug}">Copy</button></div>'
    )


def _answer(response: Mapping[str, Any]) -> str:
    ((kind, content),) = response["content"].items()
    told = f"<h3>Answer</h3>\n<p>{escape(kind)}: {escape(response['description'])}.</p>"
    if "example" not in content:
        return told
    example = json.dumps(content["example"], indent=2, ensure_ascii=False)
    return f"{told}\n<pre><code>{escape(example)}</code></pre>"


def _refusals(responses: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        f'<tr><th scope="row">{escape(status)}</th><td>{escape(response["description"])}</td></tr>'
        for status, response in responses.items()
    ]
    head = '<thead><tr><th scope="col">Status</th><th scope="col">Reason</th></tr></thead>'
    return (
        '<h3>When there is no answer</h3>\n<p>The body is <code>{"error": "what was found, and '
        f'what to do"}}</code>.</p>\n<table>{head}<tbody>{"".join(rows)}</tbody></table>'
    )
