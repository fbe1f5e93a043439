"""What ``tutelage suggest`` does: choose the images to label first, show them, and open the page.

The choice is pinned in ``suggest.json``: repeated commands add to it and never redraw it, so labels
that were given stay.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage import pages
from tutelage.augment import Center
from tutelage.chain import prepare
from tutelage.chain.load import LoadedData, say_images
from tutelage.chain.plan import sharpest_size
from tutelage.config import RunConfig
from tutelage.data.catalog import Catalog
from tutelage.data.decisions import FILE as DECISIONS
from tutelage.data.decisions import Decision, read_decisions, served_at
from tutelage.data.open import Data
from tutelage.data.runfolder import RunFolder, command_line, results_folder
from tutelage.explore.request import known_classes
from tutelage.heads.bank import make_bank
from tutelage.models.forward import Forward
from tutelage.models.sizes import size_step, with_input_size
from tutelage.models.zoo import with_levels
from tutelage.pages.wording import now
from tutelage.report.html import THUMB_SIDE, encode_sheet
from tutelage.report.model import Sheet, Thumb
from tutelage.review.app import open_items, serve_page
from tutelage.review.items import (
    SUGGESTED,
    Suggested,
    after_labelling,
    next_run,
    page_line,
    read_suggested,
)
from tutelage.stats.metrics import Floats
from tutelage.stats.suggest import first_to_label
from tutelage.system.console import Console
from tutelage.system.errors import TutelageError
from tutelage.system.files import csv_line, write_atomically
from tutelage.system.words import counted
from tutelage.training.loader import Canvases, Rows

TABLE, PAGE = "suggested.csv", "suggested.html"
SHOWN = 400  # pictures at most; about as many fit into a page of 5 MB
NAMED = 5  # suggested images that are printed


def suggest(
    config: RunConfig,
    opened: tuple[Catalog, str],
    data: Data,
    out: Path | None,
    settings: dict[str, Any],
    *,
    budget: int,
    classes: Sequence[str] | None,
    port: int,
    browser: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Choose, write list and sheet, open the page; ``tutelage.api.suggest`` has the arguments.

    ``settings`` are those that were given, which make ``config``; ``opened`` is what ``open_data``
    returned.
    """
    catalog, name = opened
    out = results_folder(out, "suggest", name, config.to_dict())
    given = {"budget": budget, "classes": list(classes) if classes else None, **settings}
    line = command_line("suggest", name, str(out), given)
    with prepare.opened("suggest", catalog, name, out, config, quiet=quiet) as work:
        loaded, folder, console = work
        earlier, decisions, catalog = read_suggested(out), decided(out), loaded.catalog
        named = known_classes([*catalog.classes, *earlier.classes], classes or ())
        unlabeled = {catalog.names[row] for row in loaded.split.indices("unlabeled")}
        labels = [name for name, one in decisions.items() if one.label is not None]
        say_images(loaded, console, on_page=len(unlabeled.intersection(labels)))
        base, canvas = loaded.base, loaded.store.canvas
        size = sharpest_size(loaded.config, base.spec.input_size, canvas, size_step(base))
        images, why, candidates = choose(loaded, earlier, decisions, budget, size, console)
        content: dict[str, Any] = {
            "command": line,
            "created": now(),
            "budget": budget,
            "unlabelled": candidates,
            "labelled": len(loaded.split.indices("labeled")),
            "unreadable": len(loaded.store.reasons),
            "copies": len(loaded.copies.left_out),
            "teacher": base.spec.architecture,
            "size": size,
            "seed": config.data.seed,
            "next": next_run(out),
            "classes": list(named),
            "suggested": Suggested(images, why, named).to_rows(),
        }
        _write(folder, loaded, content)
        _say(console, content, out)
    address = served_at(out)
    if address is not None:
        console.say(
            f"the page is open already: {address} (to see images that were added since then, stop "
            "it with Ctrl-C and repeat this command)"
        )
    elif classes is not None:
        in_memory = None if isinstance(data, str | os.PathLike) else data
        serve_page(out, open_items(out, in_memory), port=port, browser=browser)
    page = address or page_line(name, out)
    chosen, next_line = len(content["suggested"]), next_run(out)
    for line in after_labelling(decided(out), chosen, catalog.classes, page, next_line):
        console.say(line)
    return content


def decided(out: Path) -> dict[str, Decision]:
    """What was decided on the page so far, by image."""
    path = out / DECISIONS
    return read_decisions(path) if path.is_file() else {}


