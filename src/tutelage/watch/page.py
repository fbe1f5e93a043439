"""What was found, in words for the terminal, and as a page: one file that makes no request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage import pages
from tutelage.pages.wording import interval_of_share, listed, percent, true_minus
from tutelage.report.html import thumbnail_uri
from tutelage.system.words import counted
from tutelage.watch.look import MEASURES, Seen

BINS = 24
WIDTH, HEIGHT = 240, 56  # of a histogram, in the units of its drawing
SHOWN = 24  # pictures of images to label
CLASSES = 100  # rows of the table of classes
ABOUT_SHARES = {"classes", "confidence"}  # alarms by which a class itself has not changed
SHARES = ("unknown", "confidence")  # tests whose figures are shares; the others' are medians
EXPOSURE = "the light or the exposure may have changed, or what the images show"
COLOURS = "the light or the white balance may have changed, or what the images show"
TESTS = {
    "classes": (
        "answers of the model",
        "some classes have become more frequent, or the model mistakes more images",
    ),
    "features": (
        "features of the model",
        "the model sees something that the reference does not have, or has less of",
    ),
    "unknown": ("images of none of the classes", "there may be images of a new class"),
    "confidence": (
        "unsure answers",
        "the model is less sure of its answers, so more of them are likely wrong",
    ),
    "sharpness": (
        "sharpness",
        "lens, focus, motion or compression may have changed, or what the images show",
    ),
    "brightness": ("brightness", EXPOSURE),
    "contrast": ("contrast", EXPOSURE),
    "warmth": ("red against blue", COLOURS),
    "tint": ("green against red and blue", COLOURS),
    "saturation": (
        "saturation",
        "the camera or its settings may have changed, or what the images show",
    ),
}
"""What each test compares, and what may be behind its alarm."""


def describe(result: Mapping[str, Any]) -> str:
    """The result, as watch.json has it, for a terminal."""
    lines = [_headline(result), _what_was_compared(result)]
    for test in result["tests"]:
        if test["alarm"]:
            title, meaning = TESTS[test["name"]]
            was, now = _figure(test, "reference"), _figure(test, "batch")
            lines.append(f"  {title}: {f'{was} before, {now} now ({meaning})' if now else meaning}")
    lines.append(_accuracy(result))
    if result["page"]:
        lines.append(f"page: {result['page']}")
    if result["to_label"]:
        lines.append(f"images to label first: {result['to_label']}")
    return "\n".join(lines)


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
    said = [_what_was_compared(result), _accuracy(result)]
    said += [f"{TESTS[name][0].capitalize()}: {TESTS[name][1]}." for name in alarms]
    if result["skipped"]:
        name, reason = next(iter(result["skipped"].items()))
        count = len(result["skipped"])
        said.append(f"Images that could not be read: {count:,} (first: {name}: {reason}).")
    return pages.render(
        "watch.html.j2",
        result=result,
        state=counted(len(alarms), "alarm") if alarms else "no alarm",
        headline=_headline(result),
        sentences=said,
        tests=[
            (
                TESTS[test["name"]][0],
                test,
                _figure(test, "reference"),
                _figure(test, "batch"),
                _curve(test["name"], reference, batch),
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


def _headline(result: Mapping[str, Any]) -> str:
    images = counted(result["images"], "image")
    if not result["alarms"]:
        return f"No alarm: no difference was found between the {images} and the reference."
    differences = listed([TESTS[name][0] for name in result["alarms"]])
    return f"Alarm: the {images} differ from the reference in {differences}."


def _what_was_compared(result: Mapping[str, Any]) -> str:
    reference = result["reference"]
    return (
        f"The reference: {reference['n']:,} {reference['images']}. If nothing has changed, "
        f"{100 * result['false_alarms']:g}% of looks like this one raise an alarm by chance."
    )


def _accuracy(result: Mapping[str, Any]) -> str:
    found = result["accuracy"]
    if found["value"] is None:
        return f"Today's accuracy is not estimated: {'; '.join(found['why'])}."
    text = (
        f"Estimated accuracy today: {percent(found['value'])} "
        f"({interval_of_share(found['low'], found['high'])}); on the {found['labels']:,} labels of "
        f"the reference it was {percent(found['reference'])}."
    )
    if found["believed"]:
        return text
    return f"{text} Do not rely on it: {'; '.join(found['why'])}."


def _figure(test: Mapping[str, Any], of: str) -> str:
    """A figure of a test; empty where there is none."""
    if (value := test[of]) is None:
        return ""
    return percent(value) if test["name"] in SHARES else true_minus(f"{value:.1f}")


def _curve(name: str, reference: Seen, batch: Seen) -> list[str] | None:
    """Two histograms over each other: a line and an area, from the 1st to the 99th percentile."""
    if name in ("classes", "features"):
        return None
    was, now = (
        seen["pixels"][:, MEASURES.index(name)]
        if name in MEASURES
        else seen["energy" if name == "unknown" else name]
        for seen in (reference, batch)
    )
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
