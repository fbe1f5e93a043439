"""The page of a run and its model card: what their templates are filled with; pictures in pages.

The card's sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting", as far as
a run knows what to say; its head is what the Hugging Face hub reads.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from tutelage import pages
from tutelage._version import __version__
from tutelage.pages import wording
from tutelage.report import numbers, plots
from tutelage.report.model import FILES, Report, Sheet, StageTest
from tutelage.report.threshold import STEPS, recall_precision, roc, two_classes
from tutelage.report.verdict import IMAGES, Step, Verdict, calibration, notes, why_no_rounds
from tutelage.stats.intervals import Interval, paired_change
from tutelage.stats.metrics import Comparison

SHEET_BYTES = 2_500_000  # of all encoded thumbnails together; keeps the page under 5 MB
THUMB_SIDE = 144  # pixels: half as many again as the page shows
QUALITY = 80  # of a JPEG
SKIPPED_SHOWN = 200
ROLES = (("labeled", "labelled"), ("unlabeled", "unlabelled"), ("val", "held-out"))  # on the card
MISTAKES = 5  # on the card


def render(report: Report) -> str:
    """The page of a run as text."""
    return pages.render("report.html.j2", **_context(report))


def render_card(report: Report) -> str:
    """The model card as Markdown."""
    verdict = Verdict(report)
    final = verdict.answers(verdict.final)
    matrix = None if final is None else final.confusion_matrix
    text = pages.render(
        "card.md.j2",
        report=report,
        verdict=verdict,
        notes=notes(verdict),
        facts=[calibration(verdict), *map(wording.sentence, report.facts)],
        version=__version__,
        images=IMAGES[verdict.split],
        trained_on=wording.listed(
            f"{report.counts[role]:,} {words}" for role, words in ROLES if report.counts.get(role)
        ),
        rows=[] if matrix is None else numbers.class_rows(matrix, report.classes),
        mistakes=[] if matrix is None else numbers.mistakes(matrix, report.classes, MISTAKES),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _context(report: Report) -> dict[str, Any]:
    verdict = Verdict(report)
    chart = None
    if verdict.figures is not None:
        words = f"accuracy on {IMAGES[verdict.split]}, %"
        chart = Markup(plots.ladder(verdict.steps, words, verdict.figures["majority"]))
    of_classes = [sheet.thumbs for one in report.class_sheets for sheet in one.sheets]
    every = [*chain(report.to_review, *of_classes, *(sheet.thumbs for sheet in report.sheets))]
    encode = partial(encode_sheet, each=SHEET_BYTES // max(1, len(every)))
    return {
        "report": report,
        "verdict": verdict,
        "images": IMAGES[verdict.split],
        "ladder": chart,
        "rounds": numbers.rounds(report.pseudo),
        "notes": notes(verdict),
        "facts": [*map(wording.sentence, report.facts)],
        "calibration": calibration(verdict),
        "why_no_rounds": why_no_rounds(report),
        "decisions": list(_decisions(report, verdict)),
        "to_review": encode(Sheet("", "", report.to_review)),
        "class_sheets": [
            (one.name, one.note, [encode(sheet) for sheet in one.sheets])
            for one in report.class_sheets
        ],
        "sheets": [encode(sheet) for sheet in report.sheets],
        "files": [(name, FILES[name]) for name in report.files],
        "delivered": f"{report.folder}/{'student' if 'student/' in report.files else 'teacher'}",
        "leakage": report.metrics["leakage"],
        "skipped": report.skipped[:SKIPPED_SHOWN],
        "skipped_count": len(report.skipped),
        "settings": list(wording.flat_settings(report.settings)),
        **pages.inline("report/report.js"),
        **_class_wise(report, verdict),
    }


def _decisions(
    report: Report, verdict: Verdict
) -> Iterator[tuple[Step, Comparison | None, Interval | None]]:
    """Every step after the first, with how it was judged and the change; None if it was not."""
    for step in verdict.steps[1:]:
        found = report.comparisons.get(step.stage["name"])
        change = paired_change(found.wins, found.losses, found.n) if found and found.n else None
        yield step, found, change


def _class_wise(report: Report, verdict: Verdict) -> dict[str, Any]:
    """What the test images say about each class; an empty list of classes without any."""
    final, teacher = verdict.answers(verdict.final), verdict.answers(verdict.teacher)
    if final is None:
        return {"classes": [], "threshold": None}
    matrix = final.confusion_matrix
    curves = {verdict.final["name"]: numbers.reliability_bins(final)}
    other: Sequence[numbers.ClassRow | None] = [None] * len(report.classes)
    if teacher is not None and verdict.teacher is not None:
        curves[verdict.teacher["name"]] = numbers.reliability_bins(teacher)
        other = numbers.class_rows(teacher.confusion_matrix, report.classes)
    rows = numbers.class_rows(matrix, report.classes)
    return {
        "classes": list(zip(rows, other, strict=True)),
        "mistakes": numbers.mistakes(matrix, report.classes, limit=10),
        "reliability": Markup(plots.reliability(curves)),
        "confusion": numbers.confusion(matrix, report.classes),
        "threshold": _threshold(final, report),
    }


def _threshold(test: StageTest, report: Report) -> dict[str, Any] | None:
    """The section on the threshold of a model with two classes."""
    found = two_classes(test, report.held_out, report.classes)
    if found is None:
        return None
    k = report.classes.index(found.positive)
    probs, positive = test.probs[:, k], test.labels == k
    alarms, hits = found.false_alarms[STEPS // 2], found.positives - found.missed[STEPS // 2]
    recall, precision = hits / found.positives, hits / max(1, hits + alarms)
    name = wording.shorten(found.positive, 24)
    axes = (
        f"recall: share of “{name}” that is found, %",
        f"precision: share called “{name}” that is, %",
    )
    rates = ("false alarms, % of the other class", f"“{name}” found, %")
    curves = recall_precision(probs, positive), roc(probs, positive)
    at = (recall, precision), (alarms / found.negatives, recall)
    return {
        "found": found,
        "data": json.dumps(found._asdict(), ensure_ascii=False, separators=(",", ":")),
        "held_out": sum(map(len, found.held)) if all(found.held) else 0,
        "areas": [curve.area for curve in curves],
        "precision_recall": Markup(plots.curve("recall", curves[0], at[0], axes)),
        "roc": Markup(plots.curve("roc", curves[1], at[1], rates)),
    }


def encode_sheet(sheet: Sheet, each: int | None = None) -> dict[str, Any]:
    """A sheet with as many of its pictures, encoded, as ``SHEET_BYTES`` allow.

    Where a page has several sheets, ``each`` is how many bytes there are for a picture.
    """
    budget = SHEET_BYTES if each is None else each * len(sheet.thumbs)
    thumbs = []
    for thumb in sheet.thumbs:
        uri = thumbnail_uri(thumb.image)
        budget -= len(uri)
        if budget < 0:
            break
        about = {"name": thumb.name, "caption": thumb.caption, "mark": thumb.mark}
        thumbs.append({"uri": uri, **about})
    left_out = len(sheet.thumbs) - len(thumbs)
    return {"title": sheet.title, "note": sheet.note, "thumbs": thumbs, "left_out": left_out}


def thumbnail_uri(image: NDArray[np.uint8]) -> str:
    """A JPEG of the image (H, W, 3), shrunk to ``THUMB_SIDE``, inside a URI."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((THUMB_SIDE, THUMB_SIDE))
    return jpeg_uri(picture)


def jpeg_uri(picture: Image.Image) -> str:
    """A picture as a JPEG inside a URI."""
    data = io.BytesIO()
    picture.save(data, format="JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
