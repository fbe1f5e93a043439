"""Small pools of shards, and a model of a few lines to label them with.

python tests/support/pools.py OUT SECONDS SHARE IMAGES...

labels a share of them in a process of its own, to be killed, with a model that takes so long for a
batch.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tarred
from PIL import Image

from tutelage.data.shards import find_shards
from tutelage.deploy.label_files import LABELS, LabelFolder
from tutelage.deploy.pseudo_label import Labelling, label_shards
from tutelage.system.console import Console
from tutelage.system.engines import Local, Resources
from tutelage.system.process import Terminated, handled
from tutelage.system.storage import Place

CLASSES = ("red", "green", "blue")


def png(number: int, side: int = 8) -> bytes:
    """An image whose strongest colour is class ``number % 3``, more so for higher numbers."""
    pixels = np.full((side, side, 3), 40, np.uint8)
    pixels[..., number % 3] = 60 + 7 * (number % 24)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def images(count: int, first: int = 0) -> dict[str, bytes]:
    """So many of them, by name."""
    return {f"{number:05d}.png": png(number) for number in range(first, first + count)}


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar of these members."""
    return tarred.write_tar(path, list(files.items()))


def write_parquet(path: Path, files: Mapping[str, bytes], **options: Any) -> Path:
    """A Parquet file with the columns key and image."""
    import pyarrow as arrow
    from pyarrow import parquet

    columns = {"key": list(files), "image": list(files.values())}
    parquet.write_table(arrow.table(columns), path, **options)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """A folder of these files."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_pool(folder: Path, shards: int, each: int) -> Path:
    """A folder of tars."""
    folder.mkdir(parents=True)
    for number in range(shards):
        write_tar(folder / f"pool-{number:03d}.tar", images(each, number * each))
    return folder


class ByColour:
    """A model that names the strongest colour; the share of it is the confidence."""

    classes = CLASSES
    batch = 4

    def __init__(self, *, unknown_threshold: float | None = None, seconds: float = 0.0) -> None:
        """``seconds`` is what a batch takes."""
        self.unknown_threshold = unknown_threshold
        self.seconds = seconds
        self.seen = 0

    def prepare(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Mean colours (N, 3)."""
        time.sleep(self.seconds)
        return np.stack([image.reshape(-1, 3).mean(axis=0) for image in pixels])

    def finish(self, prepared: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Their shares, and minus their sum as an energy."""
        self.seen += len(prepared)
        probabilities = (prepared / prepared.sum(axis=1, keepdims=True)).astype(np.float32)
        return probabilities, -prepared.sum(axis=1)


def label(out: Path, *places: Path | str, **options: Any) -> Any:
    """Label a pool with two threads, two shards at once; the console is quiet."""
    model = options.pop("model", None) or ByColour()
    labelling = Labelling(
        LabelFolder(Place.at(out)),
        options.pop("digest", "by colour"),
        CLASSES,
        options.pop("threshold", 0.5),
        options.pop("open_model", lambda: model),
        options.pop("workers", 2),
    )
    engine = options.pop("engine", Local(2))
    options.setdefault("console", Console(quiet=True))
    return label_shards(labelling, find_shards(places), engine, Resources(), **options)[0]


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of all label files, in the order of the files' names."""
    from pyarrow import parquet

    paths = sorted((out / LABELS).glob("*.parquet"))
    return [row for path in paths for row in parquet.read_table(path).to_pylist()]


def _main(out: str, seconds: str, share: str, *places: str) -> None:
    number, of = map(int, share.split("/"))
    model = ByColour(seconds=float(seconds))
    try:
        with handled():
            label(Path(out), *places, model=model, share=(number, of))
    except Terminated:
        sys.exit(143)


if __name__ == "__main__":
    _main(*sys.argv[1:])
