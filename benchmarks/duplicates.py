"""How many copies are found, how many are not copies, and what the search costs.

python benchmarks/duplicates.py cifar10.parquet hymenoptera.parquet solar --json results.json
python benchmarks/duplicates.py solar --short

Of each data set, copies of some images are made in each of the ways below and put among the
images; recall is the share of them that is found. ``pairs`` are copies that the data set has
already: people must judge whether they are. ``share_of_decoding`` is processor time against that of
decoding the images. Last, how long the hashes of a million images take to compare: random ones, of
which a tenth is asked about, and 1,000 pairs are copies.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import results
from tutelage.data import duplicates
from tutelage.data.catalog import Catalog
from tutelage.data.decode import decode
from tutelage.data.demo import ByteSource, solar_cells
from tutelage.data.open import read_catalog
from tutelage.data.store import open_store


def encoded(image: Image.Image, quality: int = 90) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def resized(image: Image.Image, share: float) -> bytes:
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return encoded(image.resize(size, Image.Resampling.BICUBIC))


def brighter(image: Image.Image, factor: float) -> bytes:
    pixels = (np.asarray(image) * np.float32(factor)).clip(0, 255).astype(np.uint8)
    return encoded(Image.fromarray(pixels))


def cropped(image: Image.Image, share: float) -> bytes:
    left, top = (max(1, round(side * share)) for side in image.size)
    return encoded(image.crop((left, top, image.width, image.height)))


WAYS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 90": lambda image: encoded(image, 90),
    "JPEG 70": lambda image: encoded(image, 70),
    "JPEG 50": lambda image: encoded(image, 50),
    "size 0.9": lambda image: resized(image, 0.9),
    "size 0.7": lambda image: resized(image, 0.7),
    "size 0.5": lambda image: resized(image, 0.5),
    "darker by 0.8": lambda image: brighter(image, 0.8),
    "brighter by 1.2": lambda image: brighter(image, 1.2),
    "1% cut off": lambda image: cropped(image, 0.01),
}


def catalog_of(files: list[bytes]) -> Catalog:
    names = tuple(f"{i:06d}" for i in range(len(files)))
    labels, splits = np.zeros(len(files), dtype=np.int32), np.full(len(files), "train")
    return Catalog(names, labels, splits, ("any",), ByteSource(tuple(files)))


def measure(data: str, cache: Path, most: int, copies: int) -> dict[str, Any]:
    """Recall by way of copying, the data set's own pairs, and the cost as a share of decoding."""
    catalog = solar_cells() if data == "solar" else read_catalog(data)
    chosen = np.sort(np.random.default_rng(0).permutation(len(catalog))[:most])
    files = [catalog.source.read(int(i)) for i in chosen]
    began = time.process_time()
    store = open_store(catalog_of(files), cache=cache)
    decoded = time.process_time() - began
    rank = np.full(len(files), duplicates.LABELED)
    began = time.process_time()
    found = duplicates.find_pairs(store, rank)
    searched = time.process_time() - began
    own = {pair[:2] for pair in found}
    recall, wrong = {}, {}
    for way, make in WAYS.items():
        copied = [make(Image.fromarray(decode(file))) for file in files[:copies]]
        both = open_store(catalog_of([*files, *copied]), canvas=store.canvas, cache=cache)
        pairs = duplicates.find_pairs(both, np.full(len(files) + copies, duplicates.LABELED))
        made = {pair[:2] for pair in pairs} - own
        right = {(len(files) + i, i) for i in range(copies)}
        recall[way] = round(len(made & right) / copies, 3)
        wrong[way] = len(made - right)
    return {
        "data": Path(data).stem,
        "images": len(files),
        "canvas": store.canvas,
        "pairs": {"exact": sum(e for *_, e in found), "near": sum(not e for *_, e in found)},
        "share_of_decoding": round(searched / decoded, 3),
        "recall": recall,
        "other_pairs": wrong,
    }


def compare_hashes(count: int, asked: int) -> dict[str, Any]:
    """Seconds and memory of comparing random hashes, some of them copies."""
    hashes = np.random.default_rng(0).integers(0, 2**63, count, dtype=np.uint64)
    hashes[-1000:] = hashes[:1000]
    began = time.process_time()
    pairs = duplicates._similar(hashes, asked)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "images": count,
        "asked": asked,
        "pairs": len(pairs),
        "cpu_seconds": round(seconds, 1),
        "peak_gib": round(peak, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", help="manifests or folders, or 'solar' for the demo's")
    parser.add_argument("--short", action="store_true", help="few images: does it work?")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    most, copies, count = (200, 50, 100_000) if options.short else (5000, 300, 1_000_000)
    # First: the peak is of the whole process.
    scale = compare_hashes(count, count // 10)
    with tempfile.TemporaryDirectory() as cache:
        found = [measure(data, Path(cache), most, copies) for data in options.data]
    result = {
        **results.provenance("duplicates", ("tutelage", "numpy", "pillow")),
        "data": found,
        "scale": scale,
    }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    if scale["pairs"] < 1000:
        raise SystemExit("equal hashes were missed")


if __name__ == "__main__":
    main()
