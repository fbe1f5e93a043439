"""Does the measured strong view train better models than the defaults? Paired over label draws.

python benchmarks/magnitude.py DATA --labels-per-class 10 --seeds 5 --json results.json

Each draw of labels trains the same chain under four strong views: a teacher (a head over the views
of a frozen trunk, as run does on a CPU; --trunk trained trains the trunk on the labels), then a
student distilled from it on labels and pool. Split, seed, steps and sizes are the same; only the
strong view differs. "tuned" is what --augment auto chooses; where that is another arm's, its result
is that arm's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import results
from chain import PACKAGES
from tutelage.chain import measure, pipeline, tune
from tutelage.chain.plan import Work
from tutelage.chain.prepare import prepare
from tutelage.chain.run import teach, teach_student
from tutelage.config import make_config
from tutelage.data.catalog import Catalog
from tutelage.data.demo import solar_cells
from tutelage.data.open import read_catalog

ARMS: dict[str, dict[str, Any]] = {
    "randaugment": {},
    "none": {"augment": "none"},
    "trivialaugment": {"augment": "trivialaugment"},
    "tuned": {"augment": "auto"},
}
DEFAULT = "randaugment"
MODELS = ("teacher", "student")


def catalog_of(data: str) -> Catalog:
    return solar_cells() if data == "demo" else read_catalog(data)


def prepared(options: argparse.Namespace, catalog: Catalog, seed: int, arm: str, out: Path) -> Any:
    """A run of one arm whose plan is the benchmark's own."""
    settings = {
        "seed": seed,
        "labels_per_class": options.labels_per_class,
        "limit": options.limit,
        "trunk": options.trunk,
        "rounds": 0,
        "device": "cpu",
        **ARMS[arm],
    }
    config = make_config("run", settings)
    run = prepare("run", catalog, options.data, out, config, quiet=True)
    work = Work("trained", options.steps, 32, options.size, frozen_stages=3)
    run.plan = dataclasses.replace(
        run.plan,
        size=options.size,
        views=4,
        judged_folds=0,
        transfer=work if options.trunk == "trained" else Work("frozen", size=options.size),
        student=work,
        rounds=(),
    )
    run.base.spec = dataclasses.replace(run.base.spec, input_size=options.size)
    test = run.split.indices("test")
    left_out = np.random.default_rng(0).permutation(test)[options.test :]
    run.split.roles[left_out] = "unused"  # the same for every seed and arm
    return run


def one_arm(
    options: argparse.Namespace,
    catalog: Catalog,
    seed: int,
    arm: str,
    out: Path,
    known: Sequence[Any] = (),
) -> Any:
    """Test accuracy of teacher and student, the strong view, and seconds.

    Args:
        options: of the command line.
        catalog: the data.
        seed: of labels, views and training.
        arm: which strong view.
        out: a new folder.
        known: this seed's earlier results; a strong view that was trained with is not again.
    """
    began = time.perf_counter()
    run = prepared(options, catalog, seed, arm, out)
    view = tune.policy_name(**tune.settings_of(run.config.transfer))
    pinned = run.folder.read_json("config.json").get("strong_view", {})
    same = [row for row in known if row["strong_view"] == view]
    scores = {m: same[0][m] for m in MODELS} if same else trained(run)
    return {
        "seed": seed,
        "arm": arm,
        "strong_view": view,
        "reason": pinned.get("reason"),
        "search_seconds": pinned.get("seconds"),
        **scores,
        "seconds": round(time.perf_counter() - began, 1),
    }


def trained(run: Any) -> dict[str, float]:
    """Test accuracy of the teacher and of the student distilled from it."""
    chain = pipeline.Pipeline(run)
    teach(chain, self_training=False)
    teach_student(chain, [chain.finished[-1].outcome.model])
    measured, _ = measure.measure(run, chain.finished)
    scores = {stage["name"]: stage["test"]["accuracy"] for stage in measured["stages"]}
    return {"teacher": scores["transfer"], "student": scores["student"]}


def one_seed(options: argparse.Namespace, catalog: Catalog, seed: int) -> list[Any]:
    """All arms on one draw of labels."""
    rows: list[Any] = []
    for arm in ARMS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one_arm(options, catalog, seed, arm, Path(folder) / arm, rows))
        print(json.dumps({k: v for k, v in rows[-1].items() if k != "reason"}), flush=True)
    return rows


def summary(rows: Sequence[Any]) -> dict[str, Any]:
    """Mean of each arm, and its paired difference to the default with a 95% t interval."""
    out: dict[str, Any] = {}
    for arm in ARMS:
        out[arm] = {}
        for model in MODELS:
            mine, default = (
                [row[model] for row in sorted(rows, key=lambda r: r["seed"]) if row["arm"] == name]
                for name in (arm, DEFAULT)
            )
            change = [a - b for a, b in zip(mine, default, strict=True)]
            difference = results.mean(change)
            out[arm][model] = {
                "mean": results.mean(mine)["mean"],
                "each": [round(value, 4) for value in mine],
                "minus_default": difference["mean"],
                "ci95": difference["ci95"],
            }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="a folder or manifest; 'demo' takes the solar cells")
    parser.add_argument("--labels-per-class", type=int, default=10)
    parser.add_argument("--limit", type=int, default=500, help="pool images at most")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trunk", choices=("frozen", "trained"), default="frozen")
    parser.add_argument("--steps", type=int, default=100, help="of the student, and of a trunk")
    parser.add_argument("--size", type=int, default=112, help="side of the views in pixels")
    parser.add_argument("--test", type=int, default=1000, help="test images at most")
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    catalog = catalog_of(options.data)
    rows = [row for seed in range(options.seeds) for row in one_seed(options, catalog, seed)]
    result = {
        **results.provenance("magnitude", PACKAGES),
        "data": Path(options.data).name,
        "labels_per_class": options.labels_per_class,
        "limit": options.limit,
        "trunk": options.trunk,
        "steps": options.steps,
        "size": options.size,
        "test": options.test,
        "summary": summary(rows),
        "runs": rows,
    }
    print(json.dumps(result["summary"], indent=2))
    results.append(result, options.json)


if __name__ == "__main__":
    main()
