"""The page of ``tutelage ladder``: what each stage gains, over paired label draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from markupsafe import Markup

from tutelage import pages
from tutelage.ladder.curve import CurvePoint, LabelCount, Worth
from tutelage.pages.wording import (
    interval_of_change,
    interval_of_share,
    percent,
    points,
    size_in_points,
)
from tutelage.report import plots
from tutelage.report.html import flat
from tutelage.stats.intervals import Z95, Interval

BASELINE = "fine-tune"
HELPS, HURTS, UNCLEAR = "helps", "hurts", "not told apart"
MEANINGS = {
    "scratch": "trunk and head from random weights, trained on plain views of the labelled images",
    "augment": "the same with augmentation: crops, flips, RandAugment, CutMix",
    "probe": "logistic regression on the frozen trunk's features of the centre view",
    "fine-tune": "the plain way: trunk and head trained on the labels, nothing else",
    "transfer": "tutelage's transfer, before any unlabelled image is used",
    "self-train": "the teacher that was accepted after the rounds of pseudo-labels",
    "student-alone": "the student's architecture and steps, trained without a teacher",
    "student": "the small student, distilled from the teacher on labelled and unlabelled images",
    "no-augmentation": "the student of the whole chain, trained on plain views throughout",
    "no-transfer": "the student of the whole chain from random weights",
    "no-self-train": "the student of the teacher before the rounds of pseudo-labels",
}
PARTS = {
    "augmentation": "no-augmentation",
    "pretrained weights": "no-transfer",
    "self-training": "no-self-train",
    "distillation": "student-alone",
}
"""Part of the chain -> the arm that is the chain without it."""


@dataclass(frozen=True)
class Arm:
    """One arm over S label draws."""

    name: str  # as in ``MEANINGS``
    each: Sequence[float]  # (S,) test accuracies, as fractions
    mean: Interval
    ece: float  # mean expected calibration error
    parameters: int
    seconds: float  # mean time of its own work, without what it builds on, in seconds
    total: float  # mean time of its own work and all that it builds on, in seconds
    latency_ms: float | None  # of one image on one core, exported to ONNX; None if not timed
    kept: int | None  # draws in which held-out labels kept it; None where nothing is decided


@dataclass(frozen=True)
class Difference:
    """One arm minus another, paired by label draw."""

    arm: str
    minus: str  # name of the arm that is subtracted
    each: Sequence[float]  # (S,) differences in test accuracy, as fractions
    mean: Interval

    @property
    def verdict(self) -> str:
        """``helps`` or ``hurts`` where the whole interval lies on one side of 0.

        If all differences are equal, their interval has no width. That shows no certainty, but a
        test set too small to show the spread (one image of 18, say, in each of 3 draws).
        """
        if self.mean.low == self.mean.high:
            return UNCLEAR
        if self.mean.low > 0:
            return HELPS
        return HURTS if self.mean.high < 0 else UNCLEAR


@dataclass(frozen=True)
class LadderPage:
    """Everything the page shows."""

    title: str
    command: str  # the command line that made it
    created: str  # date and time
    seeds: Sequence[int]  # (S,) of the label draws
    n_test: int  # test images
    arms: Sequence[Arm]  # in the ladder's order
    differences: Sequence[Difference]
    points: Sequence[CurvePoint]  # of the label-efficiency curve, rising in labels
    worth: Worth | None  # of the unlabelled images in labels; None without a curve
    price: float | None  # of an hour of this machine, in any currency; None if not given
    notes: Sequence[str]  # what the reader must know before believing the figures
    settings: Mapping[str, Any]  # every setting, nested in any way

    def cost(self, arm: Arm) -> float | None:
        """What one draw of an arm costs, all that it builds on included."""
        return None if self.price is None else round(self.price * arm.total / 3600, 4)


def render(page: LadderPage) -> str:
    """The whole page as text."""
    rows = [plots.Draws(arm.name, arm.each, arm.mean) for arm in page.arms]
    curve = None
    if len(page.points) > 1:
        drawn = plots.label_curve(
            [point.labels for point in page.points],
            [point.within for point in page.points],
            [point.without for point in page.points],
        )
        curve = Markup(drawn)
    context = {
        "page": page,
        "headline": headline(page),
        "chart": Markup(plots.draws(rows, "accuracy on test images, %")),
        "sentences": sentences(page.arms, page.differences),
        "summary": summary(page),
        "parts": parts(page.differences),
        "curve": curve,
        "worth": None if page.worth is None else worth_in_words(page.worth),
        "luck": luck_note(page.arms, page.n_test),
        "meanings": [(arm.name, MEANINGS[arm.name]) for arm in page.arms],
        "words": {HELPS: "gain", HURTS: "loss", UNCLEAR: "muted"},
        "settings": list(flat(page.settings)),
    }
    return pages.render("ladder.html.j2", **context)


def last_rung(arms: Sequence[Arm]) -> Arm:
    """The last arm that leaves no part of the chain out."""
    return [arm for arm in arms if arm.name not in PARTS.values()][-1]


def headline(page: LadderPage) -> str:
    """The last rung's accuracy and, where there is a plain baseline, what the chain gained."""
    last = last_rung(page.arms)
    said = (
        f"Over {len(page.seeds)} label draws, {last.name} gets {percent(last.mean.value)} of the "
        f"test images right ({interval_of_share(*last.mean[1:])})"
    )
    found = [d for d in page.differences if (d.arm, d.minus) == (last.name, BASELINE)]
    if not found:
        return f"{said}."
    change = found[0]
    size, interval = size_in_points(change.mean.value), f"({interval_of_change(change.mean)})"
    if change.verdict == HELPS:
        return f"{said}: {size} more than plain fine-tuning on the labels {interval}."
    if change.verdict == HURTS:
        return f"{said}: {size} less than plain fine-tuning on the labels {interval}."
    return (
        f"{said}; it cannot be told apart from plain fine-tuning on the labels: "
        f"{points(change.mean.value)} points {interval}."
    )


