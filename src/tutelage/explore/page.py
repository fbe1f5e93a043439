"""The page of ``tutelage augment``: coverage, holes, the search, and a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    """How some views lie relative to the pool."""

    name: str
    note: str  # what the views are
    n_views: int  # of each labelled image
    values: Mapping[str, Interval]  # by metric


@dataclass(frozen=True)
class Strip:
    """Pictures beside each other, one row per example image."""

    group: str  # "policies" or "operations"
    name: str  # of the policy or operation
    columns: Sequence[str]  # what each picture is
    rows: Sequence[NDArray[np.uint8]]  # (C, H, W, 3) each, one picture per column


@dataclass(frozen=True)
class AugmentPage:
    """Everything the page shows."""

    title: str
    command: str  # the command line that made it
    created: str  # date and time
    headline: str  # whether the augmentation helped to cover the pool; empty if not measured
    sentences: Sequence[str]  # what else there is to say about that
    lack: str  # why nothing was measured; empty if it was
    looked: str  # what was looked at, and with what
    clouds: Sequence[Cloud]  # that of the plain labelled images first
    plane: Mapping[str, NDArray[np.float32]]  # cloud -> (.., 2) coordinates, among them "pool"
    share: float  # of the pool's variance that the plane shows
    sheets: Sequence[Sheet]  # the holes
    strips: Sequence[Strip]  # the contact sheet
    tuning: Tuning | None = None
    warnings: Sequence[str] = ()


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
