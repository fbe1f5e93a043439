"""The reference of an int8 file: the images of the float model's reference, seen by int8.

The float model's own reference does not serve. The features of the two models differ, and 65% of
the looks at 200 undisturbed digits raised an alarm, where 5% may (docs/watch.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.catalog import Catalog
from tutelage.data.columns import open_parquet, undamaged
from tutelage.data.runfolder import catalog_of, has_data
from tutelage.deploy.find import REFERENCE, reference_beside
from tutelage.deploy.images import pictures_of
from tutelage.deploy.runtime import OnnxModel
from tutelage.stats.metrics import Ints
from tutelage.system.errors import TutelageError
from tutelage.watch.look import look
from tutelage.watch.reference import Reference, load_reference, save_reference

SAME_PIXELS = 0.1  # grey levels, and of the sharpness; another decoder changes less


def add_reference(folder: Path, result: dict[str, Any]) -> None:
    """Write the reference of what ``export`` made, its ``result``, and enter it there.

    ``folder`` is the model folder. What prevents a reference is entered in its place: the int8 file
    is worth more.
    """
    made = result["int8"]
    made["reference"], made["without_reference"] = None, None
    try:
        path = write_int8_reference(folder, Path(result["path"]), Path(made["path"]))
    except TutelageError as error:
        made["without_reference"] = str(error)
    else:
        made["reference"] = str(path)


def write_int8_reference(folder: Path, exact: Path, rounded: Path) -> Path:
    """Write the reference of the int8 file ``rounded`` beside it; return where.

    ``folder`` is the model folder of both, and ``exact`` the float file. The images are read again
    from the data of the run that the folder lies in, and must be the same as they were.
    """
    if not (folder / REFERENCE).is_file():
        raise TutelageError(f"{folder} has no {REFERENCE}")
    known = load_reference(folder / REFERENCE, OnnxModel(exact))
    if not has_data(folder.parent):
        raise TutelageError(f"{folder} lies in no run folder whose images can be read again")
    model = OnnxModel(rounded, threads=1)
    catalog = catalog_of(folder.parent)
    changed = f"the images of the run {folder.parent} have changed since it was made"
    rows = _rows_now(folder.parent, catalog, known.rows)
    if rows is None:
        raise TutelageError(changed)
    seen, _, skipped = look(model, pictures_of(catalog, rows))
    same = not skipped and np.allclose(seen.pixels, known.seen.pixels, atol=SAME_PIXELS)
    if not same:
        raise TutelageError(changed)
    made = Reference(seen, known.rows, known.labels, known.images, known.learned, known.classes)
    path = reference_beside(rounded)
    save_reference(made, model, path)
    return path


def _rows_now(run: Path, catalog: Catalog, rows: Ints) -> Ints | None:
    """The catalog's rows (n,) of the images that had these rows in the run; None if one is gone.

    The run had other rows where ``--decisions`` left images out, or where some came or went since.
    """
    split = run / "split.parquet"
    with undamaged(split):
        then = dict(enumerate(open_parquet(split).read(["image"])["image"].to_pylist()))
    now = {name: row for row, name in enumerate(catalog.names)}
    found = np.array([now.get(then.get(int(row), ""), -1) for row in rows])
    return None if (found < 0).any() else found
