"""Does ``tutelage watch`` notice what changes, and only that? One data set a call.

python benchmarks/watch.py digits --run runs/digits --json benchmarks/results.json
python benchmarks/watch.py digits --run runs/digits --looks looks.npz

The run's student looks once at test images as they are, and once as each disturbance leaves them.
Reference and batches are then drawn from these looks, without a common image: 200 undisturbed
batches of each size, and ``REPEATS`` of each disturbance. An alarm is one of any test, at a rate of
5% for all tests together. The new class is a class of another data set, a tenth of the batch. With
``--looks`` the looks are kept, and taken from there the next time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

import named_sets
import results
from tutelage.data.catalog import Catalog
from tutelage.data.runfolder import catalog_of
from tutelage.deploy.images import Picture, pictures_of
from tutelage.deploy.runtime import OnnxModel
from tutelage.watch.compare import compare
from tutelage.watch.look import Seen, look
from tutelage.watch.reference import Reference

Pixels: TypeAlias = NDArray[np.uint8]

RATE = 0.05
UNDISTURBED, REPEATS = 200, 25
SIZES = (25, 75, 200, 400)
IMAGES = 1200  # test images at most
REFERENCE = 500  # of these at most
POINTS = 0.2  # by which the share of a class is raised
NEW = 0.1  # share of a new class
STOP = 2.0  # of light
GAMMA = 2.2
GAINS = (1.06, 1.0, 0.94)  # of another camera's red, green and blue; with 15% more saturation
OTHERS = {
    "digits": "fashion-mnist",
    "fashion-mnist": "digits",
    "cifar10": "hymenoptera",
    "hymenoptera": "cifar10",
    "elpv": "fashion-mnist",
}
"""Data set -> the one that its new class comes from."""


def blur(image: Image.Image) -> Image.Image:
    """Gaussian; its standard deviation is a fiftieth of the short side, at least half a pixel."""
    return image.filter(ImageFilter.GaussianBlur(max(0.5, min(image.size) / 50)))


def darken(image: Image.Image) -> Image.Image:
    """A stop less light."""
    return image.point([round(value * STOP ** (-1 / GAMMA)) for value in range(256)] * 3)


def other_colours(image: Image.Image) -> Image.Image:
    """Another white balance and more saturation."""
    pixels = np.asarray(image, dtype=np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    changed = (grey + 1.15 * (pixels - grey)) * np.float32(GAINS)
    return Image.fromarray(changed.clip(0, 255).round().astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blur": blur,
    "a stop darker": darken,
    "another camera's colours": other_colours,
}


def changed(picture: Picture, change: Callable[[Image.Image], Image.Image]) -> Picture:
    """The picture as a disturbance leaves it."""
    return Picture(
        picture.name, lambda: np.asarray(change(Image.fromarray(picture.pixels())), dtype=np.uint8)
    )


@dataclasses.dataclass(frozen=True)
class Looked:
    """What the model says of N test images, undisturbed and disturbed, and of M others."""

    labels: NDArray[np.int64]  # (N,)
    plain: Seen
    disturbed: dict[str, Seen]
    new: Seen

    def batch(
        self, kind: str, rows: NDArray[np.int64], size: int, rng: np.random.Generator
    ) -> tuple[Seen, NDArray[np.int64]]:
        """A batch of ``size`` of the rows, and its labels, -1 for a new class."""
        if kind == MOVED:
            rows = moved(rows, self.labels, size, rng)
            return self.plain[rows], self.labels[rows]
        rows = rng.permutation(rows)[:size]
        if kind in self.disturbed:
            return self.disturbed[kind][rows], self.labels[rows]
        if kind == "undisturbed":
            return self.plain[rows], self.labels[rows]
        count = max(1, round(NEW * size))
        new = self.new[rng.permutation(len(self.new))[:count]]
        kept = rows[: size - count]
        both = np.concatenate([self.plain[kept], new])
        return both, np.concatenate([self.labels[kept], np.full(count, -1)])


MOVED, NEW_CLASS = "a class moved by 20 points", "a new class at 10%"
KINDS = (MOVED, *CHANGES, NEW_CLASS)


def moved(
    rows: NDArray[np.int64], labels: NDArray[np.int64], size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rows (size,) among which a class, drawn at random, is by ``POINTS`` more frequent."""
    counts = np.bincount(labels[rows])
    shares = counts / len(rows)
    wanted = counts + 1
    while (wanted > counts).any():  # no batch has an image twice
        chosen = int(rng.choice(np.flatnonzero((shares + POINTS) * size <= counts)))
        target = shares * (1 - shares[chosen] - POINTS) / (1 - shares[chosen])
        target[chosen] = shares[chosen] + POINTS
        wanted = rng.multinomial(size, target)
    mixed = rng.permutation(rows)
    return np.concatenate([mixed[labels[mixed] == k][:count] for k, count in enumerate(wanted)])


def can_move(labels: NDArray[np.int64], size: int) -> bool:
    """Whether every class has the images for a batch in which it is more frequent.

    A fifth is left over for the luck of the draw.
    """
    counts = np.bincount(labels)
    left = (1 - reference_size(len(labels)) / len(labels)) * counts
    return bool(((counts / len(labels) + POINTS) * size <= 0.8 * left).all())


