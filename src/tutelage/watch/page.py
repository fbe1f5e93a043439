"""The page of ``tutelage watch``: one file that makes no request, written without jinja2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage.report.html import THUMB_SIDE, jpeg_uri
from tutelage.report.wording import percent, shorten
from tutelage.watch.look import Seen
from tutelage.watch.pixels import MEASURES
from tutelage.watch.words import (
    MEANINGS,
    TITLES,
    accuracy,
    figure,
    headline,
    what_was_compared,
)

BINS = 24
WIDTH, HEIGHT = 240, 56  # of a histogram, in the units of its drawing
SHOWN = 24  # pictures of images to label
CLASSES = 100  # rows of the table of classes
ABOUT_SHARES = {"classes", "confidence"}  # alarms by which a class itself has not changed

STYLE = """
.curve { display: block; width: 240px; height: 56px; }
.curve .was { fill: none; stroke: var(--muted); stroke-width: 1.5; }
.curve .now { fill: var(--student); fill-opacity: .35; stroke: var(--student); }
"""


def render(
    result: Mapping[str, Any],
    reference: Seen,
    batch: Seen,
    pictures: Sequence[tuple[str, str, NDArray[np.uint8] | None]],
) -> str:
    """The whole page as text.

    Args:
        result: the content of watch.json.
        reference: what is known of the images of the reference.
        batch: what is known of those that were looked at.
        pictures: name, reason and pixels (H, W, 3) of images to label first.
    """
    style = resources.files("tutelage.report").joinpath("templates", "style.css.j2")
    parts = [
        _head(result, style.read_text("utf-8") + STYLE),
        _summary(result),
        _tests(result, reference, batch),
        _classes(result["classes"], set(result["alarms"])),
        _to_label(result, pictures) if pictures else "",
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(parts).encode("utf-8", "backslashreplace").decode("utf-8")


def _head(result: Mapping[str, Any], style: str) -> str:
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>tutelage watch: {escape(_state(result))}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>tutelage watch: {escape(_state(result))}</h1>
<p class="muted">{escape(result["created"])}, {escape(result["model"])}</p>
</header>
<main>"""


def _state(result: Mapping[str, Any]) -> str:
    count = len(result["alarms"])
    return f"{count} alarm{'s' * (count != 1)}" if count else "no alarm"


def _summary(result: Mapping[str, Any]) -> str:
    rows = [what_was_compared(result), accuracy(result)]
    rows += [f"{TITLES[name].capitalize()}: {MEANINGS[name]}." for name in result["alarms"]]
    if result["skipped"]:
        name, reason = next(iter(result["skipped"].items()))
        count = len(result["skipped"])
        rows.append(f"Images that could not be read: {count:,} (first: {name}: {reason}).")
    items = "\n".join(f"<li>{escape(row)}</li>" for row in rows)
    return f"""<section>
<p class="headline">{escape(headline(result))}</p>
<ul class="summary">
{items}
</ul>
</section>"""


def _tests(result: Mapping[str, Any], reference: Seen, batch: Seen) -> str:
    rows = "\n".join(_test(test, reference, batch) for test in result["tests"])
    return f"""<section>
<h2>What was compared</h2>
<p>Figures are shares of the images, or medians: brightness, contrast and colours in grey levels
from 0 to 255, sharpness as a logarithm, lower where images are blurred. p is the probability that
unchanged images differ as much in any row, and an alarm is a p of at most
{result["false_alarms"]:g}. In the drawings the line is the reference, and the area these
images.</p>
<div class="scroll" tabindex="0" role="region" aria-label="what was compared">
<table>
<thead><tr><th scope="col">what</th><th scope="col" class="words">verdict</th>
<th scope="col">reference</th><th scope="col">these images</th><th scope="col">p</th>
<th scope="col">distribution</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
</section>"""


def _test(test: Mapping[str, Any], reference: Seen, batch: Seen) -> str:
    name = test["name"]
    verdict = '<span class="rejected">alarm</span>' if test["alarm"] else "no alarm"
    values = _values(name, reference), _values(name, batch)
    drawn = "" if values[0] is None or values[1] is None else _curve(values[0], values[1])
    return (
        f'<tr><th scope="row">{escape(TITLES[name])}</th><td class="words">{verdict}</td>'
        f"<td>{figure(name, test['reference'])}</td><td>{figure(name, test['batch'])}</td>"
        f"<td>{test['p']:.3f}</td><td>{drawn}</td></tr>"
    )


