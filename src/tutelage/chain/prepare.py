"""All that comes before a stage: the folder claimed, the data opened, the plan made.

What was decided once is pinned in the run folder, so that the same command goes on with it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.chain import limits
from tutelage.chain.clock import Clock, foreseen, in_minutes
from tutelage.chain.load import LoadedData, load_data, say_images
from tutelage.chain.machine import Speed, augmented_by, current_speed
from tutelage.chain.plan import (
    BEFORE_S,
    FOLDS,
    Amounts,
    RunPlan,
    StudentCost,
    Work,
    make_plan,
    measured_cost,
    offered_sizes,
    sharpest_size,
)
from tutelage.chain.student import create_student, is_cut_from, with_named_student
from tutelage.chain.types import Run, Task, make_folds
from tutelage.config import (
    SELF_TRAINING,
    STRONG_VIEW,
    WITH_STUDENT,
    RunConfig,
    option,
    without_effect,
)
from tutelage.data.catalog import Catalog
from tutelage.data.decisions import apply_decisions
from tutelage.data.runfolder import IMAGES, RunFolder, request_of, state_of
from tutelage.models.classifier import Classifier
from tutelage.models.folder import model_folders
from tutelage.models.sizes import check_input_size, set_input_size, size_step
from tutelage.models.zoo import with_levels
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.system.files import cache_folder
from tutelage.system.progress import Progress
from tutelage.system.ranks import by_lead, current, is_lead
from tutelage.system.tracking import Tracking, open_trackers
from tutelage.training.checkpoint import Trainings
from tutelage.training.loader import Canvases

MOST_MINUTES = 120  # that are tried, if not four times as many as given, where these are too few
SMALL_VIEWS = 0.5  # of the side that the network is best at: smaller views are said


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
    progress: Progress | None = None,
    began: float | None = None,
) -> Run:
    """Claim the folder, decode, split, load the trunk and plan; a refusal removes a new folder.

    In the folder ``shared`` the choice of a student is pinned, for runs that must agree on it.
    ``progress`` is that of a command that has several runs.
    """
    began = time.monotonic() if began is None else began
    catalog = apply_decisions(catalog, config.data.decisions)
    with _claimed(command, data, out, config, quiet, progress) as (folder, console, resumed):
        trackers = open_trackers(config.data.track, folder.path) if is_lead() else []
        tracking = Tracking(trackers, console.say)
        console.listen = tracking.event
        console.record("settings", settings=config.to_dict())
        if resumed and not folder.is_finished:
            console.say(f"continuing the run in {folder.path}")
        images = state_of(command, data, catalog)  # as they are before they are read
        loaded = load_data(folder, catalog, config, console, command)
        say_images(loaded, console)
        folder.pin(IMAGES, images)
        folder.pinned("decoded_seconds", lambda: round(time.monotonic() - began, 1))
        run = _planned(command, loaded, folder, shared or folder, notes, console, tracking)
        took = folder.pinned("prepared_seconds", lambda: round(time.monotonic() - began, 1))
        run.clock.count("preparation", took)
        return run


@contextmanager
def opened(
    command: str, catalog: Catalog, data: str, out: Path, config: RunConfig, *, quiet: bool
) -> Iterator[tuple[LoadedData, RunFolder, Console]]:
    """Claim the folder and open the data, for a command that trains nothing."""
    catalog = apply_decisions(catalog, config.data.decisions)
    with _claimed(command, data, out, config, quiet) as (folder, console, _):
        loaded = load_data(folder, catalog, config, console, command)
        for note in loaded.warnings:
            console.note(note)
        yield loaded, folder, console
        folder.unlock()


@contextmanager
def _claimed(
    command: str,
    data: str,
    out: Path,
    config: RunConfig,
    quiet: bool,
    progress: Progress | None = None,
) -> Iterator[tuple[RunFolder, Console, bool]]:
    """The folder, what tells the user, and whether the folder's run is continued.

    After an error other processes may claim it; a refusal also removes a new folder.
    """
    folder = RunFolder(out)
    request = request_of(command, data, config.to_dict())
    resumed = by_lead(lambda: folder.claim(request))
    console = Console(quiet=True)
    if is_lead():
        console = Console(folder.events, quiet=quiet, progress=progress)
    try:
        if not folder.path.is_dir():
            raise TutelageError(
                f"rank {current().rank} sees no folder {folder.path}; give --out a folder on a "
                "disk that all machines share"
            )
        yield folder, console, resumed
    except BaseException as error:
        if isinstance(error, TutelageError) and not resumed and is_lead():
            folder.release()
        folder.unlock()
        raise


def _planned(
    command: str,
    data: LoadedData,
    folder: RunFolder,
    shared: RunFolder,
    notes: Sequence[str],
    console: Console,
    tracking: Tracking,
) -> Run:
    """The run with its plan: what fits into the minutes, and which student."""
    asked, base = data.config, data.base
    images = data.counts["labeled"] + data.counts["unlabeled"]
    config = with_named_student(asked, base, images)
    # A student that cannot be made is refused now, not after the teacher was trained.
    student = create_student(config, base) if command in WITH_STUDENT else None

    @cache
    def cost() -> StudentCost | None:
        """None where that follows from its teacher's."""
        if student is None or is_cut_from(student, base):
            return None
        own = current_speed(student, data.device, cache_folder())
        teacher = Speed(**folder.read_json("config.json")["machine"])
        return measured_cost(own, teacher, student.spec.input_size, size_step(student))

    def replanned(minutes: float | None = None, student_size: int | None = None) -> RunPlan:
        longer = config.changed("data", minutes=minutes or config.data.minutes)
        return _plan(folder, command, data, longer, cost(), student_size)

    with console.progress.part("measuring this machine"):
        plan = _pinned_plan(folder, data, replanned)
    chosen: dict[str, Any] = {}
    if student is not None and config.distill.limited:

        def choose() -> dict[str, Any]:
            sizes = [plan.student.size]
            if not config.data.input_size:
                sizes = offered_sizes(plan, size_step(student))
            found, note = limits.choose_student(config, base, plan.student.size, sizes)
            work = replanned(student_size=found.size).student
            return {"student": found.student, "work": dataclasses.asdict(work), "note": note}

        with console.progress.part("measuring students"):
            chosen = shared.pinned("student", choose)
        config = config.changed("distill", student=chosen["student"])
        limited = Work(**chosen["work"])
        seconds = plan.estimated_seconds + limited.seconds - plan.student.seconds
        plan = dataclasses.replace(plan, student=limited, estimated_seconds=seconds)
    if student is not None:
        set_input_size(student, plan.student.size)
        check_input_size(student)

    kernels, faults = augmented_by(data.device)
    sharpest = sharpest_size(config, base.spec.input_size, data.store.canvas, size_step(base))

    def found() -> list[str]:
        return [
            *notes,
            *faults,
            *data.catalog.warnings,
            *data.warnings,
            *_unused(command, config, plan),
            *cut_by_budget(command, plan, sharpest, replanned),
            *([chosen["note"]] if chosen else []),
        ]

    all_notes = folder.pinned("notes", found)
    not_cut = _not_cut(asked, config, student, base)
    for note in (*all_notes, *not_cut):
        if note not in data.catalog.warnings:  # those were said when the data was opened
            console.note(note)
    console.say(_in_words(plan, command))
    set_input_size(base, plan.size)
    if config.transfer.features != "last" and command != "distill":
        base = with_levels(base)
    trainings = Trainings(config.data.checkpoint_seconds, console.say)
    # A ladder compares its arms, which must train for as long as planned.
    budget = math.inf if command == "ladder" else 60 * plan.minutes
    clock = Clock(folder, trainings, console, budget=budget, after=plan.after_seconds)
    if command != "ladder":  # it has a run for each draw, with arms beside the chain
        console.progress.expect(foreseen(plan, command, images), clock.left)
    return Run(
        **{**vars(data), "config": config, "base": base},
        folder=folder,
        console=console,
        plan=plan,
        task=make_task(data, plan),
        notes=all_notes,
        facts=[*data.catalog.facts, *not_cut, *kernels],
        tracking=tracking,
        trainings=trainings,
        clock=clock,
    )