def looked(model: OnnxModel, catalog: Catalog, others: Catalog) -> Looked:
    """Run the model on everything that batches are drawn from."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(np.flatnonzero(catalog.splits == "test"))[:IMAGES])
    index = {name: k for k, name in enumerate(model.classes)}
    labels = np.array([index[catalog.classes[k]] for k in catalog.labels[rows]])
    pictures = pictures_of(catalog, rows)
    one_class = np.flatnonzero(others.labels == int(others.labels.max()))[: round(NEW * max(SIZES))]
    disturbed = {
        name: look(model, [changed(picture, change) for picture in pictures])[0]
        for name, change in CHANGES.items()
    }
    plain, new = look(model, pictures)[0], look(model, pictures_of(others, one_class))[0]
    return Looked(labels, plain, disturbed, new)


def keep(data: Looked, path: Path) -> None:
    """Write the looks to a file."""
    groups = {"plain": data.plain, "new": data.new, **data.disturbed}
    np.savez_compressed(path, labels=data.labels, **groups)


def read(path: Path) -> Looked:
    """What ``keep`` wrote."""
    with np.load(path) as arrays:
        disturbed = {name: arrays[name] for name in CHANGES}
        return Looked(arrays["labels"], arrays["plain"], disturbed, arrays["new"])


def one_look(model: OnnxModel, data: Looked, kind: str, size: int, seed: int) -> dict[str, Any]:
    """Draw a reference and a batch, and compare them."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(data.labels))
    kept = rows[: reference_size(len(rows))]
    reference = Reference(
        data.plain[kept], kept, data.labels[kept], "test images", False, model.classes
    )
    batch, labels = data.batch(kind, rows[len(kept) :], size, rng)
    found = compare(reference, batch, model.unknown_threshold, RATE)
    true = np.bincount(labels[labels >= 0], minlength=len(model.classes)) / len(labels)
    known = [
        (row, share)
        for row, share in zip(found["classes"], true, strict=True)
        if row["share"] is not None
    ]
    return {
        "alarms": found["alarms"],
        "right": float((batch["predicted"] == labels).mean()),
        "accuracy": found["accuracy"],
        "share error": [abs(row["share"] - share) for row, share in known],
        "share covered": [row["low"] <= share <= row["high"] for row, share in known],
    }


def reference_size(n: int) -> int:
    """How many of n test images make a reference; batches are drawn from the others."""
    return min(REFERENCE, n // 2)


def judged(model: OnnxModel, data: Looked, kind: str, size: int, repeats: int) -> dict[str, Any]:
    """The share of looks with an alarm, which tests raised it, and how good the estimates were."""
    looks = [one_look(model, data, kind, size, seed) for seed in range(repeats)]
    names = [name for one in looks for name in one["alarms"]]
    return {
        "kind": kind,
        "size": size,
        "looks": repeats,
        "alarm": sum(bool(one["alarms"]) for one in looks) / repeats,
        "by": {name: names.count(name) / repeats for name in sorted(set(names))},
        "right": float(np.mean([one["right"] for one in looks])),
        "accuracy": accuracies([one for one in looks if one["accuracy"]["value"] is not None]),
        "shares": shares(looks),
    }


def accuracies(looks: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """How far estimated accuracies lie from the true ones; None where nothing was estimated."""
    if not looks:
        return None
    errors = [one["accuracy"]["value"] - one["right"] for one in looks]
    inside = [one["accuracy"]["low"] <= one["right"] <= one["accuracy"]["high"] for one in looks]
    return {
        "bias": float(np.mean(errors)),
        "error": float(np.mean(np.abs(errors))),
        "covered": float(np.mean(inside)),
        "believed": float(np.mean([one["accuracy"]["believed"] for one in looks])),
    }


def shares(looks: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """The same of the estimated shares of the classes."""
    errors = [error for one in looks for error in one["share error"]]
    inside = [covered for one in looks for covered in one["share covered"]]
    return {"error": float(np.mean(errors)), "covered": float(np.mean(inside))} if errors else None


def sizes(n: int) -> Sequence[int]:
    """The sizes of batches that n test images allow, the reference left out."""
    left = n - reference_size(n)
    return [size for size in SIZES if size <= left]


def with_features(run: Path, folder: Path) -> OnnxModel:
    """The run's student; written again if an earlier version wrote it without features."""
    model = OnnxModel(run / "student.onnx", threads=1)
    if model.has_features:
        return model
    from tutelage.deploy.onnx import export_onnx
    from tutelage.models.folder import load_model

    export_onnx(load_model(run / "student"), folder / "student.onnx")
    return OnnxModel(folder / "student.onnx", threads=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(OTHERS))
    parser.add_argument("--run", type=Path, required=True, help="a finished run on this data set")
    parser.add_argument("--data-dir", type=Path, help="of the data sets (or $TUTELAGE_DATA)")
    parser.add_argument("--looks", type=Path, help="an .npz file that keeps the looks")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = with_features(options.run, Path(folder))
        if options.looks and options.looks.exists():
            data = read(options.looks)
        else:
            others = named_sets.catalog(OTHERS[options.name], options.data_dir)
            data = looked(model, catalog_of(options.run), others)
            if options.looks:
                keep(data, options.looks)
    rows = []
    for size in sizes(len(data.labels)):
        rows.append(judged(model, data, "undisturbed", size, UNDISTURBED))
        kinds = [kind for kind in KINDS if kind != MOVED or can_move(data.labels, size)]
        rows += [judged(model, data, kind, size, REPEATS) for kind in kinds]
        for row in rows[-1 - len(kinds) :]:
            print(
                f"{row['size']:>4} {row['kind']:<28} alarm {row['alarm']:.3f}",
                row["by"],
                flush=True,
            )
    result = {
        **results.provenance("watch", ("tutelage", "numpy", "onnxruntime")),
        "data": options.name,
        "new": OTHERS[options.name],
        "test": len(data.labels),
        "reference": reference_size(len(data.labels)),
        "rate": RATE,
        "rows": rows,
    }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)


if __name__ == "__main__":
    main()
