"""Which images to label first: suggested ones, random ones, and as many random ones of each class.

python benchmarks/suggest.py elpv --keep features --out suggest.jsonl
python benchmarks/suggest.py elpv --chain --minutes 5 --threads 1 --out suggest.jsonl
python benchmarks/suggest.py --out suggest.jsonl

A draw is a random four fifths of the training images whose class is known, shared by all arms; with
K classes, 1, 2 and 4 times K of them get their labels, the others stay unlabelled. "balanced" takes
as many of each class, which nobody can who has no labels yet. The accuracy is that of the probe,
logistic regression on the frozen trunk's features, or with --chain of the teacher after
self-training. A class of which no image was chosen is missed and cannot be answered. Every (data
set, budget, seed, arm) appends one line of JSON, and lines that are there are not made again;
without a data set only the table is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import named_sets
import results
import tables
from efficiency import append_row, load, read_rows
from tutelage.augment import Center
from tutelage.chain.frozen import PROBE_STRENGTH
from tutelage.chain.run import train
from tutelage.chain.types import one_hot
from tutelage.config import DataConfig
from tutelage.data.catalog import Catalog
from tutelage.data.open import in_memory
from tutelage.data.store import open_store
from tutelage.heads.bank import look
from tutelage.heads.probe import fit_head, plain_metric, span_metric
from tutelage.models.forward import Forward
from tutelage.models.zoo import create, with_levels
from tutelage.stats.metrics import Floats, Ints, macro_f1
from tutelage.stats.suggest import first_to_label
from tutelage.training.loader import Canvases

PACKAGES = ("tutelage", "torch", "timm", "onnxruntime", "numpy")
SIZES = {"digits": 96, "fashion-mnist": 112, "cifar10": 128}  # of the views; else 224
BUDGETS = (1, 2, 4)  # images, times the number of classes
ARMS = ("suggested", "random", "balanced")
SHARE = 0.8  # of the training images, which a draw is about


@dataclass(frozen=True)
class Looked:
    """The frozen trunk's features of a catalog's images."""

    features: Floats  # (N, D): the trunk's own features first, then those of its middle stages
    own: int  # how many are its own, which the probe learns from


def limited(catalog: Catalog, most: int) -> Catalog:
    """All test images, and at most ``most`` training images whose class is known."""
    known = np.flatnonzero((catalog.splits == "train") & (catalog.labels >= 0))
    kept = np.random.default_rng(0).permutation(known)[:most]
    return catalog.select(np.union1d(kept, np.flatnonzero(catalog.splits == "test")))


def look_at(catalog: Catalog, teacher: str, size: int, keep: Path | None) -> Looked:
    """Centre views of all images through the teacher's trunk, kept in a file if one is named."""
    if keep is not None and keep.exists():
        with np.load(keep) as kept:
            return Looked(kept["features"], int(kept["own"]))
    store = open_store(catalog)
    trunk = create(teacher, catalog.classes, canvas=store.canvas, input_size=size)
    trunk.freeze_trunk()
    trunk = with_levels(trunk)
    rows = np.arange(len(catalog))
    canvases = Canvases(store, rows, torch.device("cpu"))
    forward, view = Forward(trunk, "features"), Center(trunk.spec.crop_pct)
    found = Looked(look(canvases, rows, view, forward, size).numpy(), trunk.own_features)
    if keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        np.savez(keep, features=found.features, own=found.own)
    return found


def draw(catalog: Catalog, seed: int) -> Ints:
    """The training images of one draw: positions in the catalog."""
    known = np.flatnonzero((catalog.splits == "train") & (catalog.labels >= 0))
    drawn = np.random.default_rng(seed).permutation(known)[: round(SHARE * len(known))]
    return np.sort(drawn)


def choose(arm: str, features: Floats, labels: Ints, each: int, seed: int) -> Ints:
    """Positions of ``each`` images a class among a draw's.

    Args:
        arm: one of ``ARMS``; only "balanced" looks at the labels.
        features: (N, D).
        labels: (N,) the true classes.
        each: images a class, or all in all as many as these.
        seed: of the draw.
    """
    rng = np.random.default_rng([seed, 1])
    classes = np.unique(labels)
    if arm == "suggested":
        return first_to_label(features, each * len(classes), seed=seed)[0]
    order = rng.permutation(len(labels))
    if arm == "random":
        return order[: each * len(classes)]
    return np.concatenate([order[labels[order] == k][:each] for k in classes])


