"""The words and the page of ``tutelage ladder``, from its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from markupsafe import Markup

from tutelage import pages
from tutelage.ladder.figures import (
    BASELINE,
    HELPS,
    HURTS,
    UNCLEAR,
    Arm,
    Difference,
    LabelCount,
    Worth,
)
from tutelage.pages.wording import (
    flat_settings,
    interval_of_change,
    interval_of_share,
    percent,
    points,
    size_in_points,
)
from tutelage.report import plots
from tutelage.stats.intervals import Z95, Interval

PARTS = {
    "augmentation": "no-augmentation",
    "pretrained weights": "no-transfer",
    "self-training": "no-self-train",
    "distillation": "student-alone",
}
"""Part of the chain -> the arm that is the chain without it."""


def render(content: Mapping[str, Any], title: str) -> str:
    """The whole page as text."""
    arms, curve = content["arms"], content["curve"]
    rows = [plots.Draws(arm["name"], arm["each"], _mean(arm)) for arm in arms]
    context = {
        "title": title,
        "content": content,
        "headline": headline(content),
        "chart": Markup(plots.draws(rows, "accuracy on test images, %")),
        "summary": summary(content),
        "parts": parts(content["differences"]),
        "curve": None,
        "worth": None if content["worth"] is None else worth_in_words(content["worth"]),
        "luck": luck_note(arms, content["n_test"]),
        "settings": list(flat_settings(content["settings"])),
    }
    if len(curve) > 1:
        drawn = plots.label_curve(
            [point["labels"] for point in curve],
            [point["each_with_pool"] for point in curve],
            [point["each_without_pool"] for point in curve],
        )
        context["curve"] = Markup(drawn)
    return pages.render("ladder.html.j2", **context)


def _mean(arm: Arm) -> Interval:
    return Interval(arm["accuracy"], *arm["accuracy_ci95"])


def _change(found: Difference) -> Interval:
    return Interval(found["mean"], *found["ci95"])


def last_rung(arms: Sequence[Arm]) -> Arm:
    """The last arm that leaves no part of the chain out."""
    return [arm for arm in arms if arm["name"] not in PARTS.values()][-1]


def headline(content: Mapping[str, Any]) -> str:
    """The last rung's accuracy and, where there is a plain baseline, what the chain gained."""
    last = last_rung(content["arms"])
    said = (
        f"Over {len(content['seeds'])} label draws, {last['name']} gets "
        f"{percent(last['accuracy'])} of the test images right "
        f"({interval_of_share(*last['accuracy_ci95'])})"
    )
    against = (last["name"], BASELINE)
    found = [one for one in content["differences"] if (one["arm"], one["minus"]) == against]
    if not found:
        return f"{said}."
    (change,) = found
    size, interval = size_in_points(change["mean"]), f"({interval_of_change(_change(change))})"
    if change["verdict"] == UNCLEAR:
        return (
            f"{said}; it cannot be told apart from plain fine-tuning on the labels: "
            f"{points(change['mean'])} points {interval}."
        )
    less = "more" if change["verdict"] == HELPS else "less"
    return f"{said}: {size} {less} than plain fine-tuning on the labels {interval}."


def parts(differences: Sequence[Difference]) -> list[tuple[str, Difference]]:
    """Each part of the chain, with the student's difference to the chain without that part."""
    found = {change["minus"]: change for change in differences if change["arm"] == "student"}
    return [(part, found[arm]) for part, arm in PARTS.items() if arm in found]


def summary(content: Mapping[str, Any]) -> str:
    """What a reader who knows no statistics should take from the page, after its headline."""
    said = []
    openings = {
        HELPS: "The whole chain needs",
        HURTS: "It would be better without",
        UNCLEAR: f"{len(content['seeds'])} draws do not show what it would be without",
    }
    for verdict, opening in openings.items():
        found = [
            f"{part} ({points(change['mean'])} points)"
            for part, change in parts(content["differences"])
            if change["verdict"] == verdict
        ]
        if found:
            said.append(f"{opening} {', '.join(found)}.")
    if content["worth"] is not None:
        said.append(worth_in_words(content["worth"]))
    last = last_rung(content["arms"])
    minutes = last["total_seconds"] / 60
    said.append(f"One draw of {last['name']} takes {minutes:.1f} minutes here.")
    return " ".join(said)


def worth_in_words(worth: Worth) -> str:
    """What the unlabelled images are worth, in a sentence."""
    number, count = worth["labels"], worth["equal"]["count"]
    own, equal = f"{number:.0f} labels", _labels(worth["equal"])
    within, alone = (own, equal) if worth["more"] else (equal, own)
    said = f"With the unlabelled images {within} do what {alone} do without them"
    least, most = sorted((worth["low"], worth["high"]), key=lambda end: end["count"])
    interval = f"(95% interval {_labels(least)} to {_labels(most)})"
    if least["count"] <= number <= most["count"]:
        return f"{said} {interval}: the draws do not show that they are worth any."
    gain = count - number if worth["more"] else number - count
    if gain < 0:
        return f"{said} {interval}: here they do harm."
    more = "more than " if worth["equal"]["beyond"] else ""
    return f"{said} {interval}: they are worth {more}{gain:.0f} labels."


def _labels(found: LabelCount) -> str:
    return {1: "more than ", 0: "", -1: "fewer than "}[found["beyond"]] + f"{found['count']:.0f}"


def luck_note(arms: Sequence[Arm], n_test: int) -> str:
    """How far other test images could move an accuracy; the intervals over draws leave that out."""
    share = last_rung(arms)["accuracy"]
    half = Z95 * sqrt(share * (1 - share) / n_test)
    return (
        f"All draws share the same {n_test} test images. The intervals include chance in labels, "
        "views and training, but not in the choice of test images: that alone moves an "
        f"accuracy of {percent(share)} by about {size_in_points(half)} to either side "
        "(differences on the same images by less)."
    )
