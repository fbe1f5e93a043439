"""Charts as inline SVG text: deterministic, made without pyplot, coloured by the page's CSS."""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, NamedTuple

import numpy as np

from tutelage.pages.wording import percent, shorten
from tutelage.report.numbers import Bin
from tutelage.report.threshold import Curve
from tutelage.report.verdict import Step
from tutelage.stats.intervals import Interval
from tutelage.system.errors import need

# matplotlib knows no CSS variables, so it draws with stand-ins that become variables afterwards.
INK, MUTED, LINE, STUDENT, TEACHER = (f"#0102{i:02x}" for i in range(1, 6))
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    STUDENT: "--student",
    TEACHER: "--teacher",
}
_WIDTH = 5.0  # inches: 360 units, so that text is still legible on a phone


class Draws(NamedTuple):
    """One arm of ``draws``: its accuracies in the draws (S,) and their mean, as fractions."""

    name: str
    each: Sequence[float]
    mean: Interval


@contextmanager
def _plain_style() -> Iterator[None]:
    """Keep the user's own matplotlib settings (LaTeX, fonts, sizes) out of the charts."""
    with need("matplotlib.style", "train").context("default"):
        yield


@_plain_style()
def ladder(steps: Sequence[Step], xlabel: str, majority: float) -> str:
    """Accuracy of each stage with its 95% interval, first stage on top.

    Accepted stages are filled circles on solid lines, rejected ones crosses on dashed lines.
    ``majority``, the accuracy of always answering the most frequent class, is a dotted line, where
    it does not lie far off.
    """
    shown = [(step.stage, step.figures) for step in steps if step.figures]
    figure, axes = _figure(1.1 + 0.42 * len(shown))
    said = []
    for row, (stage, figures) in enumerate(shown):
        accepted, value = stage["accepted"], 100 * figures["accuracy"]
        color = STUDENT if stage["name"] == "student" else INK if accepted else MUTED
        style = "-" if accepted else (0, (3, 2))
        low, high = (100 * end for end in figures["accuracy_ci95"])
        axes.plot([low, high], [row, row], color=color, linewidth=1.6, linestyle=style)
        marker = "o" if accepted else "x"
        axes.plot([value], [row], marker=marker, color=color, markersize=7, markeredgewidth=2)
        label = f"{value:.1f}" + ("" if accepted else " rejected")
        state = "accepted" if accepted else "rejected"
        found = _in_words(figures["accuracy"], figures["accuracy_ci95"])
        said.append(f"{stage['name']} ({state}): {found}")
        axes.annotate(
            label, (value, row), (0, 7), textcoords="offset points", ha="center", color=color
        )
    axes.set_ylim(len(shown) - 0.5, -0.75)
    axes.margins(x=0.12)
    said.append(f"always the most frequent class: {percent(majority)}")
    alt = "Accuracy of each stage with its 95% interval. " + "; ".join(said)
    _draw_majority(axes, 100 * majority)
    _name_rows(axes, [stage["name"] for stage, _ in shown], xlabel)
    return _svg(figure, "ladder", alt)


def _draw_majority(axes: Any, value: float) -> None:
    """A line at the baseline's accuracy; one far off would squeeze the stages into a corner."""
    low, high = axes.get_xlim()
    label = f"most frequent class: {value:.1f}"
    axes.axvline(value, color=TEACHER, linewidth=1.4, linestyle=(0, (1, 1.5)), label=label)
    if value < low - (high - low):
        axes.set_xlim(low, high)
    axes.legend(loc="lower left", frameon=False, labelcolor=TEACHER, fontsize=8.5)


@_plain_style()
def curve(name: str, found: Curve, at: tuple[float, float], words: tuple[str, str]) -> str:
    """A curve over all thresholds; ``at`` is its point at one half, ``words`` name the axes."""
    figure, axes = _figure(4.2)
    axes.plot(100 * found.x, 100 * found.y, color=STUDENT, linewidth=1.8)
    axes.plot(100 * at[0], 100 * at[1], color=INK, marker="o", markersize=7)
    axes.annotate(
        "0.5", (100 * at[0], 100 * at[1]), (8, -12), textcoords="offset points", color=INK
    )
    axes.set(xlim=(-2, 102), ylim=(-2, 104))
    axes.set_xlabel(words[0], parse_math=False)
    axes.set_ylabel(words[1], parse_math=False)
    axes.grid(color=LINE, linewidth=0.6)
    alt = (
        f"{words[1]} against {words[0]}: area {found.area:.3f}; at the threshold 0.5, "
        f"{100 * at[1]:.1f}% at {100 * at[0]:.1f}%"
    )
    return _svg(figure, name, alt)


@_plain_style()
def draws(rows: Sequence[Draws], xlabel: str) -> str:
    """Accuracy of each arm in each of S label draws, first arm on top.

    A line joins the points of one draw, since they are paired. Below an arm's points stand their
    mean (a diamond) and its 95% interval.
    """
    figure, axes = _figure(1.1 + 0.6 * len(rows))
    places = range(len(rows))
    for one in zip(*(row.each for row in rows), strict=True):
        values = [100 * value for value in one]
        axes.plot(values, places, color=MUTED, marker="o", markersize=3.5, linewidth=0.7, alpha=0.7)
    for place, row in zip(places, rows, strict=True):
        value, low, high = (100 * part for part in row.mean)
        below = place + 0.22
        axes.plot([low, high], [below, below], color=STUDENT, linewidth=1.8)
        axes.plot([value], [below], color=STUDENT, marker="D", markersize=6)
        label = f"{value:.1f}"
        axes.annotate(
            label, (value, below), (0, -14), textcoords="offset points", ha="center", color=INK
        )
    axes.set_ylim(len(rows) - 0.25, -0.4)
    axes.margins(x=0.08)
    _name_rows(axes, [row.name for row in rows], xlabel)
    means = (f"{row.name}: {_in_words(row.mean.value, row.mean[1:])}" for row in rows)
    alt = "Mean accuracy of each arm with its 95% interval. " + "; ".join(means)
    return _svg(figure, "draws", alt)


