"""The chain in its order: probe, transfer, rounds of self-training, student, test, report.

Every stage is kept in the run folder when it is finished; the same command goes on after the last
one. Test images are looked at once, after the last decision.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.chain import stages
from tutelage.chain.finish import finish
from tutelage.chain.load import given_teachers
from tutelage.chain.pipeline import Pipeline
from tutelage.chain.prepare import prepare
from tutelage.chain.types import Finished
from tutelage.config import make_config
from tutelage.data.catalog import Catalog
from tutelage.models.classifier import Classifier
from tutelage.system.ranks import alone, is_lead, joined


def train(
    command: str,
    catalog: Catalog,
    data: str,
    out: Path,
    settings: dict[str, Any],
    *,
    notes: Sequence[str] = (),
    quiet: bool = False,
    began: float | None = None,
) -> dict[str, Any]:
    """Carry out "run", "demo", "transfer", "self-train" or "distill".

    The same call continues a run that was cut off. ``data`` is what the user called the images,
    ``settings`` are by name, as on the command line, and ``notes`` what else the user must know.
    It began at ``began`` by ``time.monotonic``; None means now. It gives the content
    of metrics.json, or an empty dict where another rank leads.
    """
    config = make_config(command, settings)
    teachers = given_teachers(config) if command == "distill" else []
    if teachers:
        catalog = catalog.named(teachers[0].spec.classes)
    with joined():
        run = prepare(command, catalog, data, out, config, notes=notes, quiet=quiet, began=began)
        with contextlib.closing(run):
            chain = Pipeline(run)
            if command != "distill":
                teach(chain, self_training=command != "transfer")
                teachers = [chain.teacher.outcome.model]
            if command in ("run", "demo", "distill"):
                teach_student(chain, teachers)
            if not is_lead():
                return {}
            with alone():  # the other ranks are gone
                return {**finish(chain, command, data, settings)}


def teach(chain: Pipeline, *, self_training: bool) -> None:
    """Make the teacher: probe, transfer and, if asked, the planned rounds of self-training."""
    chain.stage("probe", partial(stages.probe, chain))
    chain.stage("transfer", partial(stages.transfer, chain))
    stages.say_features(chain)
    if self_training and stages.worth_it(chain):
        for name, work in stages.affordable(chain):
            chain.stage(name, partial(stages.self_train, chain, work, name))


def teach_student(chain: Pipeline, teachers: Sequence[Classifier]) -> Finished:
    """Distil the mean of the teachers into the student, which nothing judges but the test."""
    return chain.stage("student", partial(stages.student, chain, teachers), judged=False)