def _in_words(plan: RunPlan, command: str) -> str:
    """What is planned, for the user."""
    works = []
    if command != "distill":
        works.append(f"{plan.views} views of each image at {plan.size} px")
    if plan.rounds:
        rounds = len(plan.rounds)
        works.append(f"{rounds} {'round' if rounds == 1 else 'rounds'} of self-training")
    if command in WITH_STUDENT:
        works.append(f"a student trained for {plan.student.steps} steps")
    earlier = "; it ends earlier where rounds do not help" if plan.rounds else ""
    return (
        f"the plan: {', '.join(works)}; it takes {in_minutes(plan.estimated_seconds)} (--minutes "
        f"allows {in_minutes(60 * plan.minutes)}){earlier}"
    )


def make_task(data: LoadedData, plan: RunPlan) -> Task:
    """What training and choosing may see of a data set: no test images."""
    split = data.split
    labeled, pool, val = (split.indices(role) for role in ("labeled", "unlabeled", "val"))
    labels = split.labels[labeled]
    return Task(
        canvases=Canvases(data.store, np.flatnonzero(split.roles != "unused"), data.device),
        labeled=labeled,
        labels=labels,
        pool=pool,
        judged=val if len(val) else labeled,
        judged_labels=split.labels[val] if len(val) else labels,
        folds=make_folds(labels, len(val), plan.folds, data.config.data.seed),
        n_classes=len(data.catalog.classes),
    )


