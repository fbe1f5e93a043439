"""A pool half of which is of no class: is it found, and does self-training still help?

python benchmarks/foreign.py cifar10 --known 6 --labels-per-class 25 --seeds 5 --json results.json

Each draw picks the known classes, their labels, and a pool that is half theirs and half of the
other classes. The chain runs twice, with ``--out-of-class auto`` and ``keep``; test images are
those of the known classes. The AUROC is that of the distances by which the detector sorts the pool.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import named_sets
import results
from chain import PACKAGES
from efficiency import judged
from tutelage.chain import pipeline
from tutelage.chain.prepare import prepare
from tutelage.chain.run import teach
from tutelage.config import make_config
from tutelage.data.catalog import Catalog
from tutelage.stats.metrics import Floats

ARMS = ("auto", "keep")


def auroc(scores: Floats, outside: NDArray[np.bool_]) -> float:
    """The chance that an image out of class scores higher than one of a class; ties count half.

    The rank-sum statistic (Hanley and McNeil 1982). Some images (N,) must be out of class, and some
    not.
    """
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]
    n_out, n_in = int(outside.sum()), int((~outside).sum())
    return float((ranks[outside].sum() - n_out * (n_out + 1) / 2) / (n_out * n_in))


def mixed_catalog(
    catalog: Catalog, known: int, labels_per_class: int, pool: int, test: int, seed: int
) -> tuple[Catalog, NDArray[np.bool_]]:
    """A catalog of ``known`` classes with a half foreign pool.

    Args:
        catalog: all of its training images have labels.
        known: how many classes keep their name.
        labels_per_class: labels of each.
        pool: images without a label, half of them of the other classes.
        test: images of the known classes, at most.
        seed: of all draws.

    Returns:
        The catalog, and (N,) which of its images are of no class.
    """
    rng = np.random.default_rng(seed)
    classes = np.sort(rng.permutation(len(catalog.classes))[:known])
    order = rng.permutation(len(catalog))
    ours = np.isin(catalog.labels, classes)
    train = catalog.splits == "train"
    labeled = np.concatenate(
        [order[(train & (catalog.labels == k))[order]][:labels_per_class] for k in classes]
    )
    rest = order[train[order] & ~np.isin(order, labeled)]
    familiar, foreign = rest[ours[rest]][: pool // 2], rest[~ours[rest]][: pool - pool // 2]
    tested = order[(~train & ours)[order]][:test]
    rows = np.concatenate([labeled, familiar, foreign, tested])
    chosen = catalog.select(rows)
    labels = np.full(len(rows), -1, dtype=np.int32)
    named = np.isin(rows, np.concatenate([labeled, tested]))
    labels[named] = np.searchsorted(classes, chosen.labels[named])
    names = tuple(catalog.classes[k] for k in classes)
    mixed = Catalog(chosen.names, labels, chosen.splits, names, chosen.source)
    return mixed, np.isin(rows, foreign)


def one_run(
    options: argparse.Namespace,
    catalog: Catalog,
    foreign: NDArray[np.bool_],
    seed: int,
    arm: str,
    folder: Path,
) -> dict[str, Any]:
    """Test accuracy of transfer and teacher, and how well the pool was sorted."""
    settings = {
        "seed": seed,
        "minutes": options.minutes,
        "trunk": options.trunk,
        "out_of_class": arm,
        "device": options.device,
    }
    run = prepare("run", catalog, options.data, folder, make_config("run", settings), quiet=True)
    chain = pipeline.Pipeline(run)
    teach(chain, self_training=True)
    stages = {stage.name: stage for stage in chain.finished}
    found: dict[str, Any] = {
        "transfer": judged(run, stages["transfer"].outcome.model)["accuracy"],
        "teacher": judged(run, chain.teacher.outcome.model)["accuracy"],
        "kept": chain.teacher.name,
    }
    labels = stages["self-train-1"].outcome.pseudo_labels
    if arm == "auto" and labels is not None:
        truth = foreign[run.task.pool]
        found["auroc"] = auroc(labels.distances, truth)
        found["foreign_left_out"] = float(labels.outside[truth].mean())
        found["own_left_out"] = float(labels.outside[~truth].mean())
    return found


def one_seed(options: argparse.Namespace, catalog: Catalog, seed: int) -> dict[str, Any]:
    """All arms on one draw."""
    mixed, foreign = mixed_catalog(
        catalog, options.known, options.labels_per_class, options.pool, options.test, seed
    )
    row: dict[str, Any] = {"seed": seed, "classes": mixed.classes}
    for arm in ARMS:
        with tempfile.TemporaryDirectory() as folder:
            row[arm] = one_run(options, mixed, foreign, seed, arm, Path(folder) / "run")
    print(row, flush=True)
    return row


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the draws, and in pairs what self-training and the detector changed."""
    out: dict[str, Any] = {}
    names = ("transfer", "teacher", "auroc", "foreign_left_out", "own_left_out")
    for arm in ARMS:
        found = {name: [row[arm][name] for row in rows if name in row[arm]] for name in names}
        change = [row[arm]["teacher"] - row[arm]["transfer"] for row in rows]
        out[arm] = {name: results.mean(values) for name, values in found.items() if values}
        out[arm]["teacher_minus_transfer"] = results.mean(change)
    change = [row["auto"]["teacher"] - row["keep"]["teacher"] for row in rows]
    return {**out, "auto_minus_keep": results.mean(change)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=named_sets.NAMES)
    parser.add_argument("--known", type=int, default=6, help="classes that have labels")
    parser.add_argument("--pool", type=int, default=4000, help="images, half of other classes")
    parser.add_argument("--minutes", type=float, default=5.0, help="of a whole run, student too")
    parser.add_argument("--trunk", default="auto", choices=("auto", "frozen", "trained", "online"))
    results.add_draw_options(parser)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    catalog = named_sets.catalog(options.data, options.data_dir)
    rows = [one_seed(options, catalog, seed) for seed in range(options.seeds)]
    result = {
        **results.provenance("foreign", PACKAGES),
        "data": options.data,
        **{
            name: getattr(options, name)
            for name in ("known", "labels_per_class", "pool", "test", "minutes", "trunk", "threads")
        },
        "summary": summary(rows),
        "runs": rows,
    }
    results.append(result, options.json)


if __name__ == "__main__":
    main()
