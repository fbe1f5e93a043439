"""The figures of a ladder, from what its draws left; accuracies and differences are fractions."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import numpy as np

from tutelage.config import RunConfig
from tutelage.ladder.arms import ALONE
from tutelage.ladder.request import ARMS, LEFT_OUT, RUNGS
from tutelage.stats.intervals import Interval, t_interval
from tutelage.stats.results import ArmMetrics, DrawMetrics

BASELINE = "fine-tune"
HELPS, HURTS, UNCLEAR = "helps", "hurts", "not told apart"
UNLIKE = {
    "plan": (
        "The draws were not planned alike, because the machine was not always equally fast, or "
        "there were several machines: the chain got more steps or larger views in some draws."
    ),
    "versions": "The draws were made with different versions of the packages.",
}
"""What draws should have in common -> the note where they have not."""


class Arm(TypedDict):
    """One arm over S label draws."""

    name: str
    accuracy: float  # mean of ``each``
    accuracy_ci95: list[float]
    each: list[float]  # (S,) test accuracies
    ece: float  # mean expected calibration error
    parameters: int
    seconds: float  # mean time of its own work, without what it builds on
    total_seconds: float  # mean time of its own work and all that it builds on
    latency_ms: float | None  # of one image on one core, exported to ONNX; None if not timed
    kept: int | None  # draws in which held-out labels kept it; None where nothing is decided


class Difference(TypedDict):
    """One arm minus another, paired by label draw."""

    arm: str
    minus: str  # name of the arm that is subtracted
    mean: float
    ci95: list[float]
    each: list[float]  # (S,) differences in test accuracy
    verdict: str  # ``HELPS`` or ``HURTS`` where the whole interval lies on one side of 0


class Point(TypedDict):
    """One number of labels over S draws: a point of the label-efficiency curve."""

    labels: float  # in all classes together, the mean of the draws
    without_pool: float  # mean test accuracy of transfer, which sees labels only
    with_pool: float  # of the teacher after self-training on the unlabelled images
    each_without_pool: list[float]
    each_with_pool: list[float]
    own: bool  # whether this is the number of labels that the ladder was asked for


class LabelCount(TypedDict):
    """A number of labels read off a curve; ``beyond`` is 1 for "more than", -1 for "fewer than"."""

    count: float
    beyond: int


class Worth(TypedDict):
    """What the unlabelled images are worth at the user's own number of labels.

    If more labels were tried, ``equal`` labels alone do what ``labels`` do with the unlabelled
    images; else ``equal`` labels with them do what ``labels`` do alone.
    """

    labels: float  # the user's own number
    more: bool  # whether more labels were tried
    equal: LabelCount
    low: LabelCount  # the end of its 95% interval where the unlabelled images are worth least
    high: LabelCount  # the other end


def ladder_figures(
    draws: Sequence[DrawMetrics],
    config: RunConfig,
    *,
    command: str,
    created: str,
) -> dict[str, Any]:
    """The content of ladder.json, but for the words, from the figures of at least 2 draws."""
    arms, differences = summarise(draws)
    points = _points(draws)
    return {
        "command": command,
        "created": created,
        "seeds": [draw["seed"] for draw in draws],
        "n_test": draws[0]["arms"][0]["test"]["n"],
        "arms": arms,  # in the ladder's order
        "differences": differences,
        "curve": points,  # rising in labels
        "worth": worth(points),
        "notes": _notes(draws, config, [arm["name"] for arm in arms]),
        "settings": {"versions": draws[0]["versions"], **config.to_dict()},
    }


def summarise(draws: Sequence[DrawMetrics]) -> tuple[list[Arm], list[Difference]]:
    """The arms that all of at least 2 draws have, and their paired differences."""
    tables = [{entry["arm"]: entry for entry in draw["arms"]} for draw in draws]
    names = [name for name in ARMS if all(name in table for table in tables)]
    arms = [_arm(name, [table[name] for table in tables]) for name in names]
    accuracy = {arm["name"]: np.array(arm["each"]) for arm in arms}
    differences: list[Difference] = []
    for arm, minus in pairs(names):
        each = (accuracy[arm] - accuracy[minus]).tolist()
        mean, *ends = change = t_interval(each)
        differences.append({"arm": arm, "minus": minus, "mean": mean, "ci95": ends, "each": each,
                            "verdict": _verdict(change)})  # fmt: skip
    return arms, differences


def pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is compared with what, as (arm, the arm that is subtracted).

    Each rung with the one before it and with fine-tuning, fine-tuning with the same training from
    random weights, the student with its teacher, and the student with the students of the chains
    that lack a part.
    """
    rungs = [name for name in names if name in RUNGS]
    for position, arm in enumerate(rungs[1:], start=1):
        before = [rungs[position - 1]]
        if arm == "student":
            before += [teacher for teacher in ("self-train", "transfer") if teacher in rungs][:1]
        before += ["augment"] * (arm == BASELINE and "augment" in rungs)
        before += [BASELINE] * (BASELINE in rungs[:position])
        yield from ((arm, minus) for minus in dict.fromkeys(before))
    if "student" in rungs:
        yield from (("student", name) for name in names if name in LEFT_OUT)