def _pinned_plan(folder: RunFolder, data: LoadedData, planned: Callable[[], RunPlan]) -> RunPlan:
    """The plan as it is in the folder; what it rests on is pinned first."""

    def made() -> dict[str, Any]:
        speed = current_speed(data.base, data.device, cache_folder())
        folder.pin("machine", dataclasses.asdict(speed))
        folder.pin("versions", data.base.spec.versions)
        return dataclasses.asdict(planned())

    known = folder.pinned("plan", made)
    works = {
        "transfer": Work(**known["transfer"]),
        "rounds": tuple(Work(**work) for work in known["rounds"]),
        "student": Work(**known["student"]),
    }
    return RunPlan(**{**known, **works})


def _plan(
    folder: RunFolder,
    command: str,
    data: LoadedData,
    config: RunConfig,
    cost: StudentCost | None,
    student_size: int | None,
) -> RunPlan:
    """The plan for the machine and the time that decoding took, as the folder has them pinned."""
    known = folder.read_json("config.json")
    # In tens of seconds: a little more or less seldom changes the plan.
    lost = max(0.0, round((known.get("decoded_seconds", 0.0) - BEFORE_S) / 10) * 10.0)
    base, counts = data.base, data.counts
    labels = data.split.labels[data.split.indices("labeled")]
    folds = make_folds(labels, counts["val"], FOLDS, config.data.seed)[1:]
    amounts = Amounts(
        labeled=counts["labeled"],
        pool=counts["unlabeled"],
        # A class with one label is judged in no fold.
        judged=counts["val"] or sum(len(fold.judges) for fold in folds),
        test=counts["test"],
        canvas=data.store.canvas,
        folds=len(folds),
        teachers=len(model_folders(config.data.teacher)) if command == "distill" else 1,
        trunks=len(base.spec.trunks),
    )
    return make_plan(
        config,
        amounts,
        Speed(**known["machine"]),
        base.spec.input_size,
        step=size_step(base),
        command=command,
        student_size=student_size,
        lost=lost,
        student=cost,
    )


def _not_cut(
    asked: RunConfig, config: RunConfig, student: Classifier | None, base: Classifier
) -> list[str]:
    """What is told where the default student is not cut from its teacher."""
    if student is None or is_cut_from(student, base):
        return []
    name = config.distill.student
    if name == "cut":
        return [
            f"no student can be cut from {base.spec.architecture}, so it is cut from "
            f"{student.spec.architecture}, with that network's own pretrained weights; "
            "--student NAME chooses another"
        ]
    if asked.distill.student == "auto":
        return [
            f"the student is the whole of {name}, because a student cut from the teacher would "
            "have too few images to learn what the teacher's last stages know (--student cut cuts "
            "one anyway)"
        ]
    return []


def _unused(command: str, config: RunConfig, plan: RunPlan) -> list[str]:
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
    reasons = [(STRONG_VIEW, "no effect: {}; --augment center has neither operations nor crops")]
    if not plan.rounds:
        reasons.append((SELF_TRAINING, "no effect: {}; no round of self-training is planned"))
    words = (
        "no effect in this plan: {}; --trunk trained (with more --minutes) trains the trunk, "
        "--trunk online does so with online pseudo-labels"
    )
    notes = []
    for group, reason in (*reasons, (tuple(names), words)):
        if found := [name for name in names if name in group]:
            notes.append(reason.format(", ".join(map(option, found))))
            names = [name for name in names if name not in found]
    return notes


def cut_by_budget(
    command: str, plan: RunPlan, sharpest: int, replanned: Callable[[float], RunPlan]
) -> list[str]:
    """A note where the budget is too short, or leaves small views alone: what was cut, the mend.

    ``sharpest`` is the side in pixels of the views where time is no matter; ``replanned`` gives the
    plan for other minutes.
    """

    def fits(plan: RunPlan) -> bool:
        return plan.estimated_seconds <= 60 * plan.minutes

    small = command != "distill" and plan.size < SMALL_VIEWS * sharpest
    if fits(plan) and not small:
        return []
    least, most = math.floor(plan.minutes) + 1, max(MOST_MINUTES, math.ceil(4 * plan.minutes))
    best, longer = replanned(most), map(replanned, range(least, most))
    enough = next((one for one in longer if fits(one) and one.size == best.size), best)
    cut = []
    if command != "distill" and plan.size < enough.size:
        cut.append(f"it looks at images at {plan.size} px instead of {enough.size} px")
    if command in WITH_STUDENT and plan.student.steps < enough.student.steps:
        cut.append(
            f"it trains the student for {plan.student.steps} steps instead of "
            f"{enough.student.steps}"
        )
    said = f"{in_minutes(60 * plan.minutes)} (--minutes) are short for this run"
    if not fits(plan):
        cut.append("its trainings are shortened")
        said = (
            f"even the shortest plan takes {in_minutes(plan.estimated_seconds)} on this machine, "
            f"longer than the {in_minutes(60 * plan.minutes)} that the run may take (--minutes)"
        )
    if not cut:  # no time would make the views larger
        return []
    *others, last = cut
    losses = f"{', '.join(others)} and {last}" if others else last
    return [f"{said}: {losses}, which costs accuracy; give --minutes {enough.minutes:g}"]
