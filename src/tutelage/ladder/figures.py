"""The figures of a ladder, from what its draws left: metrics.json of each makes page and file."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tutelage.config import RunConfig
from tutelage.data.catalog import Catalog
from tutelage.ladder.arms import ALONE
from tutelage.ladder.curve import CurvePoint, worth
from tutelage.ladder.page import BASELINE, Arm, Difference, LadderPage, headline, summary
from tutelage.ladder.request import ARMS, LEFT_OUT, RUNGS
from tutelage.pages.wording import title
from tutelage.stats.intervals import Interval, t_interval
from tutelage.stats.results import ArmMetrics, DrawMetrics

UNLIKE = {
    "plan": (
        "The draws were not planned alike, because the machine was not always equally fast, or "
        "there were several machines: the chain got more steps or larger views in some draws."
    ),
    "versions": "The draws were made with different versions of the packages.",
}
"""What draws should have in common -> the note where they have not."""


def summarise(seeds: Sequence[DrawMetrics]) -> tuple[list[Arm], list[Difference]]:
    """The arms that all of at least 2 seeds' metrics.json have, and their paired differences."""
    tables = [{entry["arm"]: entry for entry in seed["arms"]} for seed in seeds]
    names = [name for name in ARMS if all(name in table for table in tables)]
    arms = [_arm(name, [table[name] for table in tables]) for name in names]
    accuracy = {arm.name: np.array(arm.each) for arm in arms}
    differences = []
    for arm, minus in pairs(names):
        each = (accuracy[arm] - accuracy[minus]).tolist()
        differences.append(Difference(arm, minus, each, t_interval(each)))
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
    return Arm(
        name=name,
        each=each,
        mean=Interval(mean, max(0.0, low), min(1.0, high)),
        ece=statistics.fmean(entry["test"]["ece"] for entry in entries),
        parameters=entries[0]["parameters"],
        seconds=statistics.fmean(entry["seconds"] for entry in entries),
        total=statistics.fmean(entry["total_seconds"] for entry in entries),
        latency_ms=entries[0]["latency_ms"],
        kept=sum(kept) if kept else None,
    )


def make_page(
    seeds: Sequence[DrawMetrics],
    catalog: Catalog,
    config: RunConfig,
    *,
    command: str,
    created: str,
    price: float | None = None,
) -> LadderPage:
    """Everything the page shows; ``seeds`` are metrics.json, each with its points of the curve."""
    arms, differences = summarise(seeds)
    points = _curve_points(seeds)
    return LadderPage(
        title=title("tutelage ladder", catalog.classes),
        command=command,
        created=created,
        seeds=[seed["seed"] for seed in seeds],
        n_test=seeds[0]["arms"][0]["test"]["n"],
        arms=arms,
        differences=differences,
        points=points,
        worth=worth(points),
        price=price,
        notes=_notes(seeds, config, arms),
        settings={"versions": seeds[0]["versions"], **config.to_dict()},
    )


def _curve_points(seeds: Sequence[DrawMetrics]) -> list[CurvePoint]:
    points = []
    for draws in zip(*(seed["curve"] for seed in seeds), strict=True):
        labels = statistics.fmean(draw["labels"] for draw in draws)
        without, within = [d["without"] for d in draws], [d["within"] for d in draws]
        points.append(CurvePoint(labels, without, within, draws[0]["own"]))
    return sorted(points, key=lambda point: point.labels)


def to_dict(page: LadderPage) -> dict[str, Any]:
    """The content of ladder.json; accuracies and differences are fractions."""
    return {
        "command": page.command,
        "created": page.created,
        "seeds": list(page.seeds),
        "n_test": page.n_test,
        "verdict": headline(page),
        "summary": f"{headline(page)} {summary(page)}",
        "arms": [
            {
                "name": arm.name,
                "accuracy": arm.mean.value,
                "accuracy_ci95": [arm.mean.low, arm.mean.high],
                "each": list(arm.each),
                "ece": arm.ece,
                "parameters": arm.parameters,
                "seconds": round(arm.seconds, 2),
                "total_seconds": round(arm.total, 2),
                "cost": page.cost(arm),
                "latency_ms": arm.latency_ms,
                "kept": arm.kept,
            }
            for arm in page.arms
        ],
        "differences": [
            {
                "arm": change.arm,
                "minus": change.minus,
                "mean": change.mean.value,
                "ci95": [change.mean.low, change.mean.high],
                "each": list(change.each),
                "verdict": change.verdict,
            }
            for change in page.differences
        ],
        "curve": [
            {
                "labels": point.labels,
                "without_pool": statistics.fmean(point.without),
                "with_pool": statistics.fmean(point.within),
                "each_without_pool": list(point.without),
                "each_with_pool": list(point.within),
                "own": point.own,
            }
            for point in page.points
        ],
        "worth": None if page.worth is None else dataclasses.asdict(page.worth),
        "notes": list(page.notes),
        "settings": dict(page.settings),
    }


def _notes(seeds: Sequence[DrawMetrics], config: RunConfig, arms: Sequence[Arm]) -> list[str]:
    """What the reader must know: first about the design, then each seed's own notes, said once."""
    out = []
    if config.data.labels_per_class is None:
        out.append(
            "Every draw had all labels, so the draws differ in views and training only; "
            "--labels-per-class N draws N labels anew each time."
        )
    if "self-train" not in {arm.name for arm in arms}:
        out.append("There were no rounds of self-training.")
    alone = [arm.name for arm in arms if arm.name in ALONE]
    if alone:
        out.append(
            f"{', '.join(alone)}: no labels are held out for a temperature, so without a val "
            "split their ECE is that of uncalibrated probabilities."
        )
    for name, unlike in UNLIKE.items():
        if any(seed.get(name) != seeds[0].get(name) for seed in seeds):
            out.append(unlike)
    by_note: dict[str, list[int]] = {}
    for seed in seeds:
        for note in seed["notes"]:
            by_note.setdefault(note, []).append(seed["seed"])
    for note, found in by_note.items():
        where = "" if len(found) == len(seeds) else f" (seed {', '.join(map(str, found))})"
        out.append(f"{note}{where}")
    return out
