"""Does ``tutelage predict`` waste time on anything but decoding and the network?

python benchmarks/predict.py RUN/student.onnx --images photos/ --count 5000 --json results.json

The command, from its start to the written file, against a bare loop in a process of its own:
Pillow's decoder to RGB and one session.run an image, in as many threads as there are cores, nothing
checked, nothing written. Both work on the same files, in turn; the ratio is of their best times,
since other work on the machine only ever adds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import results
from chain import PACKAGES
from tutelage.data.layout import image_files
from tutelage.system.process import cores


def bare(model: str, folder: Path) -> None:
    """The reference: decode and run, and nothing else."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def work(path: Path) -> np.ndarray:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        found: np.ndarray = session.run(["probabilities"], {"images": pixels[None]})[0]
        return found

    with ThreadPoolExecutor(cores()) as pool:
        answers = np.concatenate(list(pool.map(work, sorted(folder.iterdir()))))
    print(f"{len(answers)} images, mean confidence {answers.max(axis=1).mean():.4f}")


def seconds(command: list[str]) -> float:
    """Seconds of a command, from its start to its end."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="an exported model")
    parser.add_argument("--images", type=Path, required=True, help="a folder of JPEG photos")
    parser.add_argument(
        "--count", type=int, default=5000, help="files, made by repeating the photos"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", action="store_true", help="only the bare loop, once")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    if options.bare:
        bare(options.model, options.images)
        return
    photos = [p for p in image_files(options.images) if p.suffix.lower() in (".jpg", ".jpeg")]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        folder.mkdir()
        for number in range(options.count):
            content = photos[number % len(photos)].read_bytes()
            (folder / f"{number:06d}.jpg").write_bytes(content)
        ours = [sys.executable, "-m", "tutelage", "predict", options.model, str(folder)]
        theirs = [sys.executable, __file__, options.model, "--images", str(folder), "--bare"]
        times = [
            (seconds([*ours, "--out", str(Path(place) / f"{number}.csv")]), seconds(theirs))
            for number in range(options.rounds)
        ]
    best = [min(column) for column in zip(*times, strict=True)]
    result = {
        **results.provenance("predict", (*PACKAGES, "onnxruntime", "pillow")),
        "images": options.count,
        "photos": len(photos),
        "threads": cores(),
        "seconds": [[round(value, 2) for value in pair] for pair in times],
        "predict_seconds": round(best[0], 2),
        "bare_seconds": round(best[1], 2),
        "ratio": round(best[0] / best[1], 3),
    }
    results.append(result, options.json)


if __name__ == "__main__":
    main()
