"""The page of ``tutelage ladder``: what each stage buys, over paired label draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from tutelage.errors import need
from tutelage.report import plots
from tutelage.report.html import fill, flat
from tutelage.report.numbers import Z95, Interval
from tutelage.report.verdict import percent, points, span

BASELINE = "fine-tune"
HELPS, HURTS, UNCLEAR = "helps", "hurts", "not told apart"
MEANINGS = {
    "probe": "logistic regression on the frozen trunk's features of the centre view",
    "fine-tune": "the plain way: trunk and head trained on the labels, nothing else",
    "transfer": "tutelage's transfer, before any unlabelled image is used",
    "self-train": "the teacher that was accepted after the rounds of pseudo-labels",
    "student-alone": "the student's architecture and steps, trained without a teacher",
    "student": "the small student, distilled from the teacher on labels and unlabelled images",
}


@dataclass(frozen=True)
class Arm:
    """One arm over S label draws.

    Attributes:
        name: as in ``MEANINGS``.
        each: (S,) test accuracies, as fractions.
        mean: of them, with its 95% interval.
        ece: mean expected calibration error.
        parameters: of its model.
        seconds: mean of its own work, without what it builds on.
        latency_ms: of one image on one core, exported to ONNX; None: not timed.
        kept: draws in which held-out labels kept it; None where nothing is decided.
    """

    name: str
    each: Sequence[float]
    mean: Interval
    ece: float
    parameters: int
    seconds: float
    latency_ms: float | None
    kept: int | None


@dataclass(frozen=True)
class Difference:
    """One arm minus another, paired by label draw.

    Attributes:
        arm: the arm.
        minus: the one that is subtracted.
        each: (S,) differences in test accuracy, as fractions.
        mean: of them, with its 95% interval.
    """

    arm: str
    minus: str
    each: Sequence[float]
    mean: Interval

    @property
    def verdict(self) -> str:
        """``helps`` or ``hurts`` where the whole interval lies on one side of 0.

        Differences that are all alike have an interval without width: that is a test set too small
        to show the spread (one image of 18, say, in each of 3 draws), not certainty.
        """
        if self.mean.low == self.mean.high:
            return UNCLEAR
        if self.mean.low > 0:
            return HELPS
        return HURTS if self.mean.high < 0 else UNCLEAR


@dataclass(frozen=True)
class LadderPage:
    """Everything the page shows.

    Attributes:
        title: the page's heading.
        command: the command line that made it.
        created: when, as text.
        seeds: (S,) of the label draws.
        n_test: images the figures come from.
        arms: in the ladder's order.
        differences: in the order they are told.
        notes: what the reader must know before believing the figures.
        settings: every setting, nested as it likes.
    """

    title: str
    command: str
    created: str
    seeds: Sequence[int]
    n_test: int
    arms: Sequence[Arm]
    differences: Sequence[Difference]
    notes: Sequence[str]
    settings: Mapping[str, Any]


def render(page: LadderPage) -> str:
    """The whole page as text.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    markup = need("markupsafe", "train").Markup
    rows = [plots.Draws(arm.name, arm.each, arm.mean) for arm in page.arms]
    context = {
        "page": page,
        "headline": headline(page),
        "chart": markup(plots.draws(rows, "accuracy on test images, %")),
        "told": told(page.arms, page.differences),
        "luck": luck(page.arms, page.n_test),
        "meanings": [(arm.name, MEANINGS[arm.name]) for arm in page.arms],
        "words": {HELPS: "gain", HURTS: "loss", UNCLEAR: "muted"},
        "settings": list(flat(page.settings)),
    }
    return fill("ladder.html.j2", context)


def headline(page: LadderPage) -> str:
    """The last arm's accuracy and, where there is a plain baseline, what all of it bought."""
    last = page.arms[-1]
    said = (
        f"Over {len(page.seeds)} label draws, {last.name} names {percent(last.mean.value)} of the "
        f"test images right ({span(last.mean.low, last.mean.high)})"
    )
    found = [d for d in page.differences if (d.arm, d.minus) == (last.name, BASELINE)]
    if not found:
        return f"{said}."
    change = found[0]
    size, interval = _points(abs(change.mean.value)), _interval(change.mean)
    if change.verdict == HELPS:
        return f"{said}: {size} more than plain fine-tuning on the labels {interval}."
    if change.verdict == HURTS:
        return f"{said}: {size} less than plain fine-tuning on the labels {interval}."
    return (
        f"{said}; it cannot be told apart from plain fine-tuning on the labels: "
        f"{points(change.mean.value)} points {interval}."
    )


def told(arms: Sequence[Arm], differences: Sequence[Difference]) -> dict[str, list[str]]:
    """Verdict -> sentences; all three verdicts, also those that nothing has."""
    sizes = {arm.name: arm.parameters for arm in arms}
    out: dict[str, list[str]] = {HELPS: [], HURTS: [], UNCLEAR: []}
    for change in differences:
        out[change.verdict].append(_sentence(change, sizes[change.arm] / sizes[change.minus]))
    return out


def _sentence(change: Difference, size: float) -> str:
    """One difference in words; ``size`` is the ratio of parameters."""
    verb = {HELPS: "gained", HURTS: "lost"}.get(change.verdict)
    value = change.mean.value
    amount = f"{verb} {_points(abs(value))}" if verb else f"{points(value)} points"
    better = sum(each > 0 for each in change.each)
    worse = sum(each < 0 for each in change.each)
    smaller = f", with {size:.2f} times its parameters" if size < 0.95 else ""
    return (
        f"{change.arm} against {change.minus}: {amount} {_interval(change.mean)}; better in "
        f"{better}, worse in {worse} of {len(change.each)} draws{smaller}."
    )


def luck(arms: Sequence[Arm], n_test: int) -> str:
    """How far other test images could move an accuracy; the intervals over draws omit that."""
    share = arms[-1].mean.value
    half = Z95 * sqrt(share * (1 - share) / n_test)
    return (
        f"All draws share the same {n_test} test images. The intervals hold the luck of labels, "
        "views and training, not of which images were tested: that alone moves an accuracy of "
        f"{percent(share)} by about {_points(half)} to either side (differences on the same "
        "images by less)."
    )


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"


def _interval(change: Interval) -> str:
    return f"(95% interval {points(change.low)} to {points(change.high)})"