@_plain_style()
def label_curve(
    counts: Sequence[float],
    within: Sequence[Sequence[float]],
    without: Sequence[Sequence[float]],
) -> str:
    """Accuracy against the number of labels (logarithmic), with and without unlabelled images.

    Means are joined by lines; the small points are the draws. ``within`` and ``without`` hold the
    draws' accuracies at each of the ``counts``.
    """
    figure, axes = _figure(3.4)
    curves = {
        "with unlabelled images": (within, STUDENT, "o", "-"),
        "labels only": (without, TEACHER, "s", "--"),
    }
    described = []
    for name, (draws_of, color, marker, line) in curves.items():
        means = [100 * statistics.fmean(each) for each in draws_of]
        axes.plot(counts, means, color=color, marker=marker, linestyle=line, label=name)
        for count, each in zip(counts, draws_of, strict=True):
            axes.plot([count] * len(each), [100 * value for value in each], color=color,
                      marker=marker, markersize=2.5, linewidth=0, alpha=0.6)  # fmt: skip
        at = ", ".join(f"{m:.1f}% at {c:.0f}" for c, m in zip(counts, means, strict=True))
        described.append(f"{name}: {at}")
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:.0f}" for count in counts])
    axes.minorticks_off()
    axes.set(xlabel="labels in all", ylabel="accuracy on test images, %")
    axes.grid(color=LINE, linewidth=0.6)
    axes.legend(loc="lower right", frameon=False, labelcolor=INK)
    alt = "Accuracy against the number of labels. " + "; ".join(described)
    return _svg(figure, "labels", alt)


@_plain_style()
def reliability(curves: Mapping[str, Sequence[Bin]]) -> str:
    """Accuracy against confidence for each named model, with a count of its answers underneath.

    The first model is drawn as the student (circles), the second as the teacher (squares).
    """
    figure, (top, bottom) = _figure(4.6, rows=(3, 1))
    top.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
    looks = ((STUDENT, "o", "-", -1.7), (TEACHER, "s", "--", 1.7))
    for (name, bins), (color, marker, line, shift) in zip(curves.items(), looks, strict=False):
        at = [100 * b.confidence for b in bins]
        height = [100 * b.accuracy.value for b in bins]
        spread = [
            [100 * (b.accuracy.value - b.accuracy.low) for b in bins],
            [100 * (b.accuracy.high - b.accuracy.value) for b in bins],
        ]
        look = {"color": color, "marker": marker, "linestyle": line, "label": shorten(name, 24)}
        top.errorbar(at, height, spread, markersize=5, linewidth=1.4, elinewidth=1, **look)
        bottom.bar([x + shift for x in at], [b.images for b in bins], width=3.2, color=color)
    top.set(xlim=(0, 102), ylim=(0, 104), ylabel="right, %", xticklabels=[])
    top.grid(color=LINE, linewidth=0.6)
    bottom.set(xlim=(0, 102), xlabel="confidence, %", ylabel="images")
    top.legend(loc="upper left", frameon=False, labelcolor=INK)
    alt = "Reliability diagram: share right against confidence. " + "; ".join(
        f"{name}: "
        + ", ".join(
            f"{100 * b.confidence:.0f}% sure, {100 * b.accuracy.value:.0f}% right ({b.images})"
            for b in bins
        )
        for name, bins in curves.items()
    )
    return _svg(figure, "reliability", alt)


def _name_rows(axes: Any, names: Sequence[str], xlabel: str) -> None:
    axes.set_yticks(range(len(names)), [shorten(name, 16) for name in names], parse_math=False)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", color=LINE, linewidth=0.6)


def _in_words(accuracy: float | None, ends: Sequence[float] | None) -> str:
    interval = f", {100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else ""
    return percent(accuracy) + interval


def _figure(height: float, rows: tuple[int, ...] = (1,)) -> tuple[Any, Any]:
    """A figure of page width and its axes, drawn in the stand-in colours."""
    figure = need("matplotlib.figure", "train").Figure((_WIDTH, height), layout="constrained")
    axes = figure.subplots(len(rows), gridspec_kw={"height_ratios": rows})
    for one in np.atleast_1d(axes):
        one.set_facecolor("none")
        one.tick_params(colors=INK, length=3)
        one.xaxis.label.set_color(INK)
        one.yaxis.label.set_color(INK)
        one.set_axisbelow(True)
        for side, spine in one.spines.items():
            spine.set_color(MUTED)
            spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _svg(figure: Any, name: str, alt: str) -> str:
    """A figure as an SVG element whose ids clash with no other chart's on the page."""
    text = io.StringIO()
    with need("matplotlib", "train").rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text.getvalue())
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    # The XML prolog and the fixed size of the root have no place inside a page.
    _, box, body = re.split(r'<svg\b[^>]*?viewBox="([^"]+)"[^>]*>', svg, maxsplit=1)
    return f'<svg class="chart" role="img" aria-label="{escape(alt)}" viewBox="{box}">{body}'
