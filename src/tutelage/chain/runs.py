"""What a command works with: its run folder claimed, its data opened, its plan made.

What was decided once is pinned in the run folder, so that the same command goes on with it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tutelage.chain import stages, student, tune
from tutelage.chain.candidates import Candidate, Untrained, choose, names_on_offer
from tutelage.chain.machine import choose_device, configure, fixed_size, measure_speed
from tutelage.chain.plan import (
    FOLDS,
    TUNE_LABELED,
    TUNE_MOST,
    TUNE_POOL,
    TUNE_SIZE,
    WITH_STUDENT,
    Amounts,
    Plan,
    Work,
    make_plan,
    offered_sizes,
)
from tutelage.chain.stages import Task
from tutelage.chain.trunk import Workshop
from tutelage.config import SELF_TRAINING, STRONG_VIEW, RunConfig, without_effect
from tutelage.data.catalog import Catalog
from tutelage.data.decisions import apply_decisions
from tutelage.data.duplicates import (
    DUPLICATES,
    Duplicates,
    find_duplicates,
    read_duplicates,
    write_duplicates,
)
from tutelage.data.runfolder import RunFolder
from tutelage.data.split import Split, load_split, make_split, save_split
from tutelage.data.store import ImageStore, open_store
from tutelage.models.classifier import Classifier
from tutelage.models.folder import load_model, model_folders
from tutelage.models.forward import Forward
from tutelage.models.zoo import build, create, with_levels
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.system.files import cache_folder, csv_line, write_atomically
from tutelage.system.ranks import agreed, by_lead, current, is_lead, lead_first
from tutelage.system.tracking import Tracking, open_trackers
from tutelage.training.checkpoint import Trainings
from tutelage.training.loader import Canvases


@dataclass
class Run:
    """Everything a run holds while it works.

    Attributes:
        copies: images that are there more than once.
        students: those to distil, cheapest first, where they were chosen by what they cost.
    """

    folder: RunFolder
    config: RunConfig
    catalog: Catalog
    store: ImageStore
    split: Split
    console: Console
    device: torch.device
    base: Classifier
    plan: Plan
    task: Task
    notes: list[str]
    tracking: Tracking
    trainings: Trainings
    copies: Duplicates
    students: tuple[tuple[Candidate, Work], ...] = ()

    @property
    def shop(self) -> Workshop:
        """What trained stages need of the run."""
        seed = self.config.data.seed
        return Workshop(self.config, self.device, seed, self.progress, self.trainings)

    def close(self) -> None:
        """End what was opened: the trackers, and this process's hold on the folder."""
        self.tracking.close()
        self.folder.unlock()

    def progress(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A progress bar."""
        return self.console.bar(label, total)

    def note(self, text: str) -> None:
        """Something the user must know: said now, and in the report."""
        self.notes.append(text)
        self.console.say(f"note: {text}")


def prepare(
    command: str,
    catalog: Catalog,
    data: str,
    out: Path,
    config: RunConfig,
    *,
    notes: Sequence[str] = (),
    quiet: bool = False,
    shared: RunFolder | None = None,
) -> Run:
    """Claim the folder, decode, split, load the trunk and plan: all that comes before a stage.

    Args:
        command: what is asked for.
        catalog: the data.
        data: what the user called it.
        out: the run folder.
        config: settings.
        notes: what the user must know besides.
        quiet: print nothing.
        shared: where the choice of a student is pinned, for runs that must agree on it.

    Raises:
        TutelageError: the data, a setting or the folder is refused; a new folder is given back.
    """
    catalog = apply_decisions(catalog, config.data.decisions)
    with _claimed(command, data, out, config) as (folder, resumed):
        return _prepare(
            command, catalog, folder, config, notes, shared or folder, resumed=resumed, quiet=quiet
        )


@contextmanager
def _claimed(
    command: str, data: str, out: Path, config: RunConfig
) -> Iterator[tuple[RunFolder, bool]]:
    """The folder, and whether its run is continued; a new one is given back on a refusal."""
    folder = RunFolder(out)
    request = {"command": command, "data": os.path.normpath(data), "settings": config.to_dict()}
    resumed = by_lead(lambda: folder.claim(request))
    if not folder.path.is_dir():
        raise TutelageError(
            f"rank {current().rank} sees no folder {folder.path}; give --out a folder on a disk "
            "that all machines share"
        )
    try:
        yield folder, resumed
    except TutelageError:
        if not resumed and is_lead():
            folder.release()
        raise


def _prepare(
    command: str,
    catalog: Catalog,
    folder: RunFolder,
    config: RunConfig,
    notes: Sequence[str],
    shared: RunFolder,
    *,
    resumed: bool,
    quiet: bool,
) -> Run:
    console = _console(folder, quiet=quiet)
    trackers = open_trackers(config.data.track, folder.path) if is_lead() else []
    tracking = Tracking(trackers, console.say)
    console.listen = tracking.event
    console.record("settings", settings=config.to_dict())
    if resumed:
        console.say(f"continuing the run in {folder.path}")
    data = open_data(folder, catalog, config, console, labels_needed=command != "distill")
    store, split, base, device = data.store, data.split, data.base, data.device
    if command in WITH_STUDENT:
        student.create_student(config, base)
    plan = _pinned_plan(folder, command, data)
    students, chosen = _pinned_students(shared, command, data, plan, console)
    if len(students) == 1:
        ((only, work),) = students
        config = config.changed("distill", student=only.student)
        plan = dataclasses.replace(plan, student=work)
    all_notes = folder.pinned(
        "notes",
        lambda: [
            *notes,
            *catalog.warnings,
            *split.warnings,
            *filter(None, [store.note]),
            *data.copies.notes,
            *_unused(command, config, plan),
            *_too_short(plan),
            *chosen,
        ],
    )
    for note in all_notes:
        console.say(f"note: {note}")
    console.say(
        f"planned for {plan.minutes:g} minutes: {plan.size} px, {plan.views} views, "
        f"{len(plan.rounds)} rounds, student {plan.student.steps} steps; "
        f"expected {plan.estimated_seconds / 60:.1f} min"
    )
    task = make_task(catalog, store, split, plan, config, device)
    strong, said = _pinned_strong_view(folder, config, data, task, console)
    config = config.changed("transfer", **strong)
    base.spec = dataclasses.replace(base.spec, input_size=plan.size)
    if config.transfer.features != "last" and command != "distill":
        base = with_levels(base)
    return Run(
        folder=folder,
        config=config,
        catalog=catalog,
        store=store,
        split=split,
        console=console,
        device=device,
        base=base,
        plan=plan,
        task=task,
        notes=[*all_notes, *said],
        tracking=tracking,
        trainings=Trainings(config.data.checkpoint_seconds, console.say),
        copies=data.copies,
        students=students,
    )


@dataclass
class Data:
    """A data set opened for one command: pixels, roles, and the trunk to look with."""

    catalog: Catalog
    store: ImageStore
    split: Split
    copies: Duplicates
    base: Classifier
    config: RunConfig
    device: torch.device

    @property
    def counts(self) -> dict[str, int]:
        """Images in each role that takes part."""
        roles = ("labeled", "unlabeled", "val", "test")
        return {role: len(self.split.indices(role)) for role in roles}

    def sample(self, canvases: Canvases, most_pool: int = TUNE_POOL) -> tune.Sample:
        """What coverage is measured on: some labelled images and ``most_pool`` of the pool."""
        spec, config = self.base.spec, self.config
        size, head = spec.input_size, self.base.pretrained_head
        labeled = self.split.indices("labeled")
        rows, labels, pool = tune.draw_sample(
            labeled,
            self.split.labels[labeled],
            self.split.indices("unlabeled"),
            most_labeled=TUNE_LABELED,
            most_pool=most_pool,
            seed=config.data.seed,
        )
        return tune.Sample(
            canvases=canvases,
            labeled=rows,
            labels=labels,
            pool=pool,
            n_classes=len(self.catalog.classes),
            forward=Forward(self.base.to(self.device), "features"),
            size=size if fixed_size(self.base) else min(TUNE_SIZE, size),
            crop_pct=spec.crop_pct,
            seed=config.data.seed,
            pretrained_head=None if head is None else head.cpu(),
        )


def open_data(
    folder: RunFolder,
    catalog: Catalog,
    config: RunConfig,
    console: Console,
    *,
    labels_needed: bool = True,
) -> Data:
    """Decode, split and load the trunk; the split and the unreadable images go into the folder."""
    device = choose_device(config.data.device)
    configure(device)
    out = folder.path
    store = _open_store(folder, catalog, config, console)
    if is_lead():
        write_skipped(store, out)
    if store.reasons:
        console.say(f"{len(store.reasons)} images could not be read: see {out / 'skipped.csv'}")
    split, copies = _pinned_split(
        folder, catalog, store, config, console, labels_needed=labels_needed
    )
    base = _base_model(catalog, store, config)
    base.freeze_trunk()
    data = Data(catalog, store, split, copies, base, config, device)
    counts = data.counts
    console.say(
        f"{counts['labeled']} labelled, {counts['unlabeled']} unlabelled, {counts['val']} val, "
        f"{counts['test']} test images of {len(catalog.classes)} classes; on {device.type}"
    )
    return data


def _console(folder: RunFolder, *, quiet: bool) -> Console:
    """The lead speaks and records for all ranks."""
    return Console(folder.events, quiet=quiet) if is_lead() else Console(quiet=True)


@contextmanager
def opened(
    command: str, catalog: Catalog, data: str, out: Path, config: RunConfig, *, quiet: bool
) -> Iterator[tuple[Data, RunFolder, Console]]:
    """Claim the folder and open the data, for a command that trains nothing.

    Raises:
        TutelageError: as ``prepare``; also then a new folder is given back.
    """
    catalog = apply_decisions(catalog, config.data.decisions)
    with _claimed(command, data, out, config) as (folder, _):
        console = _console(folder, quiet=quiet)
        opened = open_data(folder, catalog, config, console)
        for note in (*filter(None, [opened.store.note]), *opened.copies.notes):
            console.say(f"note: {note}")
        try:
            yield opened, folder, console
        finally:
            folder.unlock()


def _pinned_strong_view(
    folder: RunFolder, config: RunConfig, data: Data, task: Task, console: Console
) -> tuple[dict[str, Any], list[str]]:
    """Settings that "--augment auto" came to, chosen once per run folder, and a note on them."""
    if config.transfer.augment != "auto":
        return {}, []

    def search() -> dict[str, Any]:
        with console.bar("augmentation", TUNE_MOST, "candidate") as done:
            tuning = tune.tune(data.sample(task.canvases), progress=done)
        data.base.cpu()
        return {
            "settings": tuning.chosen,
            "reason": tuning.reason,
            "seconds": round(tuning.seconds, 1),
            "looks": tuning.looks,
        }

    known = folder.pinned("strong_view", search)
    note = f"--augment auto: {known['reason']} ({known['seconds']:.0f} s)"
    console.say(f"note: {note}")
    return known["settings"], [note]


def _unused(command: str, config: RunConfig, plan: Plan) -> list[str]:
    """Notes on settings that were given but that this plan cannot use."""
    works = (plan.transfer, *plan.rounds)
    names = without_effect(
        config,
        trained=command == "ladder" or any(work.trunk != "frozen" for work in works),
        online=any(work.trunk == "online" for work in works),
        student=command in WITH_STUDENT,
        rounds=len(plan.rounds) > 0,
    )
    if command == "distill":
        names = [name for name in names if name in STRONG_VIEW]
    reasons: list[tuple[tuple[str, ...], str]]
    augment = config.transfer.augment
    does = "chooses them" if augment == "auto" else "has neither operations nor crops"
    reasons = [(STRONG_VIEW, f"no effect: {{}}; --augment {augment} {does}")]
    if not plan.rounds:
        reasons.append((SELF_TRAINING, "no effect: {}; no round of self-training is planned"))
    words = (
        "no effect in this plan: {}; --trunk trained (with more --minutes) trains the trunk, "
        "--trunk online does with online pseudo-labels"
    )
    reasons.append((tuple(names), words))
    notes = []
    for group, reason in reasons:
        if found := [name for name in names if name in group]:
            notes.append(reason.format(", ".join(found)))
            names = [name for name in names if name not in found]
    return notes


def _too_short(plan: Plan) -> list[str]:
    """A note where even the least work takes longer than the budget."""
    if plan.estimated_seconds <= plan.minutes * 60:
        return []
    return [
        f"the least there is to do takes about {plan.estimated_seconds / 60:.1f} minutes here, "
        f"more than the {plan.minutes:g} of --minutes"
    ]


def _open_store(
    folder: RunFolder, catalog: Catalog, config: RunConfig, console: Console
) -> ImageStore:
    """The pixels, streamed by a run that goes on if it began so, and by all ranks if the lead does.

    The order in which a training sees its images hangs on it.
    """
    limit = config.data.store_gb

    def opened(streamed: bool | None) -> ImageStore:
        budget = None if limit is None else limit * 1e9
        if streamed is not None:
            budget = 0.0 if streamed else math.inf
        with console.bar("decoding", len(catalog), "image") as done:
            return open_store(
                catalog,
                canvas=config.data.canvas,
                cache=cache_folder(),
                budget=budget,
                progress=lambda n, total: done(n),
            )

    known = agreed(folder.read_json("config.json").get("streamed"))
    store = lead_first(lambda: opened(known))
    streamed: bool = folder.pinned("streamed", lambda: bool(store.note))
    return store if bool(store.note) == streamed else opened(streamed)


def write_skipped(store: ImageStore, out: Path) -> None:
    """List the unreadable images in ``skipped.csv``."""
    rows = [("image", "reason"), *sorted(store.reasons.items())]
    write_atomically(out / "skipped.csv", "".join(map(csv_line, rows)))


def _pinned_split(
    folder: RunFolder,
    catalog: Catalog,
    store: ImageStore,
    config: RunConfig,
    console: Console,
    *,
    labels_needed: bool,
) -> tuple[Split, Duplicates]:
    """The split and the copies it was made without; the lead makes them, the copies first."""
    path, listed = folder.path / "split.parquet", folder.path / DUPLICATES
    keep = config.data.duplicates == "keep"
    made: list[tuple[Split, Duplicates]] = []

    def make() -> None:
        if path.exists():
            return
        with console.bar("looking for copies", len(catalog), "image") as done:
            copies = find_duplicates(catalog, store, keep=keep, progress=done)
        write_duplicates(copies, listed)
        gone = copies.left_out
        split = make_split(
            catalog,
            store.readable & np.array([name not in gone for name in catalog.names]),
            labels_per_class=config.data.labels_per_class,
            limit=config.data.limit,
            seed=config.data.seed,
            labels_needed=labels_needed,
        )
        save_split(split, catalog, path)
        made.append((split, copies))

    by_lead(make)
    if made:
        return made[0]
    copies = read_duplicates(listed, keep=keep)
    return load_split(path, catalog, store.readable), copies


def _base_model(catalog: Catalog, store: ImageStore, config: RunConfig) -> Classifier:
    """The pretrained trunk with a new, empty head; or the trunk of a tutelage model."""
    teacher = model_folders(config.data.teacher)[0]  # of several, students are cut from the first
    torch.manual_seed(config.data.seed)  # for --weights none
    if (Path(teacher) / "model.json").exists():
        if config.data.weights is not None:
            raise TutelageError(
                f"--weights {config.data.weights} with the model folder --teacher {teacher}, which "
                "has weights of its own; leave one of them out"
            )
        loaded = load_model(teacher)
        spec = dataclasses.replace(
            loaded.spec,
            classes=tuple(catalog.classes),
            canvas=store.canvas,
            temperature=1.0,
            unknown_threshold=None,
        )
        model = build(spec, trunk=loaded.trunk)
        model.neck.load_state_dict(loaded.neck.state_dict())
        return model
    return create(
        teacher,
        catalog.classes,
        canvas=store.canvas,
        input_size=config.data.input_size,
        weights=config.data.weights,
    )


def _pinned_plan(folder: RunFolder, command: str, data: Data) -> Plan:
    def planned() -> dict[str, Any]:
        speed = measure_speed(data.base, data.device, cache_folder())
        folder.pin("machine", dataclasses.asdict(speed))
        folder.pin("versions", data.base.spec.versions)
        return dataclasses.asdict(_plan(command, data))

    known = folder.pinned("plan", planned)
    works = {
        "transfer": Work(**known["transfer"]),
        "rounds": tuple(Work(**work) for work in known["rounds"]),
        "student": Work(**known["student"]),
    }
    return Plan(**{**known, **works})


def _plan(command: str, data: Data, student_size: int | None = None) -> Plan:
    base, config, counts = data.base, data.config, data.counts
    labels = data.split.labels[data.split.indices("labeled")]
    chains = stages.make_folds(labels, counts["val"], FOLDS, config.data.seed)
    amounts = Amounts(
        labeled=counts["labeled"],
        pool=counts["unlabeled"],
        judged=counts["val"] or counts["labeled"],
        test=counts["test"],
        canvas=data.store.canvas,
        folds=len(chains) - 1,
        teachers=len(model_folders(config.data.teacher)),
    )
    return make_plan(
        config,
        amounts,
        measure_speed(base, data.device, cache_folder()),
        base.spec.input_size,
        fixed=fixed_size(base),
        command=command,
        student_size=student_size,
    )


def _pinned_students(
    folder: RunFolder, command: str, data: Data, plan: Plan, console: Console
) -> tuple[tuple[tuple[Candidate, Work], ...], list[str]]:
    """The students whose cost was asked for, chosen once per run folder, and a note on them."""
    config, base = data.config, data.base
    if command not in WITH_STUDENT or not config.distill.limited:
        return (), []

    def chosen() -> dict[str, Any]:
        console.say("measuring students")
        planned = config.distill.student, plan.student.size
        sizes = offered_sizes(plan)
        if config.data.input_size or fixed_size(base):
            sizes = [plan.student.size]
        measure = Untrained(config, base)
        found, note = choose(config.distill, planned, names_on_offer(config, base), sizes, measure)
        works = [_plan(command, data, candidate.size).student for candidate in found]
        return {
            "note": note,
            "candidates": [dataclasses.asdict(candidate) for candidate in found],
            "works": [dataclasses.asdict(work) for work in works],
        }

    known = folder.pinned("students", chosen)
    candidates = (Candidate(**values) for values in known["candidates"])
    works = (Work(**values) for values in known["works"])
    return tuple(zip(candidates, works, strict=True)), [known["note"]]


def make_task(
    catalog: Catalog,
    store: ImageStore,
    split: Split,
    plan: Plan,
    config: RunConfig,
    device: torch.device,
) -> Task:
    """What training and choosing may see of a data set: no test images."""
    labeled, pool, val = (split.indices(role) for role in ("labeled", "unlabeled", "val"))
    labels = split.labels[labeled]
    return Task(
        canvases=Canvases(store, np.flatnonzero(split.roles != "unused"), device),
        labeled=labeled,
        labels=labels,
        pool=pool,
        judged=val if len(val) else labeled,
        judged_labels=split.labels[val] if len(val) else labels,
        folds=stages.make_folds(labels, len(val), plan.folds, config.data.seed),
        n_classes=len(catalog.classes),
    )
