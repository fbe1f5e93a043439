"""What to know before relying on a model: one list of sentences, for the page and for the card."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.report.model import Report
from tutelage.report.verdict import Verdict, answers
from tutelage.report.wording import sentence, shorten
from tutelage.system.words import are

NAMED = 8  # classes that a note names, at most


def notes(report: Report, verdict: Verdict) -> list[str]:
    """The run's own notes, between those on its figures and those that hold for every model."""
    return [
        *_figures(verdict),
        *_absent(report, verdict),
        *map(sentence, report.notes),
        _where_it_holds(verdict),
        "The probabilities were calibrated on training images: on held-out labels, or on what the "
        "teacher answered about the unlabelled images.",
        "The pretrained weights that it started from have their own licence, and so has the data "
        "that they were trained on.",
    ]


def _figures(verdict: Verdict) -> list[str]:
    if verdict.split == "val":
        flattered = verdict.judged_as if verdict.unjudged else "model"
        return [
            "There is no test split. The figures come from held-out labelled images that also "
            f"chose between the steps, so they flatter the {flattered}. Add images under "
            "test/<class>/ for a figure to rely on."
        ]
    if verdict.split is None:
        return [
            "There is no test split and no held-out figure. Nothing here says how good the model "
            "is. Add images under test/<class>/."
        ]
    return []


def _absent(report: Report, verdict: Verdict) -> list[str]:
    """The classes of which there is no test image, where there are any test images."""
    final = answers(report, verdict.final)
    if final is None:
        return []
    shown = {*final.labels.tolist()}
    absent = [name for k, name in enumerate(report.classes) if k not in shown]
    if not absent:
        return []
    them = "it" if len(absent) == 1 else "they"
    how_well = f"nothing here says how well {them} {are(len(absent))} recognised"
    return [f"No test image shows {_named(absent)}: {how_well}."]


def _named(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    return ", ".join(shorten(name) for name in classes[:NAMED]) + more


def _where_it_holds(verdict: Verdict) -> str:
    if verdict.split == "test":
        return (
            "The accuracy holds for images like the test images. Before you use the model on "
            "others (another camera, season or site), test it on some of them."
        )
    unseen = "test it on labelled images that the run has not seen."
    if verdict.judged is None:
        return f"Nobody has tested the model. Before you use it, {unseen}"
    alone = ""
    if verdict.unjudged and verdict.final is not None:
        alone = f", and for the {verdict.judged_as}: nobody has tested the {verdict.final.name}"
    holds = f"The accuracy holds for images like the labelled ones{alone}."
    return f"{holds} Before you use the model, {unseen}"
