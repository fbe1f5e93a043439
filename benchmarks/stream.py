"""What it costs to train on images that no disk holds: speed, shuffling, memory.

python benchmarks/stream.py --json results.json
python benchmarks/stream.py --short

Shards of JPEGs are written first, sorted by class, which is the worst order to be shuffled. Then

- training steps on decoded images (a store) and on the same images streamed from the shards, in
  turn, in buffers of a few batches: so each step also decodes as many images as it uses, where the
  usual first buffers would be filled and hardly used. The ratio is of the best rounds, since other
  work on the machine only ever adds. Where the cores that train also decode, as on a CPU, ``bound``
  is what the two cost one after the other.
- how many classes a batch has, by the window that it is shuffled in, in a data set of a million
  images of a thousand classes (no image is needed for that).
- resident memory over a pass of many buffers: its peak after the first fifth of it, divided
  by its value at that point.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import results
from chain import PACKAGES
from photos import choose_photos, to_jpeg
from tutelage.augment import Strong
from tutelage.config import TrainConfig
from tutelage.data import stream
from tutelage.data.catalog import Catalog
from tutelage.data.open import read_catalog
from tutelage.data.store import ImageStore, open_store
from tutelage.models.zoo import create
from tutelage.steps.supervised import supervised_step
from tutelage.system.process import cores
from tutelage.training.loader import Canvases, Examples, Loader, Views, deal
from tutelage.training.loop import train

CLASSES = 10
BUFFER = stream.BUFFER
BATCHES = 5  # in a buffer, when speed is measured
WARM = 7  # steps that are not counted: so many are in the first buffers, of 1, 2 and 4 batches


def write_shards(folder: Path, files: Sequence[bytes], count: int, per_tar: int = 500) -> Catalog:
    """``count`` images of ``CLASSES`` classes in tars, one class after the other."""
    for start in range(0, count, per_tar):
        with tarfile.open(folder / f"train-{start // per_tar:05d}.tar", "w") as tar:
            for number in range(start, min(start + per_tar, count)):
                label = f"{number * CLASSES // count}".encode()
                for kind, content in (("jpg", files[number % len(files)]), ("cls", label)):
                    info = tarfile.TarInfo(f"{number:08d}.{kind}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return read_catalog(folder)


def loader(store: ImageStore, catalog: Catalog, batch: int, size: int, device: str) -> Loader:
    """Batches of strong views of all images with their labels."""
    rows = np.arange(len(catalog))
    targets = torch.eye(CLASSES)[torch.from_numpy(catalog.labels.astype(np.int64))]
    return Loader(
        Canvases(store, rows, torch.device(device)),
        Examples(rows, targets, torch.ones(len(rows))),
        None,
        Views(Strong(), size),
        batch_size=batch,
        labeled_per_batch=batch,
        seed=0,
    )


def training_rate(batches: Loader, options: argparse.Namespace) -> float:
    """Images a second of training."""
    ends: list[float] = []
    torch.manual_seed(0)
    model = create(
        options.architecture,
        [str(k) for k in range(CLASSES)],
        canvas=options.canvas,
        input_size=options.canvas,
        weights="none",
    )

    def timed(model: Any, batch: Any) -> Any:
        if options.device == "cuda":
            torch.cuda.synchronize()
        ends.append(time.perf_counter())
        return supervised_step(model, batch)

    settings = TrainConfig(steps=options.steps + WARM + 1)
    train(model, batches, timed, settings, device=torch.device(options.device))
    return options.batch * options.steps / (ends[-1] - ends[WARM])


def speed(catalog: Catalog, cache: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Training with a store and streamed, and decoding alone, in images a second."""
    opened = functools.partial(open_store, catalog, canvas=options.canvas, cache=cache)
    stores = {"stored": opened(budget=float("inf")), "streamed": opened(budget=0)}
    rates: dict[str, list[float]] = {name: [] for name in (*stores, "decoded")}
    images = stores["streamed"].images
    stream.BUFFER = BATCHES * options.batch * options.canvas**2 * 3
    for _ in range(options.rounds):
        for name, store in stores.items():
            batches = loader(store, catalog, options.batch, options.canvas, options.device)
            rates[name].append(training_rate(batches, options))
        some = np.arange(min(len(catalog), 2000))
        began = time.perf_counter()
        images[some]
        rates["decoded"].append(len(some) / (time.perf_counter() - began))
    best = {name: max(values) for name, values in rates.items()}
    return {
        "images_per_second": {name: round(value, 1) for name, value in best.items()},
        "ratio": round(best["streamed"] / best["stored"], 3),
        "bound": round(1 / (1 + best["stored"] / best["decoded"]), 3),
    }


