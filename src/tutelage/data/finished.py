"""Whether a run is finished already: asked before anything heavy is imported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tutelage.config import RunConfig
from tutelage.data.catalog import Catalog
from tutelage.data.open import is_in_memory
from tutelage.data.runfolder import RunFolder, request_of, results_folder
from tutelage.system.console import Console
from tutelage.system.ranks import env_int

_IMAGES, _FINISHED = "images", "finished"  # in config.json
RESULT, REPORT, CARD = "metrics.json", "report.html", "MODEL_CARD.md"


def look(
    command: str,
    data: str,
    out: Path | str | None,
    config: RunConfig,
    catalog: Catalog | None,
    *,
    quiet: bool,
) -> tuple[Path, dict[str, Any] | None]:
    """The folder for the results, and the content of its metrics.json if the run is finished.

    Then the user is told. The catalog has what was decided about its images; it may be None for
    those of the demo, which never change.
    """
    settings = config.to_dict()

    @cache
    def state() -> str:
        return state_of(command, data, catalog)

    def fits(folder: RunFolder) -> bool:
        return folder.read_json("config.json").get(_IMAGES) in (None, state())

    place = None if out is None else Path(out)
    path = results_folder(place, command, data, settings, fits=fits)
    folder, request = RunFolder(path), request_of(command, data, settings)
    if not folder.check(request) or env_int("WORLD_SIZE", 1) > 1:  # ranks must decide alike
        return path, None
    written = folder.read_json("config.json").get(_FINISHED)
    if not written or not all((path / name).is_file() for name in written):
        return path, None
    if not fits(folder):  # the run itself says what changed
        return path, None
    report = str(path / REPORT)
    Console(quiet=quiet).say(f"already finished: report {report}", {report: "bold"})
    return path, folder.read_json(RESULT)


def say_start(path: Path, *, quiet: bool) -> None:
    """Say where the results go, before PyTorch is imported, which takes seconds."""
    Console(quiet=quiet or env_int("RANK", 0) > 0).say(f"starting; results: {path}")


def note_images(folder: RunFolder, state: str) -> None:
    """Note in which state the images of a run were when it began to read them."""
    folder.pin(_IMAGES, state)


def note_finished(folder: RunFolder, exports: Iterable[str]) -> None:
    """Note that a run has written all: the files ``exports`` and the report."""
    folder.pin(_FINISHED, [RESULT, REPORT, CARD, *exports])


def is_finished(folder: RunFolder) -> bool:
    """Whether the run in a folder has written all, however its images have changed since then."""
    return bool(folder.read_json("config.json").get(_FINISHED))


def state_of(command: str, data: str, catalog: Catalog | None) -> str:
    """A text that changes with the names, labels and splits of images, and with their files.

    The folder's own name is left out: the same images by another path are the same. It is empty
    for the demo, whose images never change, for images in memory, which the request knows already,
    and for a ladder's draws, which nobody asks for.
    """
    if catalog is None or command in ("demo", "ladder") or is_in_memory(data):
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for index, (name, label, split) in enumerate(
        zip(catalog.names, catalog.labels.tolist(), catalog.splits.tolist(), strict=True)
    ):
        state = catalog.source.signature(index).split("|")[-3:]  # size and times, without the path
        shown = "" if label < 0 else catalog.classes[label]
        for text in (name, shown, split, *state):
            digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