def choose(
    data: LoadedData,
    earlier: Suggested,
    decisions: Mapping[str, Decision],
    budget: int,
    size: int,
    console: Console,
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Add to the earlier choice as many images as the budget still has, looked at ``size`` pixels.

    Images that were chosen earlier count as labelled, whether they are by now or not. Those that
    a person called of no use count for nothing. The images come with the reasons, and with how many
    unlabelled ones there were to choose from, the chosen ones included.
    """
    names, unlabeled = data.catalog.names, data.split.indices("unlabeled")
    taken = {*earlier.images, *decisions}
    useful = taken - {name for name, decision in decisions.items() if decision.label is None}
    pool = unlabeled[np.array([names[i] not in taken for i in unlabeled], dtype=bool)]
    chosen = unlabeled[np.array([names[i] in useful for i in unlabeled], dtype=bool)]
    covered = np.concatenate([data.split.indices("labeled"), chosen])
    candidates = len(pool) + len(earlier.images)
    if not candidates:
        raise TutelageError(
            "there is no unlabelled image to choose from: "
            f"{counted(len(data.store.reasons), 'image')} could not be read, "
            f"{len(data.copies.left_out)} left out as copies of others"
        )
    wanted = min(budget - len(earlier.images), len(pool))
    if wanted <= 0:
        return earlier.images, earlier.why, candidates
    began, seed = time.monotonic(), data.config.data.seed
    features = _features(data, np.concatenate([pool, covered]), size, console)
    looked = time.monotonic()
    labeled = features[len(pool) :] if len(covered) else None
    order, why = first_to_label(features[: len(pool)], wanted, labeled=labeled, seed=seed)
    seconds = {"features": looked - began, "choice": time.monotonic() - looked}
    console.say(
        f"features of {data.base.spec.architecture} at {size} px: {seconds['features']:.0f} s, "
        f"choice: {seconds['choice']:.1f} s",
        seconds=seconds,
    )
    images = (*earlier.images, *(names[row] for row in pool[order]))
    return images, (*earlier.why, *why), candidates


def _features(data: LoadedData, rows: Rows, size: int, console: Console) -> Floats:
    """The frozen trunk's features (n, D), middle stages too, of the centre views of rows (n,)."""
    base = with_levels(with_input_size(data.base, size)).to(data.device)
    with console.bar("features", len(rows), "image") as done:
        bank = make_bank(
            Canvases(data.store, rows, data.device),
            rows,
            Forward(base, "features"),
            size,
            [(Center(base.spec.crop_pct), False)],
            seed=data.config.data.seed,
            progress=done,
        )
    return np.asarray(bank.views[0].numpy())


def _write(folder: RunFolder, data: LoadedData, content: dict[str, Any]) -> None:
    """Write the figures, which pin the choice, then the list and the sheet made from them."""
    folder.write_json(SUGGESTED, content)
    rows = [("image", "rank", "why"), *(tuple(row.values()) for row in content["suggested"])]
    text = "".join(map(csv_line, rows))
    write_atomically(folder.path / TABLE, text.encode("utf-8", "backslashreplace"))
    where = {name: row for row, name in enumerate(data.catalog.names)}
    names = [row["image"] for row in content["suggested"][:SHOWN]]
    shown = [where[name] for name in names if name in where]
    text = render(
        content,
        [whole(data.store.images[i], float(data.store.aspect[i])) for i in shown],
        [*data.catalog.facts, *data.catalog.warnings, *data.split.warnings],
    )
    write_atomically(folder.path / PAGE, text)


def render(
    content: Mapping[str, Any], pictures: Sequence[NDArray[np.uint8]], warnings: Sequence[str]
) -> str:
    """The contact sheet: ``content`` of suggest.json, (H, W, 3) of its first images."""
    suggested = content["suggested"]
    captions = [row["image"] for row in suggested[: len(pictures)]]
    thumbs = [Thumb(image, text) for image, text in zip(pictures, captions, strict=True)]
    sheet = encode_sheet(Sheet("", "", thumbs))
    shown = list(zip(suggested, sheet["thumbs"], strict=False))
    return pages.render(
        "suggest.html.j2",
        content=content,
        warnings=warnings,
        shown=shown,
        left_out=len(suggested) - len(shown),
    )


def whole(canvas: NDArray[np.uint8], aspect: float) -> NDArray[np.uint8]:
    """A small picture of the image's true shape, width / height ``aspect``, from its canvas."""
    width, height = THUMB_SIDE * min(1.0, aspect), THUMB_SIDE * min(1.0, 1 / aspect)
    side = max(1, round(width)), max(1, round(height))
    return np.asarray(Image.fromarray(canvas).resize(side, Image.Resampling.LANCZOS))


def _say(console: Console, content: Mapping[str, Any], out: Path) -> None:
    chosen = content["suggested"]
    console.say(
        f"of the {counted(content['unlabelled'], 'image')} that came without a label, "
        f"{len(chosen)} to label first:"
    )
    for row in chosen[:NAMED]:
        console.say(f"  {row['rank']}. {row['image']}: {row['why']}")
    if more := len(chosen[NAMED:]):
        console.say(f"  and {more:,} more in the list")
    if len(chosen) < min(content["budget"], content["unlabelled"]):
        console.note(
            f"these are fewer than the budget of {content['budget']}, because no other image "
            "differs from them"
        )
    elif len(chosen) > content["budget"]:
        console.note(f"{len(chosen)} were chosen by an earlier command; all of them stay")
    console.point("list", out / TABLE)
    console.point("contact sheet", out / PAGE)
