"""What was found, in words, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.pages.wording import interval_of_share, percent, true_minus
from tutelage.system.words import counted

TITLES = {
    "classes": "answers of the model",
    "features": "features of the model",
    "unknown": "images of none of the classes",
    "confidence": "unsure answers",
    "sharpness": "sharpness",
    "brightness": "brightness",
    "contrast": "contrast",
    "warmth": "red against blue",
    "tint": "green against red and blue",
    "saturation": "saturation",
}
"""A test -> what it compares."""

MEANINGS = {
    "classes": "some classes have become more frequent, or the model mistakes more images",
    "features": "the model sees something that the reference does not have, or has less of",
    "unknown": "there may be images of a new class",
    "confidence": "the model is less sure of its answers, so more of them are likely wrong",
    "sharpness": "lens, focus, motion or compression may have changed, or what the images show",
    "brightness": "the light or the exposure may have changed, or what the images show",
    "contrast": "the light or the exposure may have changed, or what the images show",
    "warmth": "the light or the white balance may have changed, or what the images show",
    "tint": "the light or the white balance may have changed, or what the images show",
    "saturation": "the camera or its settings may have changed, or what the images show",
}
"""A test -> what may be behind its alarm."""

SHARES = ("unknown", "confidence")
"""Tests whose figures are shares of the images; the others' are medians."""


def headline(result: Mapping[str, Any]) -> str:
    """Whether there is an alarm, in one sentence."""
    images = counted(result["images"], "image")
    if not result["alarms"]:
        return f"No alarm: no difference was found between the {images} and the reference."
    return f"Alarm: the {images} differ from the reference in {listed(result['alarms'])}."


def listed(names: Sequence[str]) -> str:
    """The titles of tests as one phrase."""
    titles = [TITLES[name] for name in names]
    return " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)


def what_was_compared(result: Mapping[str, Any]) -> str:
    """The reference, and what the false-alarm rate means."""
    reference = result["reference"]
    return (
        f"The reference: {reference['n']:,} {reference['images']}. If nothing has changed, "
        f"{100 * result['false_alarms']:g}% of looks like this one raise an alarm by chance."
    )


def accuracy(result: Mapping[str, Any]) -> str:
    """The estimate, its interval, and whether to believe it."""
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


def figure(name: str, value: float | None) -> str:
    """A figure of a test; empty where there is none."""
    if value is None:
        return ""
    return percent(value) if name in SHARES else true_minus(f"{value:.1f}")


def describe(result: Mapping[str, Any]) -> str:
    """The result for a terminal."""
    lines = [headline(result), what_was_compared(result)]
    lines += [
        f"  {TITLES[test['name']]}: {figure(test['name'], test['reference'])} before, "
        f"{figure(test['name'], test['batch'])} now ({MEANINGS[test['name']]})"
        if test["batch"] is not None
        else f"  {TITLES[test['name']]}: {MEANINGS[test['name']]}"
        for test in result["tests"]
        if test["alarm"]
    ]
    lines.append(accuracy(result))
    if result["page"]:
        lines.append(f"page: {result['page']}")
    if result["to_label"]:
        lines.append(f"images to label first: {result['to_label']}")
    return "\n".join(lines)