def probed(looked: Looked, catalog: Catalog, pool: Ints, chosen: Ints) -> Ints:
    """Answers (T,) to the test images by ``frozen.probe``'s head on the chosen labels."""
    own = torch.from_numpy(looked.features[:, : looked.own])
    labeled = own[torch.from_numpy(chosen)]
    head = fit_head(
        labeled,
        one_hot(catalog.labels[chosen], len(catalog.classes)),
        torch.ones(len(chosen)),
        span_metric(plain_metric(own[torch.from_numpy(pool)]), labeled),
        strength=PROBE_STRENGTH,
    )
    test = torch.from_numpy(np.flatnonzero(catalog.splits == "test"))
    return head(own[test]).argmax(dim=1).numpy()


def taught(
    catalog: Catalog, pool: Ints, chosen: Ints, settings: dict[str, Any]
) -> dict[str, float]:
    """Test figures of the teacher that knows the chosen labels and the pool without labels."""
    labels = np.full_like(catalog.labels, -1)
    test = np.flatnonzero(catalog.splits == "test")
    for kept in (chosen, test):
        labels[kept] = catalog.labels[kept]
    few = dataclasses.replace(catalog, labels=labels).select(np.union1d(pool, test))
    if len(np.unique(catalog.labels[chosen])) < 2:  # the chain refuses to learn one class
        constant = np.full(len(test), catalog.labels[chosen[0]])
        return figures(constant, catalog.labels[test], len(catalog.classes))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        found = train("self-train", few, in_memory(few), out, settings, quiet=True)
    return {name: found["teacher"]["test"][name] for name in ("accuracy", "macro_f1")}


def figures(answers: Ints, labels: Ints, n_classes: int) -> dict[str, float]:
    """The accuracy of answers (T,), and the mean F1 of the classes, which a missed class lowers."""
    accuracy = float((answers == labels).mean())
    return {"accuracy": accuracy, "macro_f1": macro_f1(labels, answers, n_classes)}


def rows_of(
    options: argparse.Namespace, catalog: Catalog, looked: Looked, wanted: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """One row for each wanted (budget, seed, arm)."""
    test = catalog.labels[catalog.splits == "test"]
    for key in wanted:
        pool = draw(catalog, key["seed"])
        labels = catalog.labels[pool]
        each, seed = key["each"], key["seed"]
        chosen = pool[choose(key["arm"], looked.features[pool], labels, each, seed)]
        if options.chain:
            settings = {"seed": seed, "minutes": options.minutes, "teacher": options.teacher}
            found = taught(catalog, pool, chosen, settings)
        else:
            found = figures(probed(looked, catalog, pool, chosen), test, len(catalog.classes))
        missed = len(np.unique(labels)) - len(np.unique(catalog.labels[chosen]))
        yield {**key, **found, "missed": missed, "labels": len(chosen), "pool": len(pool)}


def measure(options: argparse.Namespace) -> None:
    """Make the rows that are not in the file."""
    rows = read_rows(options.out)
    shared = {
        "data": options.data,
        "model": "chain" if options.chain else "probe",
        "minutes": options.minutes if options.chain else None,
        "limit": options.limit,
        "test": options.test,
        "teacher": options.teacher,
    }
    wanted = [
        {**shared, "each": each, "seed": seed, "arm": arm}
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for each in options.budgets
        for arm in ARMS
    ]
    wanted = [key for key in wanted if not any(key.items() <= row.items() for row in rows)]
    if not wanted:
        return
    catalog = limited(load(options.data, options.data_dir, options.test), options.limit)
    name = f"{options.data}-{options.limit}-{options.test}-{options.teacher.replace('/', '_')}.npz"
    keep = options.keep and options.keep / name
    looked = look_at(catalog, options.teacher, SIZES.get(options.data, 224), keep)
    made = results.provenance("suggest", PACKAGES)
    made["hardware"] = {**made["hardware"], "threads": torch.get_num_threads()}
    for row in rows_of(options, catalog, looked, wanted):
        append_row({**made, **row}, options.out)
        print(
            f"{row['data']}, {row['each']} a class, seed {row['seed']}, {row['arm']}: "
            f"{row['accuracy']:.4f}, {row['missed']} classes missed",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="?", choices=named_sets.NAMES)
    parser.add_argument("--data-dir", type=Path, help="of the named sets (or $TUTELAGE_DATA)")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="images a class")
    parser.add_argument("--limit", type=int, default=4000, help="training images at most")
    parser.add_argument("--test", type=int, default=2000, help="test images at most")
    parser.add_argument("--seeds", type=int, default=5, help="how many draws")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--teacher", default=DataConfig().teacher, help="as in tutelage run")
    parser.add_argument("--chain", action="store_true", help="the whole chain, not the probe alone")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each chain")
    parser.add_argument("--threads", type=int, help="of torch (default: all cores)")
    parser.add_argument("--keep", type=Path, help="folder in which features are kept")
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl file, appended to")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.data:
        measure(options)
    model = "chain" if options.chain else "probe"
    print(tables.suggestions(read_rows(options.out), model, options.teacher))


if __name__ == "__main__":
    main()