def parts(differences: Sequence[Difference]) -> list[tuple[str, Difference]]:
    """Each part of the chain, with the student's difference to the chain without that part."""
    found = {change.minus: change for change in differences if change.arm == "student"}
    return [(part, found[arm]) for part, arm in PARTS.items() if arm in found]


def summary(page: LadderPage) -> str:
    """What a reader who knows no statistics should take from the page, after its headline."""
    said = []
    by_verdict: dict[str, list[tuple[str, Difference]]] = {HELPS: [], HURTS: [], UNCLEAR: []}
    for part, change in parts(page.differences):
        by_verdict[change.verdict].append((part, change))
    if found := by_verdict[HELPS]:
        said.append(f"The whole chain needs {_listed(found)}.")
    if found := by_verdict[HURTS]:
        said.append(f"It would be better without {_listed(found)}.")
    if found := by_verdict[UNCLEAR]:
        said.append(
            f"{len(page.seeds)} draws do not show what it would be without {_listed(found)}."
        )
    if page.worth is not None:
        said.append(worth_in_words(page.worth))
    last = last_rung(page.arms)
    cost = page.cost(last)
    price = "" if cost is None else f" and costs {cost:.2f}"
    said.append(f"One draw of {last.name} takes {last.total / 60:.1f} minutes here{price}.")
    return " ".join(said)


def _listed(found: Sequence[tuple[str, Difference]]) -> str:
    return ", ".join(f"{part} ({points(change.mean.value)} points)" for part, change in found)


def worth_in_words(worth: Worth) -> str:
    """What the unlabelled images are worth, in a sentence."""
    own, equal = f"{worth.labels:.0f} labels", _labels(worth.equal)
    if worth.more:
        said = f"With the unlabelled images {own} do what {equal} do without them"
    else:
        said = f"With the unlabelled images {equal} do what {own} do without them"
    ends = sorted((worth.low, worth.high), key=lambda end: end.count)
    interval = f"(95% interval {_labels(ends[0])} to {_labels(ends[1])})"
    gain = worth.equal.count - worth.labels if worth.more else worth.labels - worth.equal.count
    if not worth.is_clear:
        return f"{said} {interval}: the draws do not show that they are worth any."
    if gain < 0:
        return f"{said} {interval}: here they do harm."
    more = "more than " if worth.equal.beyond else ""
    return f"{said} {interval}: they are worth {more}{gain:.0f} labels."


def _labels(found: LabelCount) -> str:
    return {1: "more than ", 0: "", -1: "fewer than "}[found.beyond] + f"{found.count:.0f}"


def sentences(arms: Sequence[Arm], differences: Sequence[Difference]) -> dict[str, list[str]]:
    """Each verdict's differences in words; a verdict that none has gets an empty list."""
    sizes = {arm.name: arm.parameters for arm in arms}
    out: dict[str, list[str]] = {HELPS: [], HURTS: [], UNCLEAR: []}
    for change in differences:
        out[change.verdict].append(_sentence(change, sizes[change.arm] / sizes[change.minus]))
    return out


def _sentence(change: Difference, size: float) -> str:
    """One difference in words; ``size`` is the ratio of parameters."""
    verb = {HELPS: "gained", HURTS: "lost"}.get(change.verdict)
    value = change.mean.value
    amount = f"{verb} {size_in_points(value)}" if verb else f"{points(value)} points"
    better = sum(each > 0 for each in change.each)
    worse = sum(each < 0 for each in change.each)
    smaller = f", with {size:.2f} times its parameters" if size < 0.95 else ""
    return (
        f"{change.arm} against {change.minus}: {amount} "
        f"({interval_of_change(change.mean)}); better in {better}, worse in {worse} of "
        f"{len(change.each)} draws{smaller}."
    )


def luck_note(arms: Sequence[Arm], n_test: int) -> str:
    """How far other test images could move an accuracy; the intervals over draws leave that out."""
    share = last_rung(arms).mean.value
    half = Z95 * sqrt(share * (1 - share) / n_test)
    return (
        f"All draws share the same {n_test} test images. The intervals include chance in labels, "
        "views and training, but not in the choice of test images: that alone moves an "
        f"accuracy of {percent(share)} by about {size_in_points(half)} to either side "
        "(differences on the same images by less)."
    )