def classes_in_batches(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Mean number of classes in a batch of images sorted by class, by window; 0 is all of them."""
    n, k, batch = (100_000, 100, 64) if options.short else (1_000_000, 1000, 256)
    rows = []
    for canvas in (None, 32, 96, 256):
        window = 0 if canvas is None else BUFFER // (canvas * canvas * 3)
        if options.short:
            window //= 10
        found = []
        for step in np.linspace(0, n // batch - 1, 50).astype(int).tolist():
            classes = deal(n, batch, step, (0, 0), window or None) * k // n
            found.append(len(np.unique(classes)))
        rows.append(
            {"canvas": canvas, "window": window, "classes": round(float(np.mean(found)), 1)}
        )
    return [{"images": n, "of": k, "batch": batch}, *rows]


def memory(catalog: Catalog, cache: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Resident memory over a pass in buffers of a twentieth of the images."""
    store = open_store(catalog, canvas=options.canvas, cache=cache, budget=0)
    stream.BUFFER = len(catalog) // 20 * options.canvas**2 * 3
    batches = loader(store, catalog, options.batch, 32, "cpu")
    steps = len(catalog) // options.batch
    found = [results.memory() / 2**20 for _ in zip(range(steps), batches, strict=False)]
    settled = found[steps // 5 :]
    return {
        "buffer_mib": round(stream.BUFFER / 2**20, 1),
        "buffers": 20,
        "at_a_fifth_mib": round(settled[0], 1),
        "highest_after_mib": round(max(settled), 1),
        "growth": round(max(settled) / settled[0] - 1, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", type=Path, help="photos to write shards of (default: generated)"
    )
    parser.add_argument("--count", type=int, default=20_000, help="images in the shards")
    parser.add_argument("--side", type=int, default=256, help="of the images in the shards")
    parser.add_argument("--canvas", type=int, default=128, help="of decoded images and of views")
    parser.add_argument("--architecture", default="tf_efficientnet_lite0")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--short", action="store_true", help="a minute, to see that it works")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    if options.short:
        options.count, options.steps, options.rounds, options.batch = 1000, 4, 1, 16
        options.side, options.canvas, options.architecture = 128, 64, "test_efficientnet"
    photos = choose_photos(options.images, min(options.count, 1000), options.side)
    with tempfile.TemporaryDirectory() as folder:
        shards, cache = Path(folder) / "shards", Path(folder) / "cache"
        shards.mkdir()
        catalog = write_shards(shards, to_jpeg(photos.pixels), options.count)
        result = {
            **results.provenance("stream", (*PACKAGES, "pillow")),
            "data": f"{options.count} JPEGs of {options.side} px in tars: {photos.origin}",
            "architecture": options.architecture,
            "canvas": options.canvas,
            "batch": options.batch,
            "device": options.device,
            "threads": cores(),
            **speed(catalog, cache, options),
            "shuffling": classes_in_batches(options),
            "memory": memory(catalog, cache, options),
        }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    if result["memory"]["growth"] > 0.05:
        raise SystemExit("resident memory grew by more than 5% after a fifth of the pass")


if __name__ == "__main__":
    main()
