"""Augmentation on a GPU: images per second, next to doing nothing but moving the bytes.

python benchmarks/augment_gpu.py --json results.json

Not run yet: nobody had a GPU. Crop, flip, RandAugment(2, 9) and normalisation of uint8 canvases to
bfloat16 views that lie on the GPU, next to peers whose views are float32, where they are installed:

- kornia: RandomResizedCrop, RandomHorizontalFlip, RandAugment(n=2, m=9) and Normalize on float32
  images that already are on the GPU as (B, C, H, W). It draws one pair of operations for the whole
  batch, tutelage one for each image.
- DALI (``nvidia-dali-cuda130``): the same in its pipeline, with a pair of each image's own.
- CV-CUDA (``cvcuda-cu13``): random resized crop and normalisation; it has no RandAugment.

and next to

- a compiled crop at a random place and normalisation, which does nothing else.
- a copy of as many bytes as canvases and views hold.

A row's rate is the median of ``--rounds``, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

import results
from augment_peers import MEAN, STD
from tutelage.augment import RandAugment, Weak, apply

SHAPES = ((1024, 32, 32), (256, 256, 224))  # batch, canvas, view
POLICY = RandAugment(2, 9.0, view=Weak())
PACKAGES = ("tutelage", "torch", "triton", "kornia", "nvidia-dali-cuda130", "cvcuda-cu13")


def on_the_clock(work: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, the host's part included."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def on_the_gpu(work: Callable[[], object], repeats: int) -> float:
    """Seconds that the GPU itself takes for one call: recorded once, then replayed."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    start.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / repeats


def rate(seconds: Callable[[], float], images: int, rounds: int) -> dict[str, float]:
    """Images per second over several rounds."""
    each = [images / seconds() for _ in range(rounds)]
    return {
        "images_per_second": round(statistics.median(each)),
        "min": round(min(each)),
        "max": round(max(each)),
    }


def crop_and_normalise(images: Tensor, tops: Tensor, lefts: Tensor, size: int) -> Tensor:
    """Views (B, 3, size, size) bfloat16 at given places of canvases (B, H, W, 3)."""
    steps = torch.arange(size, device=images.device)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    views = images[batch, (tops[:, None] + steps)[:, :, None], (lefts[:, None] + steps)[:, None]]
    mean, std = (torch.tensor(part, device=images.device) for part in (MEAN, STD))
    return ((views / 255.0 - mean) / std).to(torch.bfloat16).permute(0, 3, 1, 2).contiguous()


