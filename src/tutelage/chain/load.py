"""A data set opened for one command: pixels, roles, and the trunk to look with."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tutelage.augment.engine import ahead
from tutelage.chain.machine import choose_device, configure
from tutelage.config import RunConfig
from tutelage.data.catalog import Catalog
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
from tutelage.models.folder import load_model, model_folders, trained_teachers
from tutelage.models.sizes import fitting_sizes, set_input_size, size_step
from tutelage.models.zoo import build, create, join
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.system.files import cache_folder, csv_line, write_atomically
from tutelage.system.ranks import agreed, by_lead, is_lead, lead_first
from tutelage.system.words import counted

_SHOWN = 10  # classes that are named at the start
NO_CLASS = "(none)"  # a head has an output, also where only the trunk is looked at


@dataclass
class LoadedData:
    """What a command works on."""

    catalog: Catalog  # the images by name
    store: ImageStore  # their pixels
    split: Split  # the role of each image
    copies: Duplicates  # images that are there more than once
    base: Classifier  # the pretrained trunk with an empty head
    config: RunConfig  # every setting, resolved
    device: torch.device  # where to compute

    @property
    def counts(self) -> dict[str, int]:
        """Images in each role that takes part."""
        roles = ("labeled", "unlabeled", "val", "test")
        return {role: len(self.split.indices(role)) for role in roles}

    @property
    def warnings(self) -> list[str]:
        """What the user must know of how the images were stored and split."""
        return [*self.split.warnings, *filter(None, [self.store.note]), *self.copies.notes]


def load_data(
    folder: RunFolder,
    catalog: Catalog,
    config: RunConfig,
    console: Console,
    command: str,
) -> LoadedData:
    """Decode the images, split them, and load the trunk; the folder keeps the split."""
    device = choose_device(config.data.device)
    configure(device)
    if device.type == "cpu" and is_lead():
        ahead.begin()
    for note in (*catalog.facts, *catalog.warnings):  # before the work: a folder may be left out
        console.note(note)
    store = _open_store(folder, catalog, config, console)
    if is_lead():
        write_skipped(store, folder.path)
    if store.reasons:
        lost = f"{counted(len(store.reasons), 'image')} could not be read"
        console.say(f"{lost}: see {folder.path / 'skipped.csv'}", {lost: "yellow"})
    split, copies = _pinned_split(folder, catalog, store, config, console, command)
    teachers = model_folders(config.data.teacher)
    if command == "distill":  # a student is cut from the first; otherwise all are one teacher
        teachers = teachers[:1]
    with console.progress.part("loading the network"):
        base = _base_model(teachers, catalog, store, config)
    base.freeze_trunk()
    return LoadedData(catalog, store, split, copies, base, config, device)


def say_images(data: LoadedData, console: Console, *, on_page: int = 0) -> None:
    """Say how many images there are of each role; ``on_page`` have a label of the page alone."""
    counts, classes = data.counts, data.catalog.classes
    labelled = f"{counts['labeled'] + on_page:,} labelled"
    labelled += f" ({on_page:,} on the page)" if on_page else ""
    console.say(
        f"{labelled}, {counts['unlabeled'] - on_page:,} unlabelled, {counts['val']:,} val, "
        f"{counts['test']:,} test images{f' of {len(classes)} classes' if classes else ''}; on "
        f"{data.device.type}"
    )
    if classes:
        each = np.bincount(data.split.labels[data.split.indices("labeled")], minlength=len(classes))
        named = [f"{name} ({count:,})" for name, count in zip(classes, each, strict=True)]
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        console.say(f"labels of each class: {', '.join(named[:_SHOWN])}{more}")


def write_skipped(store: ImageStore, out: Path) -> None:
    """List the unreadable images in ``skipped.csv``."""
    rows = [("image", "reason"), *sorted(store.reasons.items())]
    write_atomically(out / "skipped.csv", "".join(map(csv_line, rows)))


def given_teachers(config: RunConfig) -> list[Classifier]:
    """The models that the setting ``teacher`` names, all of the same classes."""
    teachers: list[Classifier] = []
    for folder in trained_teachers(config.data.teacher):
        teachers.append(load_model(folder))
        known, others = teachers[0].spec.classes, teachers[-1].spec.classes
        if others != known:
            raise TutelageError(
                f"the first teacher knows {', '.join(known)}, {folder} knows {', '.join(others)}; "
                "they must be the same classes"
            )
    return teachers


def _open_store(
    folder: RunFolder, catalog: Catalog, config: RunConfig, console: Console
) -> ImageStore:
    """The pixels; a run that began to stream them goes on streaming, and all ranks follow the lead.

    The order in which a training sees its images depends on it.
    """

    def opened(streamed: bool | None) -> ImageStore:
        canvas, limit = config.data.canvas, config.data.store_gb
        budget = None if limit is None else limit * 1e9
        if streamed is not None:
            budget = 0.0 if streamed else math.inf
        with console.bar("decoding", len(catalog), "image") as done:
            return open_store(
                catalog, canvas=canvas, cache=cache_folder(), budget=budget, progress=done
            )

    known = agreed(folder.read_json("config.json").get("streamed"))
    store = lead_first(lambda: opened(known))
    streamed: bool = folder.pinned("streamed", lambda: bool(store.note))
    return store if bool(store.note) == streamed else opened(streamed)


def _pinned_split(
    folder: RunFolder,
    catalog: Catalog,
    store: ImageStore,
    config: RunConfig,
    console: Console,
    command: str,
) -> tuple[Split, Duplicates]:
    """The split, and the copies that it leaves out; the lead makes both, the copies first.

    ``suggest`` names no image twice, so there the pool's own copies are left out, too.
    """
    path, listed = folder.path / "split.parquet", folder.path / DUPLICATES
    keep = config.data.duplicates == "keep"
    made: list[tuple[Split, Duplicates]] = []

    def make() -> None:
        if path.exists():
            return
        with console.bar("looking for copies", len(catalog), "image") as done:
            pool_once = command == "suggest"
            copies = find_duplicates(catalog, store, keep=keep, pool_once=pool_once, progress=done)
        write_duplicates(copies, listed)
        gone = copies.left_out
        split = make_split(
            catalog,
            store.readable & np.array([name not in gone for name in catalog.names]),
            labels_per_class=config.data.labels_per_class,
            limit=config.data.limit,
            seed=config.data.seed,
            labels_needed=command not in ("distill", "suggest"),
        )
        save_split(split, catalog, path)
        made.append((split, copies))

    by_lead(make)
    if made:
        return made[0]
    mend = {}  # where the images of a finished run have changed
    if folder.is_finished:
        words = shlex.join(["tutelage", "evaluate", str(folder.path), folder.request()["data"]])
        judged = f"{words} judges it on the test images as they are now, and "
        test = (catalog.splits == "test").any()
        mend["mend"] = (
            f"the run is finished: {judged if test else ''}another --out begins a new run"
        )
    split = load_split(path, catalog, store.readable, **mend)
    return split, read_duplicates(listed, keep=keep)


def _base_model(
    teachers: Sequence[str], catalog: Catalog, store: ImageStore, config: RunConfig
) -> Classifier:
    """The pretrained trunk, or several as one, with a new, empty head.

    Several look at views of one size: that of the trunks which take no other, else the first's.
    """
    weights = config.data.weights
    if len(teachers) > 1 and weights not in (None, "none"):
        raise TutelageError(
            f"--weights {weights} are one network's, but --teacher names {len(teachers)}; leave "
            "--weights out, or give model folders to --teacher"
        )
    torch.manual_seed(config.data.seed)  # for --weights none
    models = [_one_model(teacher, catalog, store, config) for teacher in teachers]
    steps = [size_step(model) for model in models]
    sizes = {
        name: model.spec.input_size
        for name, model, step in zip(teachers, models, steps, strict=True)
        if step is None
    }
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise TutelageError(
            f"the networks of --teacher take views of different sizes ({found} pixels); give one "
            "with --input-size, or choose networks of one size"
        )
    step = math.lcm(*(step for step in steps if step is not None))
    fixed = next(iter(sizes.values()), None)
    size = fixed or fitting_sizes([models[0].spec.input_size], step)[0]
    for model in models:
        set_input_size(model, size)
    return join(models)


def _one_model(teacher: str, catalog: Catalog, store: ImageStore, config: RunConfig) -> Classifier:
    """A pretrained trunk, or the trunk of a tutelage model, with a new, empty head."""
    classes = catalog.classes or (NO_CLASS,)
    if (Path(teacher) / "model.json").exists():
        if config.data.weights is not None:
            raise TutelageError(
                f"--weights {config.data.weights} with the model folder --teacher {teacher}, which "
                "has weights of its own; leave one of them out"
            )
        loaded = load_model(teacher)
        spec = dataclasses.replace(loaded.spec, classes=classes, canvas=store.canvas)
        spec = dataclasses.replace(spec, temperature=1.0, unknown_threshold=None)
        model = build(spec, trunk=loaded.trunk)
        model.neck.load_state_dict(loaded.neck.state_dict())
        return model
    return create(
        teacher,
        classes,
        canvas=store.canvas,
        input_size=config.data.input_size,
        weights=config.data.weights,
    )
