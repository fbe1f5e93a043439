"""What ``tutelage watch`` does, in order: look, compare, and say which images to label."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage.data.decode import UnreadableImage
from tutelage.data.open import Data, open_data
from tutelage.deploy.find import FoundModel, exported_file, find_model, reference_file
from tutelage.deploy.images import Images, Picture, find_images
from tutelage.deploy.runtime import OnnxModel
from tutelage.pages.wording import now
from tutelage.stats.suggest import first_to_label
from tutelage.system.errors import TutelageError
from tutelage.system.files import csv_line, is_taken, write_atomically
from tutelage.system.words import are, counted
from tutelage.watch.compare import compare
from tutelage.watch.look import Seen, check_features, look
from tutelage.watch.page import SHOWN, render
from tutelage.watch.record import is_record, read_record
from tutelage.watch.reference import Reference, load_reference, make_reference

RESULT, PAGE, TO_LABEL = "watch.json", "watch.html", "to_label.csv"
LEAST = 20  # images of a look


def watch(
    model: Path,
    images: Images,
    out: Path | None,
    *,
    reference: Data | None,
    false_alarms: float,
    budget: int,
) -> dict[str, Any]:
    """Look at a batch of images; ``tutelage.api.watch`` has the arguments."""
    _check(out, false_alarms, budget)
    exported = exported_file(model)
    opened = OnnxModel(exported, threads=1)
    check_features(opened)
    known = _reference(find_model(model), opened, reference)
    seen, pictures, skipped = _batch(images, opened)
    result = {
        "model": str(exported),
        "created": now(),
        "images": len(seen),
        "skipped": dict(skipped),
        "reference": {"n": len(known.seen), "images": known.images, "learned": known.learned},
        "false_alarms": false_alarms,
        **compare(known, seen, opened.unknown_threshold, false_alarms),
        "page": None if out is None else str(out / PAGE),
        "to_label": str(out / TO_LABEL) if out is not None and pictures else None,
    }
    if out is not None:
        _write(out, result, known, seen, pictures, budget)
    return result


def _batch(images: Images, opened: OnnxModel) -> tuple[Seen, list[Picture], list[tuple[str, str]]]:
    """What is seen of the images, those that can be read, and (name, reason) of the others.

    Of what a server has seen there are no images.
    """
    pictures: list[Picture] = []
    skipped: list[tuple[str, str]] = []
    given = [images] if isinstance(images, str | os.PathLike) else images
    if isinstance(given, list | tuple) and given and all(map(is_record, given)):
        seen = read_record([Path(path) for path in given], opened)
    else:
        found = find_images(images)
        seen, readable, skipped = look(opened, found)
        pictures = [found[i] for i in readable]
    if len(seen) < LEAST:
        lost = f"; {skipped[0][0]} cannot be read: {skipped[0][1]}" if skipped else ""
        raise TutelageError(
            f"{counted(len(seen), 'image')} {are(len(seen))} too few to be told from others; give "
            f"{LEAST} or more{lost}"
        )
    return seen, pictures, skipped


def _check(out: Path | None, false_alarms: float, budget: int) -> None:
    if not 0.005 <= false_alarms <= 0.5:
        raise TutelageError(
            f"--false-alarms is {false_alarms:g}; expected a rate from 0.005 to 0.5, such as 0.05"
        )
    if budget < 1:
        raise TutelageError(f"--budget is {budget}; expected 1 or more")
    if out is not None and is_taken(out):
        raise TutelageError(f"--out {out} exists; choose a new folder for each look")


def _reference(found: FoundModel, opened: OnnxModel, given: Data | None) -> Reference:
    if given is None:
        return load_reference(reference_file(found), opened)
    catalog, name = open_data(given)
    splits = [split for split in ("test", "val") if (catalog.splits == split).any()]
    rows = np.flatnonzero(catalog.splits == splits[0]) if splits else np.arange(len(catalog))
    index = {name: k for k, name in enumerate(opened.classes)}
    classes = np.array([*(index.get(name, -1) for name in catalog.classes), -1])
    images = f"{splits[0] + ' ' if splits else ''}images of {name}"
    labels = classes[catalog.labels[rows]]
    return make_reference(opened, catalog, rows, labels, images, learned=False)


def _write(
    out: Path,
    result: dict[str, Any],
    reference: Reference,
    seen: Seen,
    pictures: Sequence[Picture],
    budget: int,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    shown: list[tuple[str, str, NDArray[np.uint8] | None]] = []
    if pictures:
        ours, known = (part["features"].astype(np.float32) for part in (seen, reference.seen))
        order, reasons = first_to_label(ours, budget, labeled=known)
        places = [_place(pictures[i].name) for i in order]
        table = "".join(map(csv_line, [("image", "why"), *zip(places, reasons, strict=True)]))
        write_atomically(out / TO_LABEL, table.encode("utf-8", "backslashreplace"))
        for rank, (i, why) in enumerate(zip(order, reasons, strict=True)):
            pixels = None
            if rank < SHOWN:
                with contextlib.suppress(UnreadableImage, OSError):  # it may be gone by now
                    pixels = pictures[i].pixels()
            shown.append((pictures[i].name, why, pixels))
    write_atomically(out / RESULT, json.dumps(result, indent=2) + "\n")
    write_atomically(out / PAGE, render(result, reference.seen, seen, shown))


def _place(name: str) -> str:
    """A file by its whole path, so that the list can be used anywhere; other names as they are."""
    return os.path.abspath(name) if os.path.isfile(name) else name
