"""The model card: what a model is for, how good it is, and what to know before relying on it.

Its sections are those of Mitchell et al. 2019, "Model Cards for Model Reporting", as far as a run
knows what to say; its head is what the Hugging Face hub reads.
"""

from __future__ import annotations

import re

from tutelage import pages
from tutelage._version import __version__
from tutelage.pages.wording import listed, sentence
from tutelage.report.model import Report
from tutelage.report.notes import calibration, notes
from tutelage.report.numbers import class_rows, mistakes
from tutelage.report.verdict import IMAGES, Verdict

ROLES = (("labeled", "labelled"), ("unlabeled", "unlabelled"), ("val", "held-out"))
MISTAKES = 5


def render(report: Report) -> str:
    """The card as Markdown."""
    verdict = Verdict(report)
    final = verdict.answers(verdict.final)
    matrix = None if final is None else final.confusion_matrix
    text = pages.render(
        "card.md.j2",
        report=report,
        verdict=verdict,
        notes=notes(verdict),
        facts=[calibration(verdict), *map(sentence, report.facts)],
        version=__version__,
        images=IMAGES[verdict.split],
        trained_on=listed(
            f"{report.counts[role]:,} {words}" for role, words in ROLES if report.counts.get(role)
        ),
        rows=[] if matrix is None else class_rows(matrix, report.classes),
        mistakes=[] if matrix is None else mistakes(matrix, report.classes, MISTAKES),
    )
    return re.sub(r"\n{3,}", "\n\n", text)
