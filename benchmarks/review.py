"""Is what a review shows first worth looking at?

python benchmarks/review.py errors cifar10 --labels-per-class 400 --wrong 0.1 --json results.json
python benchmarks/review.py suggestions cifar10 --labels-per-class 25 --seeds 5 --json results.json

errors: a share of the given labels is set to another class at random; the precision and the recall
of those that a run calls more likely wrong than right. suggestions: a run, then the next one with
the labels of the 50 images that the first suggests, or of 50 drawn at random from the same pool;
test accuracy of the teachers. Test images are read once per run, after its last decision.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch

import efficiency
import named_sets
import results
from chain import PACKAGES
from tutelage.chain.run import train
from tutelage.data.catalog import Catalog
from tutelage.data.decisions import FILE, Decision, Decisions
from tutelage.data.open import in_memory


def with_wrong_labels(catalog: Catalog, share: float, seed: int) -> Catalog:
    """The catalog with ``share`` of its training labels set to any other class at random."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero((catalog.splits == "train") & (catalog.labels >= 0))
    wrong = rng.permutation(rows)[: round(share * len(rows))]
    n_classes = len(catalog.classes)
    labels = catalog.labels.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, n_classes, len(wrong))) % n_classes
    return Catalog(catalog.names, labels, catalog.splits, catalog.classes, catalog.source)


def fit(command: str, catalog: Catalog, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The metrics.json of a run on a catalog."""
    return train(command, catalog, in_memory(catalog), out, settings, quiet=True)


def errors(options: argparse.Namespace, catalog: Catalog, seed: int) -> dict[str, Any]:
    """Precision and recall of the labels that one run calls wrong."""
    noisy = with_wrong_labels(catalog, options.wrong, seed)
    truth = dict(zip(catalog.names, catalog.labels, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        metrics = fit(options.command, noisy, out, settings(options, seed))
        rows = parquet.read_table(out / "review.parquet").to_pylist()
    given = [row for row in rows if row["given"] is not None]
    bad = np.array([catalog.classes[truth[row["image"]]] != row["given"] for row in given])
    suspicion = np.array([row["suspicion"] for row in given])
    cut = suspicion > 0.5
    return {
        "labels": len(given),
        "wrong": int(bad.sum()),
        "called_wrong": int(cut.sum()),
        "precision": float(bad[cut].mean()) if cut.any() else 0.0,
        "recall": float(cut[bad].mean()),
        "teacher": metrics["teacher"]["test"]["accuracy"],
        "kept": metrics["teacher"]["name"],
    }


def suggestions(options: argparse.Namespace, catalog: Catalog, seed: int) -> dict[str, Any]:
    """Test accuracy of the teachers without more labels, with suggested and with random ones."""
    truth = dict(zip(catalog.names, catalog.labels, strict=True))
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first"
        metrics = fit(options.command, catalog, first, settings(options, seed))
        found["before"] = metrics["teacher"]["test"]["accuracy"]
        rows = parquet.read_table(first / "review.parquet").to_pylist()
        pool = [row for row in rows if row["given"] is None]
        ranked = sorted((row for row in pool if row["next"] is not None), key=lambda r: r["next"])
        drawn = [pool[i] for i in rng.permutation(len(pool))]
        for arm, order in (("suggested", ranked), ("random", drawn)):
            place = Path(folder) / arm
            place.mkdir()
            with Decisions(place / FILE) as decisions:
                for row in order[: options.more]:
                    label = catalog.classes[truth[row["image"]]]
                    decisions.decide(Decision(row["image"], "relabel", label))
            chosen = {**settings(options, seed), "decisions": str(place)}
            metrics = fit(options.command, catalog, Path(folder) / f"{arm}-run", chosen)
            found[arm] = metrics["teacher"]["test"]["accuracy"]
    return found


def settings(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The settings of all runs of one seed."""
    return {
        "seed": seed,
        "labels_per_class": options.labels_per_class,
        "limit": options.limit,
        "minutes": options.minutes,
        "device": options.device,
    }


def summary(task: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the draws; paired differences of suggestions."""
    if task == "errors":
        return {name: results.mean([row[name] for row in rows]) for name in ("precision", "recall")}
    gains = {
        arm: results.mean([row[arm] - row["before"] for row in rows])
        for arm in ("suggested", "random")
    }
    change = results.mean([row["suggested"] - row["random"] for row in rows])
    return {**gains, "suggested_minus_random": change}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("errors", "suggestions"))
    parser.add_argument("data", choices=named_sets.NAMES)
    parser.add_argument("--limit", type=int, default=4000, help="images of the pool at most")
    parser.add_argument("--wrong", type=float, default=0.1, help="share of wrong labels")
    parser.add_argument("--more", type=int, default=50, help="labels that a review adds")
    parser.add_argument("--command", default="self-train", choices=("transfer", "self-train"))
    parser.add_argument("--minutes", type=float, default=5.0, help="of each run")
    parser.add_argument("--first-seed", type=int, default=0)
    results.add_draw_options(parser)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    catalog = efficiency.load(options.data, options.data_dir, options.test)
    work = {"errors": errors, "suggestions": suggestions}[options.task]
    rows = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        rows.append({"seed": seed, **work(options, catalog, seed)})
        print(json.dumps(rows[-1]), flush=True)
    names = ("labels_per_class", "limit", "wrong", "more", "command", "minutes", "threads")
    result = {
        **results.provenance(f"review-{options.task}", PACKAGES),
        "data": options.data,
        **{name: getattr(options, name) for name in names},
        "summary": summary(options.task, rows),
        "runs": rows,
    }
    results.append(result, options.json)


if __name__ == "__main__":
    main()
