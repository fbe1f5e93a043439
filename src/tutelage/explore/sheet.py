"""The page of ``tutelage suggest``: a contact sheet of the images to label first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage import pages
from tutelage.report.html import THUMB_SIDE, encode_sheets
from tutelage.report.model import Sheet, Thumb

SHOWN = 400  # pictures at most; about as many fit into a page of 5 MB


@dataclass(frozen=True)
class SuggestPage:
    """Everything the page shows."""

    content: Mapping[str, Any]  # of suggest.json
    pictures: Sequence[NDArray[np.uint8]]  # (H, W, 3) each, of the first suggested images
    warnings: Sequence[str] = ()


def render(page: SuggestPage) -> str:
    """The whole page as text."""
    suggested = page.content["suggested"]
    captions = [row["image"] for row in suggested[: len(page.pictures)]]
    thumbs = [Thumb(image, text) for image, text in zip(page.pictures, captions, strict=True)]
    (sheet,) = encode_sheets([Sheet("", "", thumbs)])
    shown = list(zip(suggested, sheet["thumbs"], strict=False))
    context = {"page": page, "shown": shown, "left_out": len(suggested) - len(shown)}
    return pages.render("suggest.html.j2", **context)


def whole(canvas: NDArray[np.uint8], aspect: float) -> NDArray[np.uint8]:
    """A small picture of the image's true shape, width / height ``aspect``, from its canvas."""
    width, height = THUMB_SIDE * min(1.0, aspect), THUMB_SIDE * min(1.0, 1 / aspect)
    side = max(1, round(width)), max(1, round(height))
    return np.asarray(Image.fromarray(canvas).resize(side, Image.Resampling.LANCZOS))