def kornia_work(images: Tensor, size: int) -> Callable[[], object]:
    """The closest that kornia has; see the top of this file."""
    import kornia.augmentation as kornia
    from kornia.augmentation.auto import RandAugment as KorniaRandAugment

    pipeline = kornia.AugmentationSequential(
        kornia.RandomResizedCrop((size, size), scale=Weak().scale, ratio=Weak().ratio),
        kornia.RandomHorizontalFlip(),
        KorniaRandAugment(n=2, m=9),
        kornia.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    floats = images.permute(0, 3, 1, 2).float() / 255
    return lambda: pipeline(floats)


def dali_work(images: Tensor, size: int) -> Callable[[], object]:
    """DALI's pipeline, which takes the images where they are."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import rand_augment

    @pipeline_def(batch_size=len(images), num_threads=1, device_id=0, enable_conditionals=True)
    def pipeline() -> Any:
        canvases = fn.external_source(source=lambda: images, device="gpu", layout="HWC")
        views = fn.random_resized_crop(
            canvases, size=size, random_area=Weak().scale, random_aspect_ratio=Weak().ratio
        )
        views = rand_augment.rand_augment(views, n=2, m=9, shape=(size, size))
        mean, std = ([255 * value for value in part] for part in (MEAN, STD))
        mirror = fn.random.coin_flip()
        return fn.crop_mirror_normalize(
            views, mirror=mirror, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW"
        )

    built = pipeline()
    built.build()
    return built.run


def cvcuda_work(images: Tensor, size: int) -> Callable[[], object]:
    """CV-CUDA's operators one after the other, as its samples show them."""
    import cvcuda

    mean, std = (
        cvcuda.as_tensor(torch.tensor(part, device=images.device).view(1, 1, 1, 3), "NHWC")
        for part in (MEAN, STD)
    )
    canvases, shape = cvcuda.as_tensor(images, "NHWC"), (len(images), size, size, 3)
    ranges = (*Weak().scale, *Weak().ratio)
    divided = cvcuda.NormalizeFlags.SCALE_IS_STDDEV

    def work() -> object:
        views = cvcuda.random_resized_crop(canvases, shape, *ranges, cvcuda.Interp.LINEAR, 0)
        views = cvcuda.convertto(views, np.float32, scale=1 / 255)
        return cvcuda.reformat(cvcuda.normalize(views, mean, std, flags=divided), "NCHW")

    return work


PEERS = {
    "kornia, one pair of operations a batch": kornia_work,
    "DALI": dali_work,
    "CV-CUDA, crop and normalise": cvcuda_work,
}


def peers(images: Tensor, size: int) -> dict[str, Callable[[], object]]:
    """The work of each peer that is installed; the others are named."""
    works = {}
    for name, build in PEERS.items():
        try:
            works[name] = build(images, size)
        except ImportError as error:
            print(f"left out: {name} ({error})", file=sys.stderr)
    return works


def one_shape(
    batch: int, canvas: int, size: int, repeats: int, rounds: int, device: str
) -> dict[str, Any]:
    """All rows for one batch, and tutelage's rate divided by theirs."""
    generator = Generator().manual_seed(0)
    shape = (batch, canvas, canvas, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    aspect = torch.ones(batch)
    given = {"mean": MEAN, "std": STD, "dtype": torch.bfloat16, "backend": "cuda"}
    plan = POLICY.plan(aspect, generator).to(device)

    def whole() -> Tensor:
        return apply(images, POLICY.plan(aspect, generator), size, **given)

    def kernels() -> Tensor:
        return apply(images, plan, size, **given)

    began = time.perf_counter()
    views = kernels()
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    tops, lefts = torch.randint(0, canvas - size + 1, (2, batch), generator=generator).to(device)
    compiled = torch.compile(crop_and_normalise)
    source = torch.empty(images.nbytes + views.nbytes, dtype=torch.uint8, device=device)
    half = len(source) // 2
    works: dict[str, tuple[Callable[..., float], Callable[[], object]]] = {
        "tutelage": (on_the_clock, whole),
        "tutelage, sampling alone": (
            on_the_clock, lambda: POLICY.plan(aspect, generator).to(device)
        ),
        "tutelage, kernels alone": (on_the_gpu, kernels),
        "compiled crop and normalise": (
            on_the_clock, lambda: compiled(images, tops, lefts, size)
        ),
        "copy of as many bytes": (on_the_gpu, lambda: source[:half].copy_(source[half : 2 * half])),
    }  # fmt: skip
    works |= {name: (on_the_clock, work) for name, work in peers(images, size).items()}
    rows = {}
    for name, (clock, work) in works.items():
        for _ in range(5):
            work()
        rows[name] = rate(lambda clock=clock, work=work: clock(work, repeats), batch, rounds)
    ours = rows["tutelage"]["images_per_second"]
    copied = rows["copy of as many bytes"]["images_per_second"] * len(source) / batch
    return {
        "batch": batch,
        "canvas": canvas,
        "view": size,
        "rows": rows,
        "ratio": {
            name: round(ours / row["images_per_second"], 4)
            for name, row in rows.items()
            if not name.startswith("tutelage")
        },
        "copy_gigabytes_per_second": round(copied / 1e9),  # read and written
        "first_call_seconds": round(first, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=50, help="calls of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device, torch sees none")
    result = {
        **results.provenance("augment_gpu", PACKAGES),
        "hardware": {"gpu": torch.cuda.get_device_name(), "threads": torch.get_num_threads()},
        "policy": repr(POLICY),
        "shapes": [
            one_shape(*shape, options.repeats, options.rounds, "cuda") for shape in SHAPES
        ],
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    results.append(result, options.json)


if __name__ == "__main__":
    main()
