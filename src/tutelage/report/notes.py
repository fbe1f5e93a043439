"""What to know before relying on a model: one list of sentences, for the page and for the card."""

from __future__ import annotations

from tutelage.pages.wording import sentence, shorten
from tutelage.report.model import Report
from tutelage.report.verdict import Verdict

NAMED = 8  # classes that a note names, at most


def notes(verdict: Verdict) -> list[str]:
    """The run's own notes, between those on its figures and those that hold for every model."""
    return [
        *_figures(verdict),
        *_absent(verdict),
        *map(sentence, verdict.report.notes),
        _where_it_holds(verdict),
        "The pretrained weights that it started from have their own licence, and so has the data "
        "that they were trained on.",
    ]


def calibration(verdict: Verdict) -> str:
    """What the probabilities were calibrated on: the answers of the teacher, or held-out labels."""
    final = verdict.final
    if final["name"] == "student":
        images = "unlabelled" if verdict.report.counts.get("unlabeled") else "labelled"
        return (
            f"The student's probabilities were calibrated on {images} training images, to be as "
            "sure as its teacher's."
        )
    what = "held-out labels" if final["val"] else "what its teacher said of the unlabelled images"
    return f"The probabilities of {final['name']} were calibrated on {what}."


def why_no_rounds(report: Report) -> str:
    """Why the unlabelled images were not used in rounds of self-training, in words."""
    if not report.counts.get("unlabeled"):
        return "the run had no unlabelled images"
    if doubt := (report.settings.get("clusters") or {}).get("doubt"):
        return f"the unlabelled images do not seem to group by class ({doubt})"
    if left_out := report.settings.get("left_out"):
        return f"no time was left for {left_out}"
    return "no round of self-training was planned"


def _figures(verdict: Verdict) -> list[str]:
    if verdict.split == "val":
        low = "too low, because the models that were judged learned from fewer labels, or "
        if verdict.report.counts.get("val"):  # else they are those of the models of the folds
            low = ""
        return [
            "There are no test images. The figures come from held-out labelled images. They may "
            f"be {low}too high, because the same images chose between the steps. Add images under "
            "test/<class>/ for a figure to rely on."
        ]
    if verdict.split is None:
        return [
            "There are no test images and no held-out figure. Nothing here says how good the model "
            "is. Add images under test/<class>/."
        ]
    return []


def _absent(verdict: Verdict) -> list[str]:
    """The classes of which there is no test image, where there are any test images."""
    final = verdict.answers(verdict.final)
    if final is None:
        return []
    shown = {*final.labels.tolist()}
    absent = [shorten(name) for k, name in enumerate(verdict.report.classes) if k not in shown]
    if not absent:
        return []
    named = ", ".join(absent[:NAMED])
    if len(absent) > NAMED:
        named += f" and {len(absent) - NAMED} more"
    them = "it is" if len(absent) == 1 else "they are"
    return [f"No test image shows {named}: nothing here says how well {them} recognised."]


def _where_it_holds(verdict: Verdict) -> str:
    if verdict.split == "test":
        return (
            "The accuracy holds for images like the test images. Before you use the model on "
            "others (another camera, season or site), test it on some of them."
        )
    unseen = "test it on labelled images that the run has not seen."
    if verdict.figures is None:
        return f"Nobody has tested the model. Before you use it, {unseen}"
    alone = ""
    if verdict.unjudged:
        alone = f", and for the {verdict.judged_as}: nobody has tested the {verdict.final['name']}"
    holds = f"The accuracy holds for images like the labelled ones{alone}."
    return f"{holds} Before you use the model, {unseen}"
