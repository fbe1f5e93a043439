"""The page of ``tutelage augment``: coverage, holes, the search, and a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage.report import plots
from tutelage.report.html import encode_sheets, fill, jpeg_uri
from tutelage.report.model import Sheet
from tutelage.system.errors import need

if TYPE_CHECKING:
    from tutelage.chain.tune import Tuning
    from tutelage.stats.intervals import Interval


@dataclass(frozen=True)
class Cloud:
    """How some views lie relative to the pool.

    Attributes:
        name: a short one.
        note: what the views are.
        n_views: how many there are of each labelled image.
        values: metric -> its value with an interval.
    """

    name: str
    note: str
    n_views: int
    values: Mapping[str, Interval]


@dataclass(frozen=True)
class Strip:
    """Pictures beside each other, one row per example image.

    Attributes:
        group: "policies" or "operations".
        name: of the policy or operation.
        columns: what each picture is.
        rows: uint8 (C, H, W, 3) each, one picture per column.
    """

    group: str
    name: str
    columns: Sequence[str]
    rows: Sequence[NDArray[np.uint8]]


@dataclass(frozen=True)
class AugmentPage:
    """Everything the page shows.

    Attributes:
        title: the page's heading.
        command: the command line that made it.
        created: when, as text.
        headline: whether the augmentation helped to cover the pool; empty if nothing was measured.
        sentences: what else there is to say about that.
        lack: why nothing was measured; empty if it was.
        looked: what was looked at, and with what.
        clouds: their figures, those of the plain labelled images first.
        plane: cloud -> (.., 2) coordinates, among them "pool".
        share: of the pool's variance that the plane shows.
        sheets: the holes.
        strips: the contact sheet.
        tuning: the search, if there was one.
        warnings: what the reader must know about the data.
    """

    title: str
    command: str
    created: str
    headline: str
    sentences: Sequence[str]
    lack: str
    looked: str
    clouds: Sequence[Cloud]
    plane: Mapping[str, NDArray[np.float32]]
    share: float
    sheets: Sequence[Sheet]
    strips: Sequence[Strip]
    tuning: Tuning | None = None
    warnings: Sequence[str] = field(default=())


def render(page: AugmentPage) -> str:
    """The whole page as text.

    Raises:
        MissingExtra: jinja2 or matplotlib is not installed.
    """
    markup = need("markupsafe", "train").Markup
    context: dict[str, Any] = {
        "page": page,
        "picture": markup(plots.clouds(page.plane)) if page.plane else None,
        "sheets": encode_sheets(page.sheets),
        "groups": {
            group: [
                (strip, [jpeg_uri(_beside(row)) for row in strip.rows])
                for strip in page.strips
                if strip.group == group
            ]
            for group in ("policies", "operations")
        },
    }
    return fill("augment.html.j2", context)


def _beside(pictures: NDArray[np.uint8], gap: int = 4) -> Image.Image:
    """Pictures (C, H, W, 3) in one, with a grey gap that shows on light and dark pages."""
    count, height, width, _ = pictures.shape
    sheet = np.full((height, count * (width + gap) - gap, 3), 128, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        left = number * (width + gap)
        sheet[:, left : left + width] = picture
    return Image.fromarray(sheet)
