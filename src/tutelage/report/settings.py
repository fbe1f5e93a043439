"""The settings of a run as its page shows them: in words, without what only a resumed run reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

# What the page says elsewhere (notes, files), or what a resumed run compares its data by.
INTERNAL = ("notes", "finished", "shortened", "images")
TRUNKS = {
    "frozen": "on the frozen trunk",
    "trained": "with the trunk trained",
    "online": "with the trunk trained and labelling as it learns",
}


def in_words(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of config.json, with the planned rounds and the clusters in words."""
    told = {name: value for name, value in settings.items() if name not in INTERNAL}
    plan, clusters = told.get("plan"), told.get("clusters")
    if isinstance(plan, Mapping) and "rounds" in plan:
        told["plan"] = {**plan, "rounds": _rounds(plan["rounds"])}
    if isinstance(clusters, Mapping) and "agreement" in clusters:
        told["clusters"] = _clusters(clusters)
    return told


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> str:
    """How many there are of which kind: ``4 on the frozen trunk``."""
    kinds = groupby(TRUNKS[work["trunk"]] for work in rounds)
    return ", then ".join(f"{len(list(works))} {words}" for words, works in kinds) or "none"


def _clusters(clusters: Mapping[str, Any]) -> str:
    return (
        f"agreement with the teacher: {clusters['agreement']:.2f} (Cohen's kappa; 1 is full "
        "agreement, 0 is chance)"
    )
