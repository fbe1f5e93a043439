"""The data sets of the benchmarks, each as one Parquet manifest with the image bytes inside.

python benchmarks/named_sets.py fashion-mnist fashion-mnist.parquet

fashion-mnist: Xiao et al. 2017, from the Debian package dataset-fashion-mnist; its own split.
digits, elpv: those of the demo, see ``tutelage.data.demo``.
cifar10, hymenoptera: nothing installs these, so their manifests have to be there already.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage.data.catalog import Catalog
from tutelage.data.demo import digits, solar_cells
from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError, need
from tutelage.system.files import replacing

Row = tuple[str, bytes, str, str]  # name, image file, label (empty = none), split

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """An image (H, W) or (H, W, 3) as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def read_idx(path: Path) -> NDArray[np.uint8]:
    """A gzipped IDX file of bytes: two zeros, the type 8, the number of axes, their lengths."""
    with gzip.open(path) as file:
        content = file.read()
    if content[:3] != b"\0\0\x08":
        raise TutelageError(f"{path} is no IDX file of bytes: it starts with {content[:4].hex()}")
    axes = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=axes, offset=4).astype(int)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes).reshape(shape)


def fashion_mnist() -> Iterator[Row]:
    """60,000 grey images of 28 pixels for training and 10,000 for testing."""
    if not FASHION_MNIST.is_dir():
        raise TutelageError(
            f"no {FASHION_MNIST}; on Debian: apt-get install dataset-fashion-mnist, "
            "or put the manifest into --data-dir"
        )
    for split, stem in (("train", "train"), ("test", "t10k")):
        images, labels = (
            read_idx(FASHION_MNIST / f"{stem}-{kind}-ubyte.gz")
            for kind in ("images-idx3", "labels-idx1")
        )
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            yield f"{split}/{number:05d}.png", png(pixels), FASHION_CLASSES[label], split


def rows_of(catalog: Catalog) -> Iterator[Row]:
    """The images of a catalog; those without a label have an empty one."""
    for number, (name, label) in enumerate(zip(catalog.names, catalog.labels, strict=True)):
        known = catalog.classes[label] if label >= 0 else ""
        yield name, catalog.source.read(number), known, str(catalog.splits[number])


MAKERS: dict[str, Callable[[], Iterator[Row]]] = {
    "fashion-mnist": fashion_mnist,
    "digits": lambda: rows_of(digits()),
    "elpv": lambda: rows_of(solar_cells()),
}
GIVEN = ("cifar10", "hymenoptera")
NAMES = (*MAKERS, *GIVEN)


def write_manifest(rows: Iterator[Row], path: Path) -> None:
    """Write the columns file, image (bytes), label and split, atomically."""
    arrow, parquet = need("pyarrow", "train"), need("pyarrow.parquet", "train")
    columns = list(zip(*rows, strict=True))
    kinds = {
        "file": arrow.string(),
        "image": arrow.binary(),
        "label": arrow.string(),
        "split": arrow.string(),
    }
    table = arrow.table(dict(zip(kinds, columns, strict=True)), schema=arrow.schema(kinds.items()))
    with replacing(path) as partial:
        parquet.write_table(table, partial)


def data_folder(given: Path | None = None) -> Path:
    """``--data-dir``, else $TUTELAGE_DATA, else the folder ``data`` here."""
    return given or Path(os.environ.get("TUTELAGE_DATA") or Path("data"))


def catalog(name: str, folder: Path | None = None) -> Catalog:
    """One data set of ``NAMES``; a manifest that can be made is made on first use.

    Raises:
        TutelageError: an unknown name, or what it is made from is not installed.
    """
    if name not in NAMES:
        raise TutelageError(f"unknown data set '{name}'; there are {', '.join(NAMES)}")
    path = data_folder(folder) / f"{name}.parquet"
    if not path.exists():
        if name in GIVEN:
            raise TutelageError(
                f"no {path}: a table with the columns image (bytes), label and split; say where it "
                "is with --data-dir or $TUTELAGE_DATA"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(MAKERS[name](), path)
    return read_catalog(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(MAKERS))
    parser.add_argument("out", type=Path, help="a .parquet file")
    options = parser.parse_args()
    write_manifest(MAKERS[options.name](), options.out)


if __name__ == "__main__":
    main()
