"""A batch of images against a reference: what differs, by tests that share one false-alarm rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from tutelage.stats.metrics import Ints
from tutelage.stats.shift import class_shares, estimated_accuracy
from tutelage.stats.two_sample import (
    Statistic,
    a_share_moves,
    anderson_darling,
    energy_distance,
    share_rises,
    two_sample_tests,
)
from tutelage.watch.look import MEASURES, Seen
from tutelage.watch.reference import Reference

TESTED = 2000  # images of a batch that the tests look at, drawn at random
LEAST_LABELS = 50  # held-out labels from which an accuracy is estimated
LEAST_OF_A_CLASS = 5  # of these, from which the shares of the classes are estimated
KNOWN = 0.95  # share of the reference that counts as known where the model has no threshold
UNSURE = 0.1  # share of the reference whose answers count as unsure


def compare(
    reference: Reference, batch: Seen, unknown_threshold: float | None, rate: float
) -> dict[str, Any]:
    """What differs: "tests", "alarms", "classes" and "accuracy", as watch.json has them.

    ``rate`` is the probability that any alarm is raised for an undisturbed batch.
    """
    limit = unknown_threshold
    if limit is None:
        limit = float(np.quantile(reference.seen["energy"], KNOWN))
    tests = _tests(reference, batch, limit, rate)
    alarms = [test["name"] for test in tests if test["alarm"]]
    return {
        "tests": tests,
        "alarms": alarms,
        "classes": _classes(reference, batch),
        "accuracy": _accuracy(reference, batch, alarms),
    }


def _tests(reference: Reference, batch: Seen, limit: float, rate: float) -> list[dict[str, Any]]:
    """Each test with its figure before and now, a share of the images or a median, if it has one.

    "p" is the probability that an undisturbed batch differs as much in any of the tests.
    """
    tested = batch[np.sort(np.random.default_rng(0).permutation(len(batch))[:TESTED])]
    n, both = len(reference.seen), np.concatenate([reference.seen, tested])
    unsure = float(np.quantile(reference.seen["confidence"], UNSURE))
    shares = {"unknown": both["energy"] > limit, "confidence": both["confidence"] < unsure}
    if reference.learned:
        del shares["confidence"]
    statistics: dict[str, Statistic] = {
        "classes": a_share_moves(both["predicted"]),
        "features": energy_distance(both["features"]),
        **{name: share_rises(flags) for name, flags in shares.items()},
        **{name: anderson_darling(both["pixels"][:, i]) for i, name in enumerate(MEASURES)},
    }
    figures = {name: (flags[:n].mean(), flags[n:].mean()) for name, flags in shares.items()}
    for i, name in enumerate(MEASURES):
        figures[name] = tuple(np.median(part["pixels"][:, i]) for part in (both[:n], both[n:]))
    found = []
    for name, test in two_sample_tests(statistics, n, len(tested)).items():
        was, now = map(float, figures[name]) if name in figures else (None, None)
        p, alarm = test.adjusted, test.adjusted <= rate
        found.append({"name": name, "reference": was, "batch": now, "p": p, "alarm": alarm})
    return found


def _classes(reference: Reference, batch: Seen) -> list[dict[str, Any]]:
    """Each class: its share before, how often it is called now, and its share now, if estimated."""
    k = len(reference.classes)
    known = np.flatnonzero(reference.labels >= 0)
    labels, predicted = reference.labels[known], reference.seen["predicted"][known]
    before, shares = reference.seen["predicted"], [[None] * k] * 3
    if np.bincount(labels, minlength=k).min() >= LEAST_OF_A_CLASS:
        before = labels
        found = class_shares(labels, predicted, batch["predicted"], k)
        shares = [part.tolist() for part in found]
    columns = [reference.classes, _shares(before, k), _shares(batch["predicted"], k), *shares]
    names = ("class", "reference", "called", "share", "low", "high")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _shares(classes: Ints, n_classes: int) -> Any:
    return (np.bincount(classes, minlength=n_classes) / len(classes)).tolist()


def _accuracy(reference: Reference, batch: Seen, alarms: list[str]) -> dict[str, Any]:
    """Today's accuracy without labels, and why it is not to be believed, if it is not."""
    known = np.flatnonzero(reference.labels >= 0)
    why = ""
    if reference.learned:
        why = "the model learned from the images of the reference, so it is too sure of them"
    elif len(known) < LEAST_LABELS:
        why = f"the reference has {len(known)} labels; an estimate takes {LEAST_LABELS} or more"
    if why:
        return {"value": None, "believed": False, "why": [why]}
    seen, doubts = reference.seen[known], _doubts(alarms)
    correct = seen["predicted"] == reference.labels[known]
    estimate = estimated_accuracy(seen["confidence"], correct, batch["confidence"])
    return {
        **estimate._asdict(),
        "reference": float(correct.mean()),
        "labels": len(known),
        "believed": not doubts,
        "why": doubts,
    }


def _doubts(alarms: list[str]) -> list[str]:
    doubts = []
    if "unknown" in alarms:
        doubts.append(
            "the answers to images of none of the classes are all wrong, however sure the model is"
        )
    if set(alarms) - {"classes", "confidence", "unknown"}:
        doubts.append(
            "the images themselves have changed, and a model may be too sure of images unlike "
            "those that it learned from"
        )
    return doubts
