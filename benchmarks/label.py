"""Does ``pseudo-label`` keep its promises: constant memory, no time wasted, no death that hurts?

python benchmarks/label.py --json results.json
python benchmarks/label.py --kill --json results.json

The first labels 200,000 small images in tars and Parquet files with a student like the demo's (its
architecture and views; what one costs does not depend on its weights), samples the resident memory
of the process, and compares the whole command, from its start to its last file, with decoding alone
and with the network alone in as many threads: the ratio to the slower of the two, and to what the
cores could do if nothing but both had to be done. These are measured again and again while the
command stands still. Core-milliseconds an image say the same on a shared machine. The second kills
the command at random moments, continues it, and compares every file with those of an undisturbed
one. ``--short`` does less of either.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import random
import resource
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import results
from chain import PACKAGES
from tutelage.data.decode import decode
from tutelage.data.shards import find_shards
from tutelage.deploy.label_files import LABELS
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.process import cores

DISTINCT = 4000  # images, reused: the pool is of any size, the generator of seconds
ALONE = 2000  # images of each measurement of decoding and of the network
FLAT = 0.05  # how much the memory may differ after a fifth of the way
ENOUGH = 0.9  # of the speed of the slower part alone


def photo(rng: np.random.Generator, side: int) -> bytes:
    """A JPEG of smooth colours and some noise, about as large as a photo of its side."""
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    noisy = smooth.astype(int) + rng.integers(-12, 13, smooth.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_pool(folder: Path, photos: Sequence[bytes], count: int, each: int) -> None:
    """Shards of ``each`` images, tars and Parquet files in turn."""
    import pyarrow as arrow
    from pyarrow import parquet

    folder.mkdir()
    for number, first in enumerate(range(0, count, each)):
        numbers = range(first, min(first + each, count))
        content = [photos[i % len(photos)] for i in numbers]
        names = [f"{i:09d}.jpg" for i in numbers]
        path = folder / f"pool-{number:06d}"
        if number % 2:
            table = arrow.table({"key": names, "image": content})
            parquet.write_table(table, f"{path}.parquet", row_group_size=512, compression="none")
            continue
        with tarfile.open(f"{path}.tar", "w") as tar:
            for name, data in zip(names, content, strict=True):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_student(path: Path, view: int, canvas: int) -> None:
    """A student as ``tutelage demo`` distils it, untrained."""
    import torch

    from tutelage.deploy.onnx import export_onnx
    from tutelage.models.zoo import create, cut

    torch.manual_seed(0)
    options = {"canvas": canvas, "input_size": view, "weights": "none"}
    model = cut(create("tf_efficientnet_lite0", ["functional", "defective"], **options), 5)
    model(torch.rand(16, 3, view, view))
    torch.nn.init.normal_(model.head.weight)
    model.spec = dataclasses.replace(model.spec, unknown_threshold=0.0)
    export_onnx(model.eval(), path)


def command(model: Path, pool: Path, out: Path) -> list[str]:
    """The command line that labels a pool."""
    words = ["pseudo-label", str(model), str(pool), "--out", str(out), "--quiet"]
    return [sys.executable, "-m", "tutelage", *words]


def chunks(pool: Path, size: int) -> Iterator[list[Callable[[], bytes]]]:
    """Functions that read the images of a pool, in batches as ``label`` takes them."""
    for shard in find_shards([pool]):
        with shard.opened(threading.Event()) as entries:
            while chunk := list(itertools.islice(entries, size)):
                yield [read for _, read in chunk]


def rate(work: Callable[[Any], int], items: list[Any]) -> tuple[float, float]:
    """Images a second, and core-seconds an image, of ``work`` in as many threads as cores.

    ``work`` returns how many images it did.
    """
    began, busy = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(cores()) as threads:
        count = sum(threads.map(work, items))
    return count / (time.perf_counter() - began), (time.process_time() - busy) / count


def alone(
    model: Path, pool: Path, photos: Sequence[bytes], count: int
) -> Callable[[], tuple[tuple[float, float], tuple[float, float]]]:
    """Measures the ``rate`` of decoding alone, and of the network alone."""
    engine = OnnxModel(model, threads=1)
    size = engine.batch

    def read(chunk: list[bytes]) -> int:
        return len([decode(content) for content in chunk])

    def run(chunk: list[np.ndarray]) -> int:
        engine.prepare(chunk)
        return len(chunk)

    read_ahead = []
    for chunk in itertools.islice(chunks(pool, size), count // size):
        read_ahead.append([content() for content in chunk])
    pixels = [decode(content) for content in photos]
    starts = [start % (len(pixels) - size) for start in range(0, count, size)]
    batches = [pixels[start : start + size] for start in starts]
    return lambda: (rate(read, read_ahead), rate(run, batches))


def throughput(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Memory and speed over a large pool."""
    model, pool, out = options.model or place / "student.onnx", place / "pool", place / "out"
    rng = np.random.default_rng(0)
    photos = [photo(rng, options.side) for _ in range(DISTINCT)]
    write_pool(pool, photos, options.images, options.each)
    if options.model is None:
        write_student(model, options.view, options.view * 4 // 3)
    shards = len(find_shards([pool]))
    measure = alone(model, pool, photos, min(ALONE, options.images))
    measured = [measure()]
    # What is held, with the fraction of the shards that have labels.
    seconds, samples = results.watched(
        command(model, pool, out),
        lambda: sum(1 for _ in (out / LABELS).glob("pool-*")) / shards,
        aside=lambda: measured.append(measure()),
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured.append(measure())
    rates, costs = zip(*(zip(*one, strict=True) for one in measured), strict=True)
    decoding, network = (statistics.median(column) for column in zip(*rates, strict=True))
    cores_alone = [statistics.median(column) for column in zip(*costs, strict=True)]
    # Without the last moment, when the process gives its memory back.
    later = [held for done, held in samples if 0.2 <= done < 1]
    parts = [statistics.median(h for d, h in samples if low <= d < low + 0.2) for low in (0.2, 0.8)]
    speed = options.images / seconds
    summary = json.loads((out / "label.json").read_text())
    return {
        "images": summary["images"],
        "shards": shards,
        "side": options.side,
        "view": options.view,
        "threads": cores(),
        "seconds": round(seconds, 1),
        "images_per_second": round(speed, 1),
        "times_alone": len(measured),
        "decoding_alone": round(decoding, 1),
        "network_alone": round(network, 1),
        "ratio_to_slower": round(speed / min(decoding, network), 3),
        "ratio_to_both": round(speed * (1 / decoding + 1 / network), 3),
        "core_ms": {
            "label": round(1e3 * (used.ru_utime + used.ru_stime) / options.images, 3),
            "decoding": round(1e3 * cores_alone[0], 3),
            "network": round(1e3 * cores_alone[1], 3),
        },
        "resident_mib": [round(held / 2**20, 1) for held in (min(later), max(later))],
        "resident_growth": round(parts[1] / parts[0] - 1, 4),
        "resident_spread": round(max(later) / min(later) - 1, 4),
    }


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a folder of labels."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def killed(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Kill -9 at random moments: does the same command put everything right?"""
    model, pool = options.model or place / "small.onnx", place / "killed"
    rng = np.random.default_rng(1)
    write_pool(pool, [photo(rng, 64) for _ in range(1000)], 40 * 150, 150)
    if options.model is None:
        write_student(model, 48, 64)
    whole = place / "undisturbed"
    began = time.perf_counter()
    subprocess.run(command(model, pool, whole), check=True)
    seconds = time.perf_counter() - began
    expected = contents(whole)
    moments = random.Random(0)
    wrong: list[str] = []
    finished = []
    kills = 3 if options.short else 50
    for number in range(kills):
        out = place / f"out-{number}"
        with subprocess.Popen(command(model, pool, out)) as process:
            time.sleep(moments.uniform(0, seconds))
            process.send_signal(signal.SIGKILL)
        done = {p: p.stat().st_mtime_ns for p in out.glob(f"{LABELS}/pool-*")}
        finished.append(len(done))
        for path in done:
            if path.read_bytes() != expected[path.relative_to(out).as_posix()]:
                wrong.append(f"{number}: {path.name} is half-written")
        code = subprocess.run(command(model, pool, out)).returncode
        if code:
            wrong.append(f"{number}: the second command ended with {code}")
        if any(path.stat().st_mtime_ns != when for path, when in done.items()):
            wrong.append(f"{number}: a finished shard was labelled again")
        if contents(out) != expected:
            wrong.append(f"{number}: the files differ from those of an undisturbed command")
    return {
        "kills": kills,
        "shards": 40,
        "images": json.loads(expected["label.json"])["images"],
        "seconds_undisturbed": round(seconds, 2),
        "shards_finished_when_killed": sorted(finished),
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="an exported model (default: like the demo's)")
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--each", type=int, default=2000, help="images of a shard")
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--view", type=int, default=144, help="of the default model, in pixels")
    parser.add_argument("--kill", action="store_true", help="kill it at 50 moments instead")
    parser.add_argument("--short", action="store_true", help="1,000 images, or 3 moments")
    parser.add_argument("--json", type=Path, help="append the results to this file's list")
    options = parser.parse_args()
    if options.short:
        options.images, options.each = 1000, 50
    with tempfile.TemporaryDirectory() as place:
        found = (killed if options.kill else throughput)(options, Path(place))
    name = "label-kill" if options.kill else "label"
    result = {**results.provenance(name, (*PACKAGES, "pillow", "pyarrow")), **found}
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    failures = found.get("wrong", [])
    if not (options.kill or options.short):  # a minute says little of either
        if abs(found["resident_growth"]) > FLAT:
            failures.append("the memory is not flat")
        if found["ratio_to_slower"] < ENOUGH:
            failures.append("slower than nine tenths of the slower part alone")
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