def _arm(name: str, entries: Sequence[ArmMetrics]) -> Arm:
    each = [entry["test"]["accuracy"] for entry in entries]
    mean, low, high = t_interval(each)
    kept = [entry["kept"] for entry in entries if entry["kept"] is not None]
    return {
        "name": name,
        "accuracy": mean,
        "accuracy_ci95": [max(0.0, low), min(1.0, high)],
        "each": each,
        "ece": statistics.fmean(entry["test"]["ece"] for entry in entries),
        "parameters": entries[0]["parameters"],
        "seconds": round(statistics.fmean(entry["seconds"] for entry in entries), 2),
        "total_seconds": round(statistics.fmean(entry["total_seconds"] for entry in entries), 2),
        "latency_ms": entries[0]["latency_ms"],
        "kept": sum(kept) if kept else None,
    }


def _verdict(change: Interval) -> str:
    """An interval without width shows no certainty, but a test set too small to show the spread.

    That may be one image of 18, say, in each of 3 draws.
    """
    if change.low == change.high or change.low <= 0 <= change.high:
        return UNCLEAR
    return HELPS if change.low > 0 else HURTS


def _points(draws: Sequence[DrawMetrics]) -> list[Point]:
    points: list[Point] = []
    for same in zip(*(draw["curve"] for draw in draws), strict=True):
        without, within = [one["without"] for one in same], [one["within"] for one in same]
        points.append(
            {
                "labels": statistics.fmean(one["labels"] for one in same),
                "without_pool": statistics.fmean(without),
                "with_pool": statistics.fmean(within),
                "each_without_pool": without,
                "each_with_pool": within,
                "own": same[0]["own"],
            }
        )
    return sorted(points, key=lambda point: point["labels"])


def worth(points: Sequence[Point]) -> Worth | None:
    """What the unlabelled images are worth: the horizontal distance between the two curves.

    The curves are means over the draws, made monotone, linear in the logarithm of the labels. The
    interval is that of the paired difference in accuracy at the user's own number of labels
    (Student's t), read off the curve, whose shape is taken as known. ``points`` rise in labels; one
    of them is the user's own, and fewer than 2 are no curve.
    """
    if len(points) < 2:
        return None
    (at,) = [place for place, point in enumerate(points) if point["own"]]
    own, more = points[at], at < len(points) - 1
    gains = [b - a for a, b in zip(own["each_without_pool"], own["each_with_pool"], strict=True)]
    means = [point["without_pool"] if more else point["with_pool"] for point in points]
    curve = np.maximum.accumulate(means).tolist()
    counts = [point["labels"] for point in points]
    equal, low, high = (
        _read(counts, curve, curve[at] + gain if more else curve[at] - gain)
        for gain in t_interval(gains)
    )
    return {"labels": own["labels"], "more": more, "equal": equal, "low": low, "high": high}


def _read(counts: Sequence[float], curve: Sequence[float], value: float) -> LabelCount:
    """The number of labels at which a rising curve reaches ``value``."""
    after = int(np.searchsorted(curve, value))
    if after == len(curve):
        return {"count": counts[-1], "beyond": 1}
    if after == 0:
        return {"count": counts[0], "beyond": -1 if value < curve[0] else 0}
    share = (value - curve[after - 1]) / (curve[after] - curve[after - 1])
    low, high = (math.log(count) for count in counts[after - 1 : after + 1])
    return {"count": math.exp(low + share * (high - low)), "beyond": 0}


def _notes(draws: Sequence[DrawMetrics], config: RunConfig, arms: Sequence[str]) -> list[str]:
    """What the reader must know: first about the design, then each draw's own notes, said once."""
    out = []
    if config.data.labels_per_class is None:
        out.append(
            "Every draw had all labels, so the draws differ in views and training only; "
            "--labels-per-class N draws N labels anew each time."
        )
    if "self-train" not in arms:
        out.append("There were no rounds of self-training.")
    if alone := [arm for arm in arms if arm in ALONE]:
        out.append(
            f"{', '.join(alone)}: no labels are held out for a temperature, so without a val "
            "split their ECE is that of uncalibrated probabilities."
        )
    for name, unlike in UNLIKE.items():
        if any(draw.get(name) != draws[0].get(name) for draw in draws):
            out.append(unlike)
    by_note: dict[str, list[int]] = {}
    for draw in draws:
        for note in draw["notes"]:
            by_note.setdefault(note, []).append(draw["seed"])
    for note, found in by_note.items():
        where = "" if len(found) == len(draws) else f" (seed {', '.join(map(str, found))})"
        out.append(f"{note}{where}")
    return out
