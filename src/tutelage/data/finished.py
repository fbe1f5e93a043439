"""Whether a run is finished already: asked before anything heavy is imported. Changes no file."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tutelage.config import RunConfig
from tutelage.data.catalog import Catalog
from tutelage.data.decisions import apply_decisions
from tutelage.data.runfolder import RunFolder, request_of, results_folder
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.system.ranks import env_int

_FINISHED = "finished"  # in config.json
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

    Then the user is told. The catalog is None where the images are a part of an installed package.

    Raises:
        TutelageError: the folder holds something else, or the run of another request.
    """
    settings = config.to_dict()
    path = results_folder(None if out is None else Path(out), command, data, settings)
    folder, request = RunFolder(path), request_of(command, data, settings)
    if not folder.check(request) or env_int("WORLD_SIZE", 1) > 1:  # ranks must decide alike
        return path, None
    if catalog is not None:
        catalog = apply_decisions(catalog, config.data.decisions)
    known = _result(folder, catalog)
    if known is not None:
        report = str(path / REPORT)
        Console(quiet=quiet).say(f"already finished: report {report}", {report: "bold"})
    return path, known


def note_finished(folder: RunFolder, catalog: Catalog | None, files: Iterable[str]) -> None:
    """Note that a run has written all: from which images, and which ``files`` besides the report.

    The catalog is None where the images are a part of an installed package.
    """
    known = {"images": _state(catalog), "files": [RESULT, REPORT, CARD, *files]}
    folder.pin(_FINISHED, known)


def _result(folder: RunFolder, catalog: Catalog | None) -> dict[str, Any] | None:
    """The content of metrics.json if all is there and the images are as they were.

    None also where that cannot be told at once; then the run itself compares.
    """
    with contextlib.suppress(TutelageError):  # damaged: the run says so
        known = folder.read_json("config.json").get(_FINISHED)
        if not known or known["images"] != _state(catalog):
            return None
        if all((folder.path / name).is_file() for name in known["files"]):
            return folder.read_json(RESULT)
    return None


def _state(catalog: Catalog | None) -> str:
    """A text that changes with the names, labels and splits of images, and with their files.

    The folder's own name is left out: the same images by another path are the same.
    """
    if catalog is None:
        return ""
    digest = hashlib.blake2b(digest_size=16)
    for index, (name, label, split) in enumerate(
        zip(catalog.names, catalog.labels.tolist(), catalog.splits.tolist(), strict=True)
    ):
        of_file = catalog.source.signature(index).split("|")
        # path|size|mtime|ctime, or a digest of what is in memory
        state = of_file[-3:] if len(of_file) > 3 else of_file
        shown = "" if label < 0 else catalog.classes[label]
        for text in (name, shown, split, *state):
            digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
