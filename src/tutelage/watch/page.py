"""The page of ``tutelage watch``: one file that makes no request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage import pages
from tutelage.report.html import thumbnail_uri
from tutelage.watch.look import MEASURES, Seen
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


def render(
    result: Mapping[str, Any],
    reference: Seen,
    batch: Seen,
    pictures: Sequence[tuple[str, str, NDArray[np.uint8] | None]],
) -> str:
    """The whole page as text, of the content of watch.json and what is known of the images.

    ``pictures`` are name, reason and pixels (H, W, 3) of images to label first.
    """
    alarms, classes = result["alarms"], result["classes"]
    said = [what_was_compared(result), accuracy(result)]
    said += [f"{TITLES[name].capitalize()}: {MEANINGS[name]}." for name in alarms]
    if result["skipped"]:
        name, reason = next(iter(result["skipped"].items()))
        count = len(result["skipped"])
        said.append(f"Images that could not be read: {count:,} (first: {name}: {reason}).")
    return pages.render(
        "watch.html.j2",
        result=result,
        state=f"{len(alarms)} alarm{'s' * (len(alarms) != 1)}" if alarms else "no alarm",
        headline=headline(result),
        sentences=said,
        tests=[
            (
                TITLES[test["name"]],
                test,
                figure(test["name"], test["reference"]),
                figure(test["name"], test["batch"]),
                _curve(_values(test["name"], reference), _values(test["name"], batch)),
            )
            for test in result["tests"]
        ],
        width=WIDTH,
        height=HEIGHT,
        estimated=classes[0]["share"] is not None,
        moved=set(alarms) - ABOUT_SHARES,
        classes=sorted(classes, key=lambda row: -abs(row["called"] - row["reference"]))[:CLASSES],
        left_out=len(classes) > CLASSES,
        to_label=len(pictures),
        pictures=[
            (name, why, None if pixels is None else thumbnail_uri(pixels))
            for name, why, pixels in pictures[:SHOWN]
        ],
    )


def _values(name: str, seen: Seen) -> NDArray[np.floating[Any]] | None:
    if name in MEASURES:
        return seen.pixels[:, MEASURES.index(name)]
    return {"unknown": seen.energy, "confidence": seen.confidence}.get(name)


def _curve(
    was: NDArray[np.floating[Any]] | None, now: NDArray[np.floating[Any]] | None
) -> list[str] | None:
    """Two histograms over each other: a line and an area, from the 1st to the 99th percentile."""
    if was is None or now is None:
        return None
    low, high = np.quantile(np.concatenate([was, now]), [0.01, 0.99])
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    shares = [np.histogram(v.clip(edges[0], edges[-1]), edges)[0] / len(v) for v in (was, now)]
    top = max(share.max() for share in shares)
    return [
        " ".join(
            f"{WIDTH * x / BINS:.0f},{HEIGHT - (HEIGHT - 4) * share / top:.1f}"
            for i, share in enumerate(one)
            for x in (i, i + 1)
        )
        for one in shares
    ]