def _values(name: str, seen: Seen) -> NDArray[np.floating[Any]] | None:
    if name in MEASURES:
        return seen.pixels[:, MEASURES.index(name)]
    return {"unknown": seen.energy, "confidence": seen.confidence}.get(name)


def _curve(was: NDArray[np.floating[Any]], now: NDArray[np.floating[Any]]) -> str:
    """Two histograms over each other: a line and an area, from the 1st to the 99th percentile."""
    low, high = np.quantile(np.concatenate([was, now]), [0.01, 0.99])
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    shares = [np.histogram(v.clip(edges[0], edges[-1]), edges)[0] / len(v) for v in (was, now)]
    top = max(share.max() for share in shares)
    outlines = [
        " ".join(
            f"{WIDTH * x / BINS:.0f},{HEIGHT - (HEIGHT - 4) * share / top:.1f}"
            for i, share in enumerate(one)
            for x in (i, i + 1)
        )
        for one in shares
    ]
    return (
        f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">'
        f'<polygon class="now" points="0,{HEIGHT} {outlines[1]} {WIDTH},{HEIGHT}"/>'
        f'<polyline class="was" points="{outlines[0]}"/></svg>'
    )


def _classes(rows: Sequence[Mapping[str, Any]], alarms: Set[str]) -> str:
    estimated = rows[0]["share"] is not None
    ordered = sorted(rows, key=lambda row: -abs(row["called"] - row["reference"]))[:CLASSES]
    body = "\n".join(_class(row) for row in ordered)
    how = (
        "The estimate corrects what the model answers by the mistakes that it made on the "
        "reference. It holds as long as only the shares have changed, not the images of a class"
        + ("; here these may have changed, so do not rely on it." if alarms - ABOUT_SHARES else ".")
        if estimated
        else "Shares are not estimated: that takes held-out labels of every class. These are the "
        "answers of the model, with its mistakes in them."
    )
    more = f" The {CLASSES} that changed most are shown." if len(rows) > CLASSES else ""
    return f"""<section>
<h2>Shares of the classes</h2>
<p>{how}{more}</p>
<div class="scroll" tabindex="0" role="region" aria-label="shares of the classes">
<table>
<thead><tr><th scope="col">class</th><th scope="col">reference</th><th scope="col">answers</th>
<th scope="col">estimated share</th><th scope="col">95% interval</th></tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>
</section>"""


def _class(row: Mapping[str, Any]) -> str:
    ends = "" if row["low"] is None else f"{percent(row['low'])} to {percent(row['high'])}"
    share = "" if row["share"] is None else percent(row["share"])
    return (
        f'<tr><th scope="row"><bdi>{escape(row["class"])}</bdi></th>'
        f"<td>{percent(row['reference'])}</td><td>{percent(row['called'])}</td>"
        f"<td>{share}</td><td>{ends}</td></tr>"
    )


def _to_label(
    result: Mapping[str, Any], pictures: Sequence[tuple[str, str, NDArray[np.uint8] | None]]
) -> str:
    figures = "\n".join(_figure(*picture) for picture in pictures[:SHOWN])
    return f"""<section>
<h2>Images to label first</h2>
<p>If you label some of the images, begin with these: they stand for what the reference has least
of. <code>{escape(result["to_label"])}</code> lists {len(pictures):,} of them.</p>
<div class="sheet">
{figures}
</div>
</section>"""


def _figure(name: str, why: str, pixels: NDArray[np.uint8] | None) -> str:
    picture = ""
    if pixels is not None:
        small = Image.fromarray(pixels)
        small.thumbnail((THUMB_SIDE, THUMB_SIDE))
        picture = f'<img src="{jpeg_uri(small)}" alt="{escape(shorten(name, 160))}">'
    return (
        f'<figure>{picture}<figcaption title="{escape(name)}"><bdi>{escape(shorten(name, 60))}'
        f'</bdi><span class="muted">{escape(why)}</span></figcaption></figure>'
    )
