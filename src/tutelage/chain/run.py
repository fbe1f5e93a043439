"""A training command from its data to its report."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.chain import pipeline, runs
from tutelage.chain.finish import finish
from tutelage.config import RunConfig, make_config
from tutelage.data.catalog import Catalog
from tutelage.data.runfolder import repeating_line
from tutelage.models.classifier import Classifier
from tutelage.models.folder import load_model, model_folders
from tutelage.system.errors import TutelageError
from tutelage.system.ranks import apart, is_lead, joined


def train(
    command: str,
    catalog: Catalog,
    data: str,
    out: Path,
    settings: dict[str, Any],
    *,
    notes: Sequence[str] = (),
    quiet: bool,
) -> dict[str, Any]:
    """Train what ``command`` trains, judge it and write the report.

    Args:
        command: one of "demo", "run", "transfer", "self-train" and "distill".
        catalog: the images.
        data: what the user called them.
        out: the run folder.
        settings: by name.
        notes: sentences for the report.
        quiet: print nothing.

    Returns:
        The content of metrics.json; nothing on other ranks than the lead.

    Raises:
        TutelageError: what was found, what was expected, and the mend.
    """
    config = make_config(command, settings)
    teachers = given_teachers(config) if command == "distill" else []
    if teachers:
        catalog = catalog.named(teachers[0].spec.classes)
    with joined():
        work = runs.prepare(command, catalog, data, out, config, notes=notes, quiet=quiet)
        with contextlib.closing(work):
            chain = pipeline.Pipeline(work)
            if teachers:
                for teacher in teachers:
                    teacher.spec = dataclasses.replace(teacher.spec, canvas=work.store.canvas)
                pipeline.student_stage(chain, teachers[0], teachers[1:])
            else:
                pipeline.teach(chain, rounds=command != "transfer")
                if command in ("run", "demo"):
                    pipeline.student_stage(chain, chain.teacher.outcome.model)
            if not is_lead():
                return {}
            with apart():  # the other ranks are gone
                return finish(work, chain, repeating_line(command, data, str(out), settings))


def given_teachers(config: RunConfig) -> list[Classifier]:
    """The models, all of the same classes, whose folders the setting ``teacher`` names.

    Raises:
        TutelageError: one is no model folder, or knows other classes.
    """
    teachers: list[Classifier] = []
    for folder in model_folders(config.data.teacher):
        if not (Path(folder) / "model.json").exists():
            raise TutelageError(
                f"distill needs a trained teacher, but {folder!r} is no model folder; "
                "give one, such as --teacher RUN/teacher, or several separated by commas"
            )
        teacher = load_model(folder)
        teachers.append(teacher)
        known, others = teachers[0].spec.classes, teacher.spec.classes
        if others != known:
            raise TutelageError(
                f"the first teacher knows {', '.join(known)}, {folder} knows {', '.join(others)}; "
                "they must be the same classes"
            )
    return teachers
